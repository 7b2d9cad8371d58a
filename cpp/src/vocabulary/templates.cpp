#include "vocabulary/templates.hpp"

#include <map>
#include <nlohmann/json.hpp>

#include "errors.hpp"

namespace scclip {

const std::vector<std::string>& Templates(const std::string& name) {
    static const auto sets = [] {
        auto read = nlohmann::json::parse(kTemplates).get<std::map<std::string, std::vector<std::string>>>();
        auto &surgery = read["surgery"], &imagenet = read["imagenet"];
        surgery.insert(surgery.begin(), imagenet.begin(), imagenet.end());
        return read;
    }();
    const auto found = sets.find(name);
    if (found != sets.end()) return found->second;
    ThrowVocabulary("unknown templates " + Quote(name) + "; known: imagenet, surgery, photo, none", "templates");
}

std::string Filled(const std::string& pattern, const std::string& name) {
    const std::size_t at = pattern.find("{}");
    return pattern.substr(0, at) + name + pattern.substr(at + 2);
}

}  // namespace scclip
