#include "decode/bands.hpp"

#include <algorithm>

namespace scclip {

BandAxis MakeBandAxis(const Axis& axis, int block, int cells_per_window, int window_stride, int cell_stride) {
    BandAxis banded;
    banded.blocks = (axis.length() + block - 1) / block;
    const auto pixel_begin = [&](int index) {
        return axis.begin[static_cast<std::size_t>(std::min(index * block, axis.length()))];
    };
    for (int i = 0; i < banded.blocks; ++i) {
        int first = axis.cells(), last = 0;
        for (std::size_t t = pixel_begin(i); t < pixel_begin(i + 1); ++t) {
            if (axis.weights[t].weight == 0) continue;
            first = std::min(first, axis.weights[t].cell);
            last = std::max(last, axis.weights[t].cell + 1);
        }
        banded.span.push_back(first);
        banded.span.push_back(last - first);
        banded.band_cells = std::max(banded.band_cells, last - first);
    }
    banded.band.resize(static_cast<std::size_t>(banded.blocks) * static_cast<std::size_t>(banded.band_cells) *
                       static_cast<std::size_t>(block));
    for (int p = 0; p < axis.length(); ++p) {
        const int i = p / block, first = banded.span[static_cast<std::size_t>(2 * i)];
        for (std::size_t t = axis.begin[static_cast<std::size_t>(p)]; t < axis.begin[static_cast<std::size_t>(p) + 1];
             ++t) {
            if (axis.weights[t].weight == 0) continue;
            const auto line = static_cast<std::size_t>(i) * static_cast<std::size_t>(banded.band_cells) +
                              static_cast<std::size_t>(axis.weights[t].cell - first);
            banded.band[line * static_cast<std::size_t>(block) + static_cast<std::size_t>(p % block)] +=
                axis.weights[t].weight;
        }
    }
    banded.cells.resize(axis.rank.size());
    for (int cell = 0; cell < axis.cells(); ++cell) {
        banded.cells[static_cast<std::size_t>(axis.rank[static_cast<std::size_t>(cell)])] =
            cell / cells_per_window * window_stride + cell % cells_per_window * cell_stride;
    }
    return banded;
}

}  // namespace scclip
