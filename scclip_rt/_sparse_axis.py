"""The decode's two matrices with a fixed number of taps per row: the form that a GPU kernel reads (METHOD §4).

`Axis` keeps dense tiles because a CPU is fastest at small matrix products; here every output row (or
column) of pixels has its few cells and their weights, padded to one count. Nothing is approximated: the
taps are `Axis`'s own non-zero weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from scclip_rt._interpolation import Axis

if TYPE_CHECKING:
    from scclip_rt.decode import DecodePlan


@dataclass(frozen=True, slots=True, kw_only=True)
class SparseAxis:
    """One axis of the decode: output pixel p is the sum over t of weight[p, t] · cell[rank[p, t]].

    Attributes:
        rank: (length, taps) int32, which cell each tap reads: its rank by place in the image. Unused taps
        repeat the
            first one.
        weight: (length, taps) float32; unused taps have 0. cells: (cells,) int32, where the cell of each
        rank lies in the window logits (windows, N, Q), in patches: the
            patch at rank i of the rows and rank j of the columns is patch `rows.cells[i] +
            columns.cells[j]` of the logits reshaped to (windows · N, Q).
    """

    rank: NDArray[np.int32]
    weight: NDArray[np.float32]
    cells: NDArray[np.int32]

    @property
    def taps(self) -> int:
        """Taps per output pixel."""
        return int(self.rank.shape[1])

    def matrix(self) -> NDArray[np.float32]:
        """Dense (length, cells) float32, cells by place: for tests."""
        dense = np.zeros((len(self.rank), len(self.cells)), np.float32)
        np.add.at(dense, (np.arange(len(self.rank))[:, None], self.rank), self.weight)
        return dense


def sparse_axis(axis: Axis, *, cells_per_window: int, window_stride: int, cell_stride: int) -> SparseAxis:
    """Return `axis` with a fixed number of taps.

    Args:
        axis: tiles of dense weights, see `interpolation_axis`.
        cells_per_window: patches per window along this axis.
        window_stride: patches between one window and the next along this axis, in the logits.
        cell_stride: patches between one cell and the next along this axis, in the logits.

    Returns:
        Its taps: as many per pixel as the pixel with the most needs.
    """
    counts = [np.count_nonzero(tile.weights, axis=1) for tile in axis.tiles]
    taps = max(int(count.max()) for count in counts)
    rank = np.zeros((axis.length, taps), np.int32)
    weight = np.zeros((axis.length, taps), np.float32)
    for tile, count in zip(axis.tiles, counts, strict=True):
        width = min(taps, tile.weights.shape[1])
        order = np.argsort(tile.weights == 0, axis=1, kind="stable")[:, :width]  # non-zero first, by place
        used = np.arange(width) < count[:, None]
        rows = slice(tile.start, tile.stop)
        weight[rows, :width] = np.take_along_axis(tile.weights, order, axis=1)
        rank[rows] = tile.first + order[:, :1]
        rank[rows, :width] = tile.first + np.where(used, order, order[:, :1])
    window, cell = np.divmod(axis.order, cells_per_window)
    return SparseAxis(
        rank=rank, weight=weight, cells=(window * window_stride + cell * cell_stride).astype(np.int32)
    )


def sparse_plan(plan: DecodePlan) -> tuple[SparseAxis, SparseAxis]:
    """Both axes of a plan, (rows, columns), for logits of its windows in their usual order.

    Not cached: who uploads them keeps the device's copy.

    Raises:
        ValueError: the plan's logits have more patches than an int32 can count.
    """
    (window_rows, window_columns), (grid_rows, grid_columns) = plan.windows, plan.grid
    patches = grid_rows * grid_columns
    if window_rows * window_columns * patches > np.iinfo(np.int32).max:
        raise ValueError(f"{window_rows * window_columns:,} windows of {patches:,} patches are too many")
    rows = sparse_axis(
        plan.rows,
        cells_per_window=grid_rows,
        window_stride=window_columns * patches,
        cell_stride=grid_columns,
    )
    columns = sparse_axis(plan.columns, cells_per_window=grid_columns, window_stride=patches, cell_stride=1)
    return rows, columns
