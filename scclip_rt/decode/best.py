"""The best query of every pixel, found tile by tile without keeping a map per query."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scclip_rt.decode.interpolation import Tile

TILE_BYTES = 1 << 20
"""Scratch per thread: a part of a tile for a chunk of queries, sized to stay in a core's cache."""
FEW_QUERIES = 48
"""Up to so many, queries go first in the scratch: an arg-max over short rows costs numpy some 28 ns per pixel, while
a maximum over planes and one comparison with it cost 0.7 ns per value."""
MAX_QUERIES = 1_000_000
"""Only for the bound on what the soft-max may leave out."""

Labels = NDArray[np.uint8] | NDArray[np.uint16]


@dataclass(slots=True)
class Best:
    """The best query of every pixel so far.

    Attributes:
        labels: (H, W), its class.
        logit: (H, W) float32, its scaled logit; None where nobody asks.
        total: (H, W) float32, the soft-max denominator relative to it: its probability is 1 / total.
    """

    labels: Labels
    logit: NDArray[np.float32] | None
    total: NDArray[np.float32] | None

    @classmethod
    def empty(
        cls, shape: tuple[int, int], dtype: np.dtype[Any], *, soft: bool, keep_logit: bool = True
    ) -> Best:
        """Before any query; `soft` keeps `total`."""
        return cls(
            labels=np.zeros(shape, dtype),
            logit=np.full(shape, -np.inf, np.float32) if keep_logit else None,
            total=np.zeros(shape, np.float32) if soft else None,
        )

    @property
    def probability(self) -> NDArray[np.float32] | None:
        """(H, W) float32: exp(best − logsumexp)."""
        return None if self.total is None else np.reciprocal(self.total)

    def merge(
        self,
        labels: Labels | int,
        logit: NDArray[np.float32],
        total: NDArray[np.float32] | None,
        where: tuple[slice, slice] = np.s_[:, :],
    ) -> None:
        """Bring in the best of further queries at `where`; of equal ones the earlier stays.

        Args:
            labels: (h, w), or one class for all.
            logit: (h, w) float32.
            total: (h, w) float32, None for a single query (which has 1) or without soft-max.
            where: rows and columns.
        """
        if self.logit is None:
            raise ValueError("this state keeps no logits")
        running = self.logit[where]
        better = logit > running
        if self.total is not None:
            # One of the two factors is 1: the sums are relative to whichever maximum is the larger.
            shrink = np.exp(-np.abs(logit - running))
            old, new = self.total[where], np.float32(1) if total is None else total
            self.total[where] = np.where(better, old * shrink + new, old + new * shrink)
        np.copyto(self.labels[where], labels, where=better)
        np.copyto(running, logit, where=better)

    def merge_state(self, other: Best) -> None:
        """Bring in the best of later queries, of the whole image."""
        if other.logit is None:
            raise ValueError("that state keeps no logits")
        self.merge(other.labels, other.logit, other.total)


def reduce_tile(logits: NDArray[np.float32], classes: Labels, rows: Tile, columns: Tile, state: Best) -> None:
    """Bring one chunk of queries into the running best of one tile.

    Args:
        logits: (cell rows, cell columns, queries) float32.
        classes: class of each query.
        rows: the tile's vertical part.
        columns: its horizontal part.
        state: of the whole image; this tile's part is written.
    """
    few = len(classes) <= FEW_QUERIES
    cells = logits[rows.first : rows.last, columns.first : columns.last]
    place = np.s_[rows.start : rows.stop, columns.start : columns.stop]
    kept = _possible(cells, None if state.logit is None else state.logit[place], soft=state.total is not None)
    if len(kept) < 0.75 * len(classes):
        cells, classes = cells[:, :, kept], classes[kept]
    num_queries = len(classes)
    if num_queries == 0:
        return
    (_reduce_few if few else _reduce_many)(cells, classes, rows, columns, state)


def _reduce_many(cells: NDArray[np.float32], classes: Labels, rows: Tile, columns: Tile, state: Best) -> None:
    """Queries last, so that the arg-max runs over contiguous memory."""
    width, num_queries = columns.stop - columns.start, len(classes)
    cells = np.ascontiguousarray(cells).reshape(len(cells), -1)
    step = max(1, min(rows.stop - rows.start, TILE_BYTES // (4 * width * num_queries)))
    buffer = np.empty((step, width, num_queries), np.float32)
    for top in range(rows.start, rows.stop, step):
        height = min(step, rows.stop - top)
        part = rows.weights[top - rows.start : top - rows.start + height] @ cells
        values = np.matmul(columns.weights, part.reshape(height, -1, num_queries), out=buffer[:height])
        where = np.s_[top : top + height, columns.start : columns.stop]
        _merge(values, classes, state, where)


def _reduce_few(cells: NDArray[np.float32], classes: Labels, rows: Tile, columns: Tile, state: Best) -> None:
    """Queries first: one plane of the tile for each."""
    width, num_queries = columns.stop - columns.start, len(classes)
    planes = np.ascontiguousarray(cells.transpose(2, 0, 1)).reshape(-1, cells.shape[1])
    resized = (planes @ columns.weights.T).reshape(num_queries, -1, width)
    values = np.matmul(rows.weights, resized)
    best = values.max(axis=0)
    # The first query that equals the maximum: where several do, the largest rank is the earliest query's.
    is_best = (values == best).view(np.uint8)
    is_best *= np.arange(num_queries, 0, -1, dtype=np.uint8)[:, None, None]
    labels = classes[num_queries - is_best.max(axis=0)]
    where = np.s_[rows.start : rows.stop, columns.start : columns.stop]
    if state.logit is None:
        state.labels[where] = labels
        return
    total = None
    if state.total is not None:
        values -= best
        total = np.exp(values, out=values).sum(axis=0)
    state.merge(labels, best, total, where)


def _possible(
    cells: NDArray[np.float32], running: NDArray[np.float32] | None, *, soft: bool
) -> NDArray[np.intp]:
    """Queries that can matter in a tile: a pixel is a weighted mean of cells, so it lies within their range.

    Those whose highest cell is below what another query has everywhere never win. For the soft-max they are
    left out only where all of them together would change the sum by less than 1e-7 of it.

    Args:
        cells: (cell rows, cell columns, queries) float32, of the tile.
        running: (h, w) float32, the best of earlier queries, or None.
        soft: whether the soft-max is wanted.

    Returns:
        Their indices, ascending.
    """
    highest = cells.max(axis=(0, 1))
    surely = float(cells.min(axis=(0, 1)).max())
    if running is not None:
        surely = max(surely, float(running.min()))
    rounding = 1e-5 * max(1.0, abs(surely))
    margin = np.log(MAX_QUERIES / 1e-7) if soft else 0.0
    return np.flatnonzero(highest >= surely - margin - rounding)


def _merge(values: NDArray[np.float32], classes: Labels, state: Best, where: tuple[slice, slice]) -> None:
    """Merge values (h, w, queries), which it overwrites, into the running best at `where`."""
    index = values.argmax(axis=-1)
    if state.logit is None:
        np.take(classes, index, out=state.labels[where], mode="clip")  # "clip": the default copies `out`
        return
    flat = values.reshape(-1, values.shape[-1])
    best = flat[np.arange(len(flat)), index.ravel()].reshape(index.shape)
    total = None
    if state.total is not None:
        values -= best[..., None]
        np.exp(values, out=values)
        total = (flat @ np.ones(flat.shape[-1], np.float32)).reshape(index.shape)
    state.merge(classes[index], best, total, where)
