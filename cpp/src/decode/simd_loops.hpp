// The loops behind Simd. Included by simd_*.cpp, each compiled for one instruction set, with SIMD_NAME,
// SIMD_TEXT, SIMD_ROWS and SIMD_WIDTH (floats in a register) set. Nothing here may call an inline function of
// another header: the linker keeps one copy of those, and it could be the one compiled for instructions that this
// processor lacks.
#include <cstddef>
#include <cstdint>

#include "decode/simd.hpp"

namespace scclip {
namespace {

// As wide as the registers: GCC 12 keeps wider vectors in memory, which made AVX2 slower than plain SSE.
constexpr std::size_t kWidth = SIMD_WIDTH;
constexpr std::size_t kVectors = kLanes / kWidth;
typedef float Floats __attribute__((vector_size(kWidth * sizeof(float))));
typedef std::int32_t Ints __attribute__((vector_size(kWidth * sizeof(std::int32_t))));

inline Floats Load(const float* from) {
    Floats value;
    __builtin_memcpy(&value, from, sizeof value);
    return value;
}

inline void Store(float* to, Floats value) { __builtin_memcpy(to, &value, sizeof value); }

inline Floats All(float value) { return value - Floats{}; }

template <int kRows>
void MultiplyRows(const float* const* a, std::size_t depth, const float* b, float* const* c) {
    Floats sum[kRows][kVectors] = {};
    for (std::size_t k = 0; k < depth; ++k) {
        Floats right[kVectors];
#pragma GCC unroll 8
        for (std::size_t v = 0; v < kVectors; ++v) right[v] = Load(b + k * kLanes + v * kWidth);
#pragma GCC unroll 8
        for (int row = 0; row < kRows; ++row) {
            const Floats left = All(a[row][k]);
#pragma GCC unroll 8
            for (std::size_t v = 0; v < kVectors; ++v) sum[row][v] += left * right[v];
        }
    }
#pragma GCC unroll 8
    for (int row = 0; row < kRows; ++row) {
#pragma GCC unroll 8
        for (std::size_t v = 0; v < kVectors; ++v) Store(c[row] + v * kWidth, sum[row][v]);
    }
}

void Multiply(const float* const* a, std::size_t rows, std::size_t depth, const float* b, float* const* c) {
    std::size_t row = 0;
    for (; row + SIMD_ROWS <= rows; row += SIMD_ROWS) MultiplyRows<SIMD_ROWS>(a + row, depth, b, c + row);
    for (; row < rows; ++row) MultiplyRows<1>(a + row, depth, b, c + row);
}

inline Floats Sum(const float* const* sources, const float* weights, std::size_t taps, std::size_t at) {
    Floats sum = weights[0] * Load(sources[0] + at);
    for (std::size_t t = 1; t < taps; ++t) sum += weights[t] * Load(sources[t] + at);
    return sum;
}

void Combine(const float* const* sources, const float* weights, std::size_t taps, std::size_t count, float* out) {
    for (std::size_t i = 0; i < count; i += kWidth) Store(out + i, Sum(sources, weights, taps, i));
}

/// The largest lane and the least index among those that have it.
inline float Reduce(Floats best, Ints group, std::uint32_t* index) {
    float value = best[0];
    constexpr auto kStep = static_cast<std::uint32_t>(kWidth);
    std::uint32_t at = static_cast<std::uint32_t>(group[0]) * kStep;
    for (std::uint32_t lane = 1; lane < kStep; ++lane) {
        const std::uint32_t candidate = static_cast<std::uint32_t>(group[lane]) * kStep + lane;
        const bool better = best[lane] > value || (best[lane] == value && candidate < at);
        value = better ? best[lane] : value;
        at = better ? candidate : at;
    }
    *index = at;
    return value;
}

float FindBest(const float* const* sources, const float* weights, std::size_t taps, std::size_t count,
               std::uint32_t* index) {
    Floats best = Sum(sources, weights, taps, 0);
    Ints group = {};
    Ints number = {};
    for (std::size_t i = kWidth; i < count; i += kWidth) {
        const Floats value = Sum(sources, weights, taps, i);
        number += 1;
        const Ints better = value > best;
        best = better ? value : best;
        group = better ? number : group;
    }
    return Reduce(best, group, index);
}

/// exp(x) for x ≤ 0, to 2 units in the last place; what is under e⁻⁸⁷ counts as that.
inline Floats Exp(Floats x) {
    x = x > -87.0F ? x : All(-87.0F);
    const float kShift = 12582912.0F;  // 1.5 · 2²³: adding it rounds to a whole number
    const Floats whole = (x * 1.44269504F + kShift) - kShift;
    const Floats rest = (x - whole * 0.693359375F) + whole * 2.12194440e-4F;
    Floats sum = rest * 1.9875691500e-4F + 1.3981999507e-3F;
    sum = sum * rest + 8.3334519073e-3F;
    sum = sum * rest + 4.1665795894e-2F;
    sum = sum * rest + 1.6666665459e-1F;
    sum = sum * rest + 5.0000001201e-1F;
    sum = sum * rest * rest + rest + 1.0F;
    const Ints power = (__builtin_convertvector(whole, Ints) + 127) << 23;
    Floats factor;
    __builtin_memcpy(&factor, &power, sizeof factor);
    return sum * factor;
}

float FindBestSoft(const float* const* sources, const float* weights, std::size_t taps, std::size_t count,
                   std::uint32_t* index, float* total, float* scratch) {
    Combine(sources, weights, taps, count, scratch);
    const float one = 1.0F;
    const float* const values[1] = {scratch};
    const float best = FindBest(values, &one, 1, count, index);
    Floats sum = {};
    for (std::size_t i = 0; i < count; i += kWidth) sum += Exp(Load(scratch + i) - best);
    float all = 0;
    for (std::size_t lane = 0; lane < kWidth; ++lane) all += sum[lane];
    *total = all;
    return best;
}

void Range(const float* values, std::size_t rows, std::size_t count, float* low, float* high) {
    for (std::size_t i = 0; i < count; i += kWidth) {
        Floats least = Load(values + i), greatest = least;
        for (std::size_t row = 1; row < rows; ++row) {
            const Floats value = Load(values + row * count + i);
            least = value < least ? value : least;
            greatest = value > greatest ? value : greatest;
        }
        Store(low + i, least);
        Store(high + i, greatest);
    }
}

inline Floats Root(Floats x) {
    for (std::size_t lane = 0; lane < kWidth; ++lane) x[lane] = __builtin_sqrtf(x[lane]);
    return x;
}

inline Floats Absolute(Floats x) { return x < 0.0F ? -x : x; }

/// Add one channel's −|neighbour − centre| / (3 · (1e-8 + 0.1 · σ)) to each tap's sum.
inline void AddChannel(const float* const* sources, std::size_t at, Floats* sums) {
    // Deviations from the centre, not from 0: no cancellation, and flat regions give exactly 0.
    const Floats centre = Load(sources[0] + at);
    Floats difference[kTaps];
    Floats total = {}, squares = {};
    for (std::size_t t = 0; t < kTaps; ++t) {
        difference[t] = Load(sources[t + 1] + at) - centre;
        total += difference[t];
        squares += difference[t] * difference[t];
    }
    constexpr float kCount = 18;  // both dilations with their centres
    Floats variance = (squares - total * total / kCount) / (kCount - 1);
    variance = variance > 0.0F ? variance : Floats{};
    const Floats scale = -1.0F / (3.0F * (1e-8F + 0.1F * Root(variance)));
    for (std::size_t t = 0; t < kTaps; ++t) sums[t] += Absolute(difference[t]) * scale;
}

void RowWeights(const float* const* sources, std::size_t count, float* out) {
    for (std::size_t i = 0; i < count; i += kWidth) {
        Floats sums[kTaps] = {};
        for (std::size_t channel = 0; channel < 3; ++channel) AddChannel(sources + channel * (kTaps + 1), i, sums);
        Floats largest = sums[0], total = {};
        for (std::size_t t = 1; t < kTaps; ++t) largest = sums[t] > largest ? sums[t] : largest;
        for (std::size_t t = 0; t < kTaps; ++t) {
            sums[t] = Exp(sums[t] - largest);
            total += sums[t];
        }
        for (std::size_t t = 0; t < kTaps; ++t) Store(out + t * count + i, sums[t] / total);
    }
}

template <std::size_t kMaps>
void RefineMaps(const float* weights, std::size_t stride, const float* const* sources, std::size_t gap,
                std::size_t count, float* out) {
    for (std::size_t i = 0; i < count; i += kWidth) {
        Floats sums[kMaps] = {};
#pragma GCC unroll 16
        for (std::size_t t = 0; t < kTaps; ++t) {
            const Floats weight = Load(weights + t * stride + i);
#pragma GCC unroll 4
            for (std::size_t g = 0; g < kMaps; ++g) sums[g] += weight * Load(sources[t] + g * gap + i);
        }
        for (std::size_t g = 0; g < kMaps; ++g) Store(out + g * gap + i, sums[g]);
    }
}

void Refine(const float* weights, std::size_t stride, const float* const* sources, std::size_t gap, std::size_t maps,
            std::size_t count, float* out) {
    static_assert(kMaxMaps == 4, "one case for each number of maps");
    if (maps == 1) return RefineMaps<1>(weights, stride, sources, gap, count, out);
    if (maps == 2) return RefineMaps<2>(weights, stride, sources, gap, count, out);
    if (maps == 3) return RefineMaps<3>(weights, stride, sources, gap, count, out);
    RefineMaps<4>(weights, stride, sources, gap, count, out);
}

}  // namespace

extern const Simd SIMD_NAME;
const Simd SIMD_NAME = {Multiply, Combine, FindBest, FindBestSoft, Range, RowWeights, Refine, SIMD_ROWS, SIMD_TEXT};

}  // namespace scclip
