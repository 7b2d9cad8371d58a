// The patches' logits of one chunk of queries, sorted by place in the image.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "decode/simd.hpp"

namespace scclip {

inline std::size_t Padded(std::size_t queries) { return (queries + kLanes - 1) / kLanes * kLanes; }

/// What the cosines of each query of a vocabulary are multiplied with, and how they are stretched then (not at all, if
/// empty): from `lowest` to `lowest + length` becomes from 0 to `scale`.
struct QueryScales {
    std::vector<float> factor, lowest, length;
    float scale = 1;
};

/// out[place[i]][q] = factor · Σ_e features[i][e] · text[queries[q]][e], stretched, for `count` feature rows of `depth`
/// values. `out` is (count, padded queries); columns past the last query hold kPadding.
void MultiplyText(const float* features, std::size_t count, std::size_t depth, const float* text,
                  const QueryScales& scales, const std::vector<std::uint32_t>& queries,
                  const std::vector<std::size_t>& place, int threads, const Simd& simd, std::vector<float>* out);

}  // namespace scclip
