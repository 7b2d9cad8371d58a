#include "vocabulary/tokenizer.hpp"

#include <array>
#include <nlohmann/json.hpp>
#include <stdexcept>

#include "bundle/json.hpp"
#include "errors.hpp"

namespace scclip {
namespace {

using Json = nlohmann::json;

constexpr const char* kStart = "<start_of_text>";
constexpr const char* kEnd = "<end_of_text>";
constexpr const char* kSuffix = "</w>";
// The exporter's pattern; Words below cuts text as it does.
constexpr const char* kPattern =
    R"(<start_of_text>|<end_of_text>|(?i:'s|'t|'re|'ve|'m|'ll|'d)|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+)";

[[noreturn]] void ThrowTokenizer(const std::string& problem) {
    ThrowBundle("the tokenizer can't be used: " + problem + "; export the bundle again", "tokenizer.json");
}

/// The characters that stand for bytes in the vocabulary: printable Latin-1 ones for themselves, the others from
/// U+0100.
const std::array<std::string, 256>& ByteNames() {
    static const std::array<std::string, 256> names = [] {
        std::array<std::string, 256> made;
        char32_t next = 0x100;
        for (std::size_t byte = 0; byte < 256; ++byte) {
            const bool plain = (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
            made[byte] = ToUtf8({plain ? static_cast<char32_t>(byte) : next++});
        }
        return made;
    }();
    return names;
}

/// Length of 's, 't, 're, 've, 'm, 'll or 'd at a place of lower-case text (a long s counts as s); 0 if there is none.
std::size_t Contraction(const CodePoints& text, std::size_t at) {
    const auto is = [&](std::size_t offset, char32_t c) { return at + offset < text.size() && text[at + offset] == c; };
    if (!is(0, U'\'')) return 0;
    if (is(1, U's') || is(1, 0x017F) || is(1, U't') || is(1, U'm') || is(1, U'd')) return 2;
    const bool two = (is(1, U'r') && is(2, U'e')) || (is(1, U'v') && is(2, U'e')) || (is(1, U'l') && is(2, U'l'));
    return two ? 3 : 0;
}

/// Text in the pieces that the pattern matches; all that it does not match is white space.
std::vector<std::string> Words(const CodePoints& text) {
    std::vector<std::string> words;
    const auto other = [](char32_t c) { return c != U' ' && !IsLetter(c) && !IsDigitLike(c); };
    for (std::size_t at = 0; at < text.size();) {
        std::size_t end = at + 1;
        if (const std::size_t length = Contraction(text, at)) {
            end = at + length;
        } else if (IsLetter(text[at])) {
            while (end < text.size() && IsLetter(text[end])) ++end;
        } else if (other(text[at])) {
            while (end < text.size() && other(text[end])) ++end;
        } else if (text[at] == U' ') {
            ++at;
            continue;
        }
        words.push_back(ToUtf8(CodePoints(text.begin() + static_cast<std::ptrdiff_t>(at),
                                          text.begin() + static_cast<std::ptrdiff_t>(end))));
        at = end;
    }
    return words;
}

std::string Pair(const std::string& first, const std::string& second) { return first + " " + second; }

}  // namespace

Tokenizer Tokenizer::Parse(const std::string& json) {
    Tokenizer tokenizer;
    try {
        const Json document = ParseJson(json);
        const Json &model = document.at("model"), &steps = document.at("pre_tokenizer").at("pretokenizers");
        if (model.at("type") != "BPE" || model.at("end_of_word_suffix") != kSuffix ||
            steps.at(0).at("pattern").at("Regex") != kPattern || steps.at(1).at("type") != "ByteLevel") {
            ThrowTokenizer("it is not CLIP's");
        }
        for (const auto& item : model.at("vocab").items())
            tokenizer.ids_[item.key()] = item.value().get<std::int64_t>();
        for (const Json& merge : model.at("merges")) {
            const std::size_t rank = tokenizer.ranks_.size();
            tokenizer.ranks_.emplace(merge.is_string() ? merge.get<std::string>() : Pair(merge.at(0), merge.at(1)),
                                     rank);
        }
        tokenizer.start_ = tokenizer.ids_.at(kStart);
        tokenizer.end_ = tokenizer.ids_.at(kEnd);
        for (const std::string& name : ByteNames()) tokenizer.ids_.at(name), tokenizer.ids_.at(name + kSuffix);
    } catch (const JsonError& error) {
        ThrowTokenizer(error.what());
    } catch (const nlohmann::json::exception&) {
        ThrowTokenizer("it is not CLIP's");
    } catch (const std::out_of_range&) {
        ThrowTokenizer("its vocabulary lacks bytes, or the start or the end of a text");
    }
    return tokenizer;
}

void Tokenizer::AppendWord(const std::string& word, std::vector<std::int64_t>* out) const {
    std::vector<std::string> parts;
    for (const char c : word) parts.push_back(ByteNames()[static_cast<unsigned char>(c)]);
    parts.back() += kSuffix;
    while (parts.size() > 1) {
        std::size_t best = ranks_.size(), at = 0;
        for (std::size_t i = 0; i + 1 < parts.size(); ++i) {
            const auto found = ranks_.find(Pair(parts[i], parts[i + 1]));
            if (found != ranks_.end() && found->second < best) best = found->second, at = i;
        }
        if (best == ranks_.size()) break;
        parts[at] += parts[at + 1];
        parts.erase(parts.begin() + static_cast<std::ptrdiff_t>(at) + 1);
    }
    for (const std::string& part : parts) {
        const auto id = ids_.find(part);
        if (id == ids_.end()) ThrowTokenizer("a merge makes a token that its vocabulary lacks");
        out->push_back(id->second);
    }
}

std::vector<std::int64_t> Tokenizer::Encode(const std::string& text) const {
    const std::string cleaned = Clean(text);
    if (cleaned.find(kStart) != std::string::npos || cleaned.find(kEnd) != std::string::npos) {
        ThrowVocabulary("the name " + Quote(text) + " holds a mark of the tokenizer's own", "classes");
    }
    std::vector<std::int64_t> ids = {start_};
    for (const std::string& word : Words(FromUtf8(cleaned))) AppendWord(word, &ids);
    ids.push_back(end_);
    return ids;
}

}  // namespace scclip
