// The decode's two matrices with a fixed number of taps per row: the form that a GPU kernel reads (METHOD §4).
#pragma once

#include <cstdint>
#include <vector>

#include "interpolation.hpp"

namespace scclip {

/// Output pixel p is the sum over t < taps of weight[p · taps + t] · cell[index[p · taps + t]].
struct SparseAxis {
    int taps = 0;
    std::vector<std::int32_t> index;  ///< the rank of the cell by place in the image; unused taps repeat the first one
    std::vector<float> weight;        ///< unused taps have 0
    /// Where the cell of each rank lies in the logits (windows · patches, queries), in patches: the patch at rank i of
    /// the rows and rank j of the columns is rows.cells[i] + columns.cells[j].
    std::vector<std::int32_t> cells;
};

/// cells_per_window: patches of a window along the axis; window_stride, cell_stride: patches in the logits between one
/// window, or one cell, and the next along it.
SparseAxis MakeSparseAxis(const Axis& axis, int cells_per_window, int window_stride, int cell_stride);

}  // namespace scclip
