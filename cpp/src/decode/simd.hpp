// The decode's inner loops, compiled once for each instruction set and chosen at run time.
#pragma once

#include <cstddef>
#include <cstdint>

namespace scclip {

/// Queries come in groups of so many; a list of queries is padded to a multiple of it.
constexpr std::size_t kLanes = 16;

/// Neighbours of a pixel in PAMR, and the most maps refined at once.
constexpr std::size_t kTaps = 16, kMaxMaps = 4;

/// The value of padding: below any logit, and still finite, so that weighting it gives no NaN.
constexpr float kPadding = -1e30F;

struct Simd {
    /// c[i][0 .. lanes) = Σ_k a[i][k] · b[k][0 .. lanes), for `rows` rows; b is (depth, kLanes) row by row.
    void (*multiply)(const float* const* a, std::size_t rows, std::size_t depth, const float* b, float* const* c);

    /// out[i] = Σ_t weights[t] · sources[t][i].
    void (*combine)(const float* const* sources, const float* weights, std::size_t taps, std::size_t count, float* out);

    /// The largest of Σ_t weights[t] · sources[t][q] over q < count (a multiple of kLanes) and the first q that has it.
    float (*best)(const float* const* sources, const float* weights, std::size_t taps, std::size_t count,
                  std::uint32_t* index);

    /// As best, and *total = Σ_q exp(value_q − best); `scratch` has room for `count` values.
    float (*best_soft)(const float* const* sources, const float* weights, std::size_t taps, std::size_t count,
                       std::uint32_t* index, float* total, float* scratch);

    /// Least and greatest value of each column: low[q] and high[q] over `rows` rows of `count` values.
    void (*range)(const float* values, std::size_t rows, std::size_t count, float* low, float* high);

    /// One row of PAMR's weights. sources: for each of 3 channels the row itself and its kTaps shifted neighbours;
    /// out: (kTaps, count), for each pixel softmax_t −mean_c |neighbour − centre| / (1e-8 + 0.1 · σ_c).
    void (*pixel_weights)(const float* const* sources, std::size_t count, float* out);

    /// out[g·gap + i] = Σ_t weights[t·stride + i] · sources[t][g·gap + i], t < kTaps, g < maps ≤ kMaxMaps.
    void (*refine)(const float* weights, std::size_t stride, const float* const* sources, std::size_t gap,
                   std::size_t maps, std::size_t count, float* out);

    std::size_t rows_per_block;  ///< rows that `multiply` likes to get at once
    const char* name;
};

/// The widest set that this processor has.
const Simd& BestSimd();

/// Each set that this processor has, for tests; ends with null.
const Simd* const* AllSimd();

}  // namespace scclip
