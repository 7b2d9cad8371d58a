"""The decode's two matrices as bands of fixed height: the form that the GPU kernels read (METHOD §4).

`Axis` keeps tiles whose heights suit a CPU's small matrix products. A GPU program takes a fixed run of output pixels
(a block) and reads the few cells that any of them needs: one run of cells per block, with dense weights. Nothing is
approximated: the weights are `Axis`'s own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from scclip_rt.decode.interpolation import Axis

if TYPE_CHECKING:
    from scclip_rt.decode.plan import DecodePlan


@dataclass(frozen=True, slots=True, kw_only=True)
class BandAxis:
    """One axis of the decode: pixel p of block i is the sum over j < count of band[i, j, p] · cell[first + j].

    Attributes:
        length: output pixels; the last block may reach beyond it, with weights 0.
        span: (blocks, 2) int32: `first` and `count` of the cells that a block reads, by their rank of place in the
            image.
        band: (blocks, cells, block) float32, `cells` being the largest count; 0 beyond a block's own.
        cells: (cells of the image,) int32, where the cell of each rank lies in the window logits (windows, N, Q), in
            patches: the patch at rank i of the rows and rank j of the columns is patch `rows.cells[i] +
            columns.cells[j]` of the logits reshaped to (windows · N, Q).
    """

    length: int
    span: NDArray[np.int32]
    band: NDArray[np.float32]
    cells: NDArray[np.int32]

    def matrix(self) -> NDArray[np.float32]:
        """Dense (length, cells) float32, cells by place: for tests."""
        blocks, _, block = self.band.shape
        dense = np.zeros((blocks, block, len(self.cells)), np.float32)
        for index, (first, count) in enumerate(self.span):
            dense[index, :, first : first + count] = self.band[index, :count].T
        return dense.reshape(blocks * block, -1)[: self.length]


def band_axis(
    axis: Axis, *, block: int, cells_per_window: int, window_stride: int, cell_stride: int
) -> BandAxis:
    """Return `axis` in blocks.

    Args:
        axis: tiles of dense weights, see `interpolation_axis`.
        block: output pixels per block.
        cells_per_window: patches per window along this axis.
        window_stride: patches between one window and the next along this axis, in the logits.
        cell_stride: patches between one cell and the next along this axis, in the logits.
    """
    blocks = -(-axis.length // block)
    pixels = np.zeros((blocks * block, len(axis.order)), np.float32)
    for tile in axis.tiles:
        pixels[tile.start : tile.stop, tile.first : tile.last] = tile.weights
    dense = pixels.reshape(blocks, block, -1)
    used = (dense != 0).any(axis=1)
    first = used.argmax(axis=1)
    count = used.shape[1] - used[:, ::-1].argmax(axis=1) - first
    reach = np.arange(count.max())
    columns = np.minimum(first[:, None] + reach, used.shape[1] - 1)
    band = np.take_along_axis(dense, columns[:, None, :], axis=2).transpose(0, 2, 1)
    band = np.where((reach < count[:, None])[..., None], band, np.float32(0))
    window, cell = np.divmod(axis.order, cells_per_window)
    return BandAxis(
        length=axis.length,
        span=np.stack([first, count], axis=1).astype(np.int32),
        band=np.ascontiguousarray(band),
        cells=(window * window_stride + cell * cell_stride).astype(np.int32),
    )


def band_plan(plan: DecodePlan, *, rows: int, columns: int) -> tuple[BandAxis, BandAxis]:
    """Both axes of a plan, (rows, columns), for logits of its windows in their usual order.

    Not cached: who uploads them keeps the device's copy.

    Args:
        plan: of `decode_plan`.
        rows: pixels per block of rows.
        columns: pixels per block of columns.

    Raises:
        ValueError: the plan's logits have more patches than an int32 can count.
    """
    (window_rows, window_columns), (grid_rows, grid_columns) = plan.windows, plan.grid
    patches = grid_rows * grid_columns
    if window_rows * window_columns * patches > np.iinfo(np.int32).max:
        raise ValueError(f"{window_rows * window_columns:,} windows of {patches:,} patches are too many")
    down = band_axis(
        plan.rows,
        block=rows,
        cells_per_window=grid_rows,
        window_stride=window_columns * patches,
        cell_stride=grid_columns,
    )
    across = band_axis(
        plan.columns,
        block=columns,
        cells_per_window=grid_columns,
        window_stride=patches,
        cell_stride=1,
    )
    return down, across
