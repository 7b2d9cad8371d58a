#include "options.hpp"

#include <cmath>
#include <utility>

#include "errors.hpp"

namespace scclip {
namespace {

constexpr double kMostBytes = 1ULL << 50U;

// From 1e4 on, exp() of a difference of cosines is 0 or 1 in float32: a greater scale changes nothing, until it
// overflows and every pixel gets the first class.
constexpr OptionRange kRanges[] = {
    {"threads", 1, 1024, true, true},
    {"batch", 1, 65536, true, true},
    {"short_side", 1, 1 << 16, true, true},
    {"stride", 1, 1 << 16, true, true},
    {"max_pixels", 1, 1ULL << 40U, true, false},
    {"max_windows", 1, 1 << 20, true, false},
    {"max_memory", 1, kMostBytes, true, true},
    {"logit_scale", 1e-6, 1e4, false, false},
    {"prob_threshold", 0, 1, false, false},
    {"area_threshold", 0, 1, false, false},
    {"class_threshold", 0, 1, false, false},
};

}  // namespace

const OptionRange* FindRange(const std::string& name) {
    for (const OptionRange& range : kRanges) {
        if (name == range.name) return &range;
    }
    return nullptr;
}

double InRange(const std::string& name, double value) {
    const OptionRange* range = FindRange(name);
    const bool fits = range != nullptr && value >= range->least && value <= range->most &&  // NaN does not
                      (!range->whole || std::floor(value) == value);
    if (fits || (range != nullptr && range->zero_is_unset && value == 0)) return value;
    ThrowOption(name, std::string(range != nullptr && range->whole ? "must be a whole number" : "must be") + " from " +
                          Number(range == nullptr ? 0 : range->least) + " to " +
                          Number(range == nullptr ? 0 : range->most) + "; got " + Number(value));
}

void CheckRanges(const OpenOptions& options) {
    for (const auto& [name, value] : {std::pair<const char*, std::int64_t>{"threads", options.threads},
                                      {"batch", options.batch},
                                      {"short_side", options.short_side},
                                      {"stride", options.stride},
                                      {"max_pixels", options.max_pixels},
                                      {"max_windows", options.max_windows},
                                      {"max_memory", options.max_memory}}) {
        InRange(name, static_cast<double>(value));
    }
}

}  // namespace scclip
