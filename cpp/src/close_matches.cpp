#include "close_matches.hpp"

#include <algorithm>
#include <cstddef>
#include <utility>

namespace scclip {
namespace {

constexpr double kCutoff = 0.6;
constexpr std::size_t kMost = 3;
constexpr std::size_t kLongest = 200;  // characters; names from here on are no typing errors

using Text = std::vector<char32_t>;

/// UTF-8 to code points; bytes that are none stay as they are.
Text CodePoints(const std::string& text) {
    Text points;
    for (const char c : text) {
        const auto byte = static_cast<unsigned char>(c);
        if ((byte & 0xC0U) == 0x80U && !points.empty()) {
            points.back() = points.back() << 6U | (byte & 0x3FU);
        } else {
            points.push_back(byte);
        }
    }
    return points;
}

struct Span {
    std::size_t a_begin, a_end, b_begin, b_end;
};

/// Characters in matching blocks: the longest one (the first of equals), and then those to its left and right.
std::size_t Matching(const Text& a, const Text& b) {
    std::size_t matching = 0;
    std::vector<Span> todo = {{0, a.size(), 0, b.size()}};
    std::vector<std::size_t> ending(b.size() + 1), before(b.size() + 1);
    while (!todo.empty()) {
        const Span span = todo.back();
        todo.pop_back();
        std::size_t length = 0, a_at = 0, b_at = 0;
        std::fill(before.begin(), before.end(), 0);
        for (std::size_t i = span.a_begin; i < span.a_end; ++i, std::swap(ending, before)) {
            ending[span.b_begin] = 0;  // [j + 1]: the length of the match that ends with a[i] and b[j]
            for (std::size_t j = span.b_begin; j < span.b_end; ++j) {
                ending[j + 1] = a[i] == b[j] ? (j > span.b_begin ? before[j] : 0) + 1 : 0;
                if (ending[j + 1] > length) length = ending[j + 1], a_at = i + 1 - length, b_at = j + 1 - length;
            }
        }
        if (length == 0) continue;
        matching += length;
        todo.push_back({span.a_begin, a_at, span.b_begin, b_at});
        todo.push_back({a_at + length, span.a_end, b_at + length, span.b_end});
    }
    return matching;
}

}  // namespace

std::vector<std::string> CloseMatches(const std::string& name, const std::vector<std::string>& names) {
    const Text wanted = CodePoints(name);
    std::vector<std::pair<double, std::string>> found;
    for (const std::string& candidate : names) {
        const Text text = CodePoints(candidate);
        const std::size_t length = wanted.size() + text.size();
        if (length == 0 || wanted.size() >= kLongest || text.size() >= kLongest) continue;
        const double ratio = 2.0 * static_cast<double>(Matching(text, wanted)) / static_cast<double>(length);
        if (ratio >= kCutoff) found.emplace_back(ratio, candidate);
    }
    std::sort(found.rbegin(), found.rend());
    std::vector<std::string> best;
    for (std::size_t i = 0; i < std::min(kMost, found.size()); ++i) best.push_back(found[i].second);
    return best;
}

}  // namespace scclip
