// Bilinear resizing of 8-bit images, bit-equal to OpenCV's INTER_LINEAR (the rule is part of the model: METHOD §1).
//
// Along an axis of n pixels that becomes m, output pixel i reads at x = float((i + 0.5) · s − 0.5), where
// s = 1 / (m / n) in double precision; k = floor(x), f = x − k in single precision. Horizontally, k < 0 becomes
// k = 0, f = 0, and k ≥ n − 1 becomes k = n − 1, f = 0; vertically only the rows' numbers are clamped, f stays.
// The weights are integers: a₁ = round(f · 2048), a₀ = round((1 − f) · 2048), halves to even.
// A row is first resized horizontally, h = a₀·p[k] + a₁·p[k + 1] (at most 255 · 2048), and two rows are then joined:
//     out = (((b₀ · (h₀ >> 4)) >> 16) + ((b₁ · (h₁ >> 4)) >> 16) + 2) >> 2.
// Exactly half the size on both axes is instead the rounded mean of four: (a + b + c + d + 2) >> 2.
#pragma once

#include <cstdint>
#include <vector>

#include "scclip/segmenter.hpp"

namespace scclip {

/// Bytes of a pixel in its first plane.
int BytesPerPixel(PixelFormat format);

/// `image` as RGB of `height` × `width` pixels, (height, width, 3) row by row.
std::vector<std::uint8_t> Resize(const ImageView& image, int height, int width);

}  // namespace scclip
