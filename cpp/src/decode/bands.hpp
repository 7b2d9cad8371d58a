// The decode's two matrices as bands of fixed height: the form that the GPU kernels read (METHOD §4).
#pragma once

#include <cstdint>
#include <vector>

#include "decode/interpolation.hpp"

namespace scclip {

/// Output pixel p of block i is the sum over j < count of band[(i · band_cells + j) · block + p] · cell[first + j].
struct BandAxis {
    int blocks = 0, band_cells = 0;  ///< band_cells: of the block that reads the most
    std::vector<std::int32_t> span;  ///< `first`, by rank of place in the image, and `count` of each block
    std::vector<float> band;         ///< 0 beyond a block's own cells and beyond the last pixel
    /// Where the cell of each rank lies in the logits (windows · patches, queries), in patches: the patch at rank i of
    /// the rows and rank j of the columns is rows.cells[i] + columns.cells[j].
    std::vector<std::int32_t> cells;
};

/// block: output pixels of a block; cells_per_window: patches of a window along the axis; window_stride, cell_stride:
/// patches in the logits between one window, or one cell, and the next along it.
BandAxis MakeBandAxis(const Axis& axis, int block, int cells_per_window, int window_stride, int cell_stride);

}  // namespace scclip
