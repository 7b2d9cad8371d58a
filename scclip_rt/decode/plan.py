"""The two small matrices of one combination of sizes, and how labels are stored (METHOD §4)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from scclip_rt.decode.interpolation import Axis, interpolation_axis
from scclip_rt.errors import OptionError
from scclip_rt.image.geometry import Tiling

TILE_ROWS = 64
TILE_COLUMNS = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodePlan:
    """The two matrices of one combination of sizes: `decode_plan` makes and caches them.

    Attributes:
        windows: rows and columns of windows.
        grid: rows and columns of patches per window.
        shape: (height, width) of the output.
        rows: patches to output pixels from top to bottom.
        columns: the same from left to right.
    """

    windows: tuple[int, int]
    grid: tuple[int, int]
    shape: tuple[int, int]
    rows: Axis
    columns: Axis

    def arrange(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """(windows, N, E) → (rows·grid rows, columns·grid columns, E), sorted by place in the image."""
        (wy, wx), (gy, gx) = self.windows, self.grid
        if features.shape[:2] != (wy * wx, gy * gx):
            raise ValueError(
                f"the plan is for {wy * wx} windows of {gy * gx} patches; got features {features.shape}"
            )
        window_row, row = np.divmod(self.rows.order[:, None], gy)
        window_column, column = np.divmod(self.columns.order, gx)
        place = ((window_row * wx + window_column) * gy + row) * gx + column
        return np.take(features.reshape(-1, features.shape[2]), place, axis=0)


@lru_cache(maxsize=16)
def decode_plan(tiling: Tiling, grid: tuple[int, int], shape: tuple[int, int]) -> DecodePlan:
    """The plan for one tiling, one grid of patches per window (rows, columns) and one output size."""
    return DecodePlan(
        windows=(len(tiling.rows), len(tiling.columns)),
        grid=grid,
        shape=shape,
        rows=interpolation_axis(
            starts=tiling.rows,
            window=tiling.window[0],
            padding=tiling.padding[0],
            cells=grid[0],
            resized=tiling.height,
            length=shape[0],
            tile=TILE_ROWS,
        ),
        columns=interpolation_axis(
            starts=tiling.columns,
            window=tiling.window[1],
            padding=tiling.padding[1],
            cells=grid[1],
            resized=tiling.width,
            length=shape[1],
            tile=TILE_COLUMNS,
        ),
    )


def label_type(num_classes: int) -> tuple[type[np.uint8] | type[np.uint16], int]:
    """The dtype of labels and the value that means unlabelled, for so many classes."""
    if num_classes <= 254:
        return np.uint8, 255
    if num_classes <= 65534:
        return np.uint16, 65535
    raise OptionError(f"labels hold at most 65,534 classes; got {num_classes:,}")
