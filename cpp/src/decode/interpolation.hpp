// The separable map from window patches to output pixels (METHOD §4), one axis at a time.
#pragma once

#include <cstddef>
#include <vector>

namespace scclip {

/// Where bilinear resizing reads an output pixel from, along one axis.
struct Sample {
    int low, high;
    double fraction;  ///< weight of `high`
};

/// The sample of output pixel `position` (align_corners=False, edges clamped).
Sample BilinearSample(int position, int out_length, int in_length);

/// A cell (one patch row or column of one window) and its part in an output pixel.
struct CellWeight {
    int cell;  ///< in order of place, see Axis
    float weight;
};

/// Output pixels start..stop and the run of cells, first..last, that they are made of.
struct Tile {
    int start, stop, first, last;
};

/// One axis of the decode: output pixel i is the weighted sum of the cells weights[begin[i]] .. [begin[i + 1]].
///
/// Window `i`'s cells are i·g .. i·g + g − 1; sorted by place in the image, those that neighbouring output pixels need
/// are neighbours in memory. rank[cell] is a cell's number in that order, which `weights` uses.
struct Axis {
    std::vector<int> rank;
    std::vector<CellWeight> weights;
    std::vector<std::size_t> begin;
    std::vector<Tile> tiles;
    int cells() const { return static_cast<int>(rank.size()); }
    int length() const { return static_cast<int>(begin.size()) - 1; }
};

/// Patches → window (bilinear) → mean over the windows that cover a pixel → original size (bilinear).
///
/// starts: first pixel of each window along the resized image's axis of `resized` pixels; window: its side; cells:
/// patches per window; length: pixels of the output; tile: output pixels per tile; padding: pixels that the encoder
/// added to a window, half of them (rounded down) before it, and that are cut away again.
Axis InterpolationAxis(const std::vector<int>& starts, int window, int cells, int resized, int length, int tile,
                       int padding = 0);

}  // namespace scclip
