// PAMR: pixel-adaptive refinement of the resized logits by the image (METHOD §4, last paragraph).
//
// The usual form iterates on a (queries, height, width) tensor unfolded over 16 neighbours. Here the 16 weights of a
// pixel are computed once, and some maps at a time go through all steps: each weight that is read serves all of them.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "decode/best.hpp"

namespace scclip {

/// How much each neighbour of a pixel counts in one step.
struct PixelWeights {
    int height = 0, width = 0;
    std::size_t stride = 0;      ///< `width` rounded up to kLanes
    std::vector<float> weights;  ///< (height, kTaps, stride), summing to 1 over the taps
    int steps = 10;
};

/// A resized image (height, width, 3) uint8 and the model's normalisation in 0..255 units.
struct NormalizedImage {
    const std::uint8_t* pixels = nullptr;
    int height = 0, width = 0;
    std::array<float, 3> mean{}, std{1, 1, 1};
};

/// Weights from the image: a_pq = softmax_q mean_c −|x_p − x_q| / (1e-8 + 0.1·σ_p), where the normalised image x is
/// resized to `height` × `width`, bilinear, and σ is the standard deviation (n − 1) of all 18 taps, both dilations and
/// their centres; borders are replicated. Throws Error(kImage) above 34 million pixels.
PixelWeights PamrWeights(const NormalizedImage& image, int height, int width, int threads, const Simd& simd);

/// Bring the refined maps of a chunk of queries into the running best of every pixel; of equal queries the first wins.
template <typename Label>
void RefineChunk(const Chunk<Label>& chunk, const Axis& rows, const Axis& columns, const PixelWeights& pixel_weights,
                 int threads, const Simd& simd, Best<Label>* best);

}  // namespace scclip
