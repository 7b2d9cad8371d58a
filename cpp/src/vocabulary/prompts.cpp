#include "vocabulary/prompts.hpp"

#include <algorithm>
#include <numeric>
#include <stdexcept>

namespace scclip {
namespace {

using Ids = std::vector<std::int64_t>;

// The numbers are the Python runtime's (scclip_rt/vocabulary/prompts.py).
constexpr std::size_t kWholeBatch = 64;
constexpr std::size_t kBatch = 128;   // prompts resumed together, and the most beginnings that are kept
constexpr std::size_t kPadding = 64;  // tokens that may be added to a batch to fill it up
constexpr std::size_t kLongest = 16;  // tokens of a beginning that are kept

/// How many tokens of a prompt are taken from its beginning; the last one is always computed.
std::size_t Known(const Prompt& prompt) { return std::min({prompt.beginning, kLongest, prompt.ids.size() - 1}); }

TokenRows Padded(const std::vector<Ids>& rows) {
    std::size_t length = 0;
    for (const Ids& row : rows) length = std::max(length, row.size());
    TokenRows padded{Ids(rows.size() * length), rows.size()};
    auto to = padded.ids.begin();
    for (const Ids& row : rows) {
        std::copy(row.begin(), row.end(), to);
        to += static_cast<std::ptrdiff_t>(length);
    }
    return padded;
}

}  // namespace

KnownTokens KnownTokens::Joined(const KnownTokens& other) const {
    if (lengths.empty()) return other;
    KnownTokens joined{{}, lengths, layers, heads, std::max(tokens, other.tokens), width};
    joined.lengths.insert(joined.lengths.end(), other.lengths.begin(), other.lengths.end());
    joined.values.resize(layers * 2 * joined.lengths.size() * heads * joined.tokens * width);
    float* to = joined.values.data();
    for (std::size_t part = 0; part < layers * 2; ++part) {
        for (const KnownTokens* known : {this, &other}) {
            const std::size_t rows = known->lengths.size() * heads, own = known->tokens * width;
            const float* from = known->values.data() + part * rows * own;
            for (std::size_t row = 0; row < rows; ++row, from += own, to += joined.tokens * width) {
                std::copy(from, from + own, to);
            }
        }
    }
    return joined;
}

KnownTokens TextEncoder::KeysAndValues(const TokenRows&) const {
    throw std::logic_error("this text encoder does not resume");
}

std::vector<float> TextEncoder::Resume(const TokenRows&, const KnownTokens&, const Ids&) const {
    throw std::logic_error("this text encoder does not resume");
}

std::vector<float> PromptEncoder::operator()(const std::vector<Prompt>& prompts) {
    const std::size_t most = text_.resumes() ? kBatch : kWholeBatch;
    const auto length = [&](std::size_t index) {
        const Prompt& prompt = prompts[index];
        return prompt.ids.size() - (text_.resumes() ? Known(prompt) : 0);
    };
    std::vector<std::size_t> order(prompts.size());
    std::iota(order.begin(), order.end(), std::size_t{0});
    std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return length(a) < length(b); });
    std::vector<float> vectors(prompts.size() * embed_dim_);
    for (std::size_t first = 0; first < order.size();) {
        std::vector<const Prompt*> batch;
        for (std::size_t next = first; next < order.size() && batch.size() < most; ++next) {
            if (batch.size() * (length(order[next]) - length(order[first])) > kPadding) break;
            batch.push_back(&prompts[order[next]]);
        }
        const std::vector<float> rows = Batch(batch);
        for (std::size_t row = 0; row < batch.size(); ++row) {
            const auto from = rows.begin() + static_cast<std::ptrdiff_t>(row * embed_dim_);
            std::copy(from, from + static_cast<std::ptrdiff_t>(embed_dim_),
                      vectors.begin() + static_cast<std::ptrdiff_t>(order[first + row] * embed_dim_));
        }
        first += batch.size();
    }
    return vectors;
}

std::vector<float> PromptEncoder::Batch(const std::vector<const Prompt*>& prompts) {
    std::vector<Ids> beginnings, rest;
    for (const Prompt* prompt : prompts) {
        const auto cut = prompt->ids.begin() + static_cast<std::ptrdiff_t>(text_.resumes() ? Known(*prompt) : 0);
        beginnings.emplace_back(prompt->ids.begin(), cut);
        rest.emplace_back(cut, prompt->ids.end());
    }
    if (!text_.resumes()) return text_.Encode(Padded(rest));
    Learn(beginnings);
    Ids places;
    for (const Ids& beginning : beginnings) places.push_back(place_.at(beginning));
    return text_.Resume(Padded(rest), known_, places);
}

/// Compute what is not known yet; where it would be too much, what is known is forgotten first.
void PromptEncoder::Learn(const std::vector<Ids>& beginnings) {
    const auto missing = [&] {
        std::vector<Ids> found;
        for (const Ids& beginning : beginnings) {
            const bool listed = std::find(found.begin(), found.end(), beginning) != found.end();
            if (place_.count(beginning) == 0 && !listed) found.push_back(beginning);
        }
        return found;
    };
    std::vector<Ids> added = missing();
    if (added.empty()) return;
    if (place_.size() + added.size() > kBatch) {
        place_.clear();
        known_ = {};
        added = missing();
    }
    KnownTokens known = text_.KeysAndValues(Padded(added));
    for (const Ids& beginning : added) {
        known.lengths.push_back(static_cast<std::int64_t>(beginning.size()));
        place_.emplace(beginning, static_cast<std::int64_t>(place_.size()));
    }
    known_ = known_.Joined(known);
}

}  // namespace scclip
