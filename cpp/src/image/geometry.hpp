// Sizes: how an image is resized and cut into windows (METHOD §1), or taken whole (§7).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace scclip {

struct Shape {
    std::int64_t height = 0, width = 0;
};

/// How a resized image is covered by equal windows, row by row.
struct Tiling {
    int height = 0, width = 0;
    std::vector<int> rows, columns;           ///< first pixels
    int window_height = 0, window_width = 0;  ///< what a window's patches are stretched over
    int input_height = 0, input_width = 0;    ///< the part of it, from its top left corner, that the encoder gets
    int size() const { return static_cast<int>(rows.size() * columns.size()); }
};

/// Size before windows are cut: ratio kept, short side `short_side` unless the long side would pass `long_side`;
/// the short side is at least `min_side`. Rounded half up.
Shape ResizeShape(std::int64_t height, std::int64_t width, int short_side, int long_side, int min_side);

/// Size for one pass over the whole image: each side the nearest multiple of `patch`, at least six patches.
Shape WholeImageShape(std::int64_t height, std::int64_t width, int patch, int short_side, int long_side);

/// Where windows start along an axis; the last one ends at the border. length ≥ window ≥ 1, stride ≥ 1.
std::vector<int> WindowStarts(int length, int window, int stride);

/// Refuse an image of more than `max_pixels`, or of none. Throws Error(kImage).
void CheckPixels(std::int64_t height, std::int64_t width, std::int64_t max_pixels);

/// Refuse an image that would be cut into more than `max_windows`. Throws Error(kImage).
void CheckWindows(const Shape& shape, int window, int stride, std::int64_t max_windows);

}  // namespace scclip
