#include "vocabulary/classes.hpp"

#include <algorithm>
#include <map>

#include "errors.hpp"
#include "vocabulary/clean.hpp"

namespace scclip {
namespace {

std::vector<std::string> Split(const std::string& text, const char* separators) {
    std::vector<std::string> parts;
    for (std::size_t start = 0; start <= text.size();) {
        const std::size_t end = std::min(text.find_first_of(separators, start), text.size());
        parts.push_back(OneLine(text.substr(start, end - start), std::string::npos));
        start = end + 1;
    }
    return parts;
}

}  // namespace

ClassNames ParseClasses(const std::string& list) {
    ClassNames classes;
    for (const std::string& entry : Split(list, ";\n")) {
        if (entry.empty()) continue;
        std::vector<std::string> names = Split(entry, ",");
        if (names.size() > 1 && names.back().empty()) names.pop_back();  // a trailing comma
        classes.push_back(std::move(names));
    }
    return CheckedClasses(classes);
}

ClassNames CheckedClasses(const ClassNames& classes) {
    if (classes.empty()) ThrowVocabulary("no classes: give names such as \"sky; grass, lawn\"", "classes");
    ClassNames checked;
    std::map<std::string, std::size_t> owners;
    for (std::size_t index = 0; index < classes.size(); ++index) {
        checked.emplace_back();
        for (const std::string& name : classes[index]) {
            const std::string key = Key(name);
            if (key.empty()) ThrowVocabulary("class " + std::to_string(index + 1) + " has an empty name", "classes");
            const auto [owner, is_new] = owners.emplace(key, index);
            if (owner->second != index) {
                ThrowVocabulary(Quote(name) + " is in class " + std::to_string(owner->second + 1) + " and in class " +
                                    std::to_string(index + 1) + ": remove it from one of them",
                                "classes");
            }
            if (is_new) checked.back().push_back(name);
        }
        if (checked.back().empty()) ThrowVocabulary("class " + std::to_string(index + 1) + " has no name", "classes");
    }
    return checked;
}

std::optional<std::int64_t> FindBackground(const std::vector<std::string>& classes, const std::string& background) {
    const std::string wanted = Key(background);
    const auto found =
        std::find_if(classes.begin(), classes.end(), [&](const std::string& name) { return Key(name) == wanted; });
    if (found != classes.end()) return found - classes.begin();
    if (wanted == "none") return std::nullopt;
    ThrowVocabulary(
        "no class is called " + Quote(background) + ": give a class's first name, or none for no background",
        "background");
}

}  // namespace scclip
