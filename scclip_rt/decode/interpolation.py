"""The separable map from window patches to output pixels (METHOD §4), one axis at a time."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, kw_only=True)
class Tile:
    """`weights` (stop - start, last - first) float32 takes cells first..last to output pixels start..stop."""

    start: int
    stop: int
    first: int
    last: int
    weights: NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """One axis of the decode: output = matrix · cells, kept as tiles because the matrix is nearly banded.

    A cell is one patch row (or column) of one window; window `i`'s cells are i·g .. i·g + g − 1. `order`
    sorts
    cells by their place in the image: those that a run of output pixels needs are neighbours in memory.
    """

    length: int
    order: NDArray[np.intp]
    tiles: tuple[Tile, ...]

    def matrix(self) -> NDArray[np.float32]:
        """Dense (length, cells) float32, columns in window-major order: for tests and small sizes."""
        dense = np.zeros((self.length, len(self.order)), np.float32)
        for tile in self.tiles:
            dense[tile.start : tile.stop, self.order[tile.first : tile.last]] = tile.weights
        return dense


def bilinear_taps(
    out_length: int, in_length: int, start: int = 0, stop: int | None = None
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float64]]:
    """Where bilinear resizing (align_corners=False, edges clamped, as in torch) reads from.

    Returns:
        For output pixels start..stop: lower tap, upper tap, weight of the upper tap.
    """
    position = np.arange(start, out_length if stop is None else stop, dtype=np.float64)
    source = np.maximum((position + 0.5) * (in_length / out_length) - 0.5, 0.0)
    lower = np.minimum(source.astype(np.intp), in_length - 1)
    upper = np.minimum(lower + 1, in_length - 1)
    return lower, upper, source - lower


def interpolation_axis(
    *,
    starts: tuple[int, ...],
    window: int,
    cells: int,
    resized: int,
    length: int,
    tile: int,
    padding: tuple[int, int] = (0, 0),
) -> Axis:
    """Patches → window (bilinear) → mean over the windows that cover a pixel → original size (bilinear).

    Args:
        starts: first pixel of each window along this axis of the resized image.
        window: side of a window, pixels.
        cells: patches per window along this axis.
        resized: pixels of the resized image along this axis.
        length: pixels of the output along this axis.
        tile: output pixels per tile.
        padding: pixels that the encoder added before and after a window, cut away again.
    """
    first_pixel = np.asarray(starts)
    padded = window + sum(padding)
    centres = first_pixel[:, None] - padding[0] + (np.arange(cells) + 0.5) * (padded / cells)
    order = np.argsort(centres.ravel(), kind="stable")
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    upsample = _bilinear_matrix(padded, cells)[padding[0] : padding[0] + window]
    tiles = []
    for start in range(0, length, tile):
        stop = min(start + tile, length)
        lower, upper, fraction = bilinear_taps(length, resized, start, stop)
        low, high = int(lower[0]), int(upper[-1]) + 1
        near = np.flatnonzero((first_pixel < high) & (first_pixel + window > low))
        averaged = np.zeros((high - low, len(near) * cells))
        count = np.zeros((high - low, 1))
        for column, index in enumerate(near):
            a, b = max(first_pixel[index], low), min(first_pixel[index] + window, high)
            inside = upsample[a - first_pixel[index] : b - first_pixel[index]]
            averaged[a - low : b - low, column * cells : (column + 1) * cells] += inside
            count[a - low : b - low] += 1
        averaged /= count
        dense = averaged[lower - low] * (1 - fraction)[:, None] + averaged[upper - low] * fraction[:, None]
        tiles.append(_compact(dense, rank[(near[:, None] * cells + np.arange(cells)).ravel()], start, stop))
    return Axis(length=length, order=order, tiles=tuple(tiles))


def _bilinear_matrix(out_length: int, in_length: int) -> NDArray[np.float64]:
    lower, upper, fraction = bilinear_taps(out_length, in_length)
    matrix = np.zeros((out_length, in_length))
    rows = np.arange(out_length)
    matrix[rows, lower] += 1 - fraction
    matrix[rows, upper] += fraction
    return matrix


def _compact(dense: NDArray[np.float64], rank: NDArray[np.intp], start: int, stop: int) -> Tile:
    """Keep the shortest run of cells, in order of place, that holds every non-zero weight."""
    used = np.flatnonzero(dense.any(axis=0))
    first, last = int(rank[used].min()), int(rank[used].max()) + 1
    weights = np.zeros((stop - start, last - first), np.float32)
    weights[:, rank[used] - first] = dense[:, used]
    return Tile(start=start, stop=stop, first=first, last=last, weights=weights)
