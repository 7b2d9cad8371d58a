#include "decode/logits.hpp"

#include <algorithm>

#include "decode/threads.hpp"

namespace scclip {
namespace {

constexpr std::size_t kRowsPerTask = 48;  // a multiple of what each kernel takes at once; its rows stay in the L2 cache

/// Scaled text in panels of kLanes queries, each (depth, kLanes).
std::vector<float> Panels(const float* text, std::size_t depth, const std::vector<float>& factors,
                          const std::vector<std::uint32_t>& queries) {
    std::vector<float> panels(Padded(queries.size()) * depth, 0.0F);
    for (std::size_t q = 0; q < queries.size(); ++q) {
        float* panel = panels.data() + q / kLanes * kLanes * depth + q % kLanes;
        const float* row = text + queries[q] * depth;
        const float factor = factors[queries[q]];
        for (std::size_t k = 0; k < depth; ++k) panel[k * kLanes] = row[k] * factor;
    }
    return panels;
}

}  // namespace

void MultiplyText(const float* features, std::size_t count, std::size_t depth, const float* text,
                  const QueryScales& scales, const std::vector<std::uint32_t>& queries,
                  const std::vector<std::size_t>& place, int threads, const Simd& simd, std::vector<float>* out) {
    const std::size_t padded = Padded(queries.size());
    const std::vector<float> panels = Panels(text, depth, scales.factor, queries);
    out->resize(count * padded);
    Parallel((count + kRowsPerTask - 1) / kRowsPerTask, threads, [&](std::size_t task) {
        const std::size_t first = task * kRowsPerTask, rows = std::min(kRowsPerTask, count - first);
        const float* from[kRowsPerTask];
        float* to[kRowsPerTask];
        for (std::size_t panel = 0; panel < padded; panel += kLanes) {
            for (std::size_t i = 0; i < rows; ++i) {
                from[i] = features + (first + i) * depth;
                to[i] = out->data() + place[first + i] * padded + panel;
            }
            simd.multiply(from, rows, depth, panels.data() + panel * depth, to);
        }
        for (std::size_t i = 0; i < rows; ++i) {
            float* row = out->data() + place[first + i] * padded;
            for (std::size_t q = 0; !scales.lowest.empty() && q < queries.size(); ++q) {
                // Not by a factor: x / x is 1, so that maps tie where several are at their highest.
                row[q] = (row[q] - scales.lowest[queries[q]]) / scales.length[queries[q]] * scales.scale;
            }
            std::fill(row + queries.size(), row + padded, kPadding);
        }
    });
}

}  // namespace scclip
