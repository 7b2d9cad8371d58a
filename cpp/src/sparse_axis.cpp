#include "sparse_axis.hpp"

#include <algorithm>

namespace scclip {

SparseAxis MakeSparseAxis(const Axis& axis, int cells_per_window, int window_stride, int cell_stride) {
    SparseAxis sparse;
    const std::size_t length = static_cast<std::size_t>(axis.length());
    std::size_t taps = 0;
    for (std::size_t p = 0; p < length; ++p) taps = std::max(taps, axis.begin[p + 1] - axis.begin[p]);
    sparse.taps = static_cast<int>(taps);
    sparse.index.resize(length * taps);
    sparse.weight.resize(length * taps);
    for (std::size_t p = 0; p < length; ++p) {
        const std::size_t used = axis.begin[p + 1] - axis.begin[p];
        for (std::size_t t = 0; t < taps; ++t) {
            const CellWeight& tap = axis.weights[axis.begin[p] + (t < used ? t : 0)];
            sparse.index[p * taps + t] = tap.cell;
            sparse.weight[p * taps + t] = t < used ? tap.weight : 0;
        }
    }
    sparse.cells.resize(axis.rank.size());
    for (int cell = 0; cell < axis.cells(); ++cell) {
        sparse.cells[static_cast<std::size_t>(axis.rank[static_cast<std::size_t>(cell)])] =
            cell / cells_per_window * window_stride + cell % cells_per_window * cell_stride;
    }
    return sparse;
}

}  // namespace scclip
