"""The logits of one image as a field over its pixels: reduced tile by tile, never written out whole (METHOD §4)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from scclip_rt.cpus import worker_threads
from scclip_rt.decode.best import Best, Labels, reduce_tile
from scclip_rt.decode.plan import DecodePlan
from scclip_rt.decode.threads import parallel

LOGIT_BYTES = 64 << 20
"""Most memory for the patches' logits of one chunk of queries."""
MAX_CHUNK = 512


class LogitField:
    """The logit maps of one image, asked for the best query per pixel (METHOD §4)."""

    def __init__(
        self,
        cells: NDArray[np.float32],
        text: NDArray[np.float32],
        classes: Labels,
        plan: DecodePlan,
        scale: float | NDArray[np.float32],
        threads: int | None,
        spans: tuple[NDArray[np.float32], NDArray[np.float32]] | None = None,
    ) -> None:
        self.cells = cells
        self.text = text
        self.classes = classes
        self.plan = plan
        self.scale = np.broadcast_to(np.asarray(scale, np.float32), len(text))
        self.spans = spans
        self.threads = worker_threads(threads)

    def logits(self, queries: NDArray[np.intp]) -> NDArray[np.float32]:
        """(cell rows, cell columns, queries) float32, scaled."""
        if self.spans is None:
            logits: NDArray[np.float32] = self.cells @ (self.text[queries].T * self.scale[queries])
            return logits
        lowest, length = self.spans
        # Not by a factor: x / x is 1, so that maps tie where several are at their highest, and the first one gets it.
        stretched: NDArray[np.float32] = (self.cells @ self.text[queries].T - lowest[queries]) / length[
            queries
        ]
        return stretched * self.scale[queries]

    def stretched(self) -> LogitField:
        """The field whose maps reach from 0 to the scale over the image, each by itself.

        A pixel's weights add up to 1, so scaling and shifting the patches' logits does the same to the map.
        """
        lowest = np.full(len(self.text), np.inf, np.float32)
        highest = np.full(len(self.text), -np.inf, np.float32)
        for queries in self.chunks(np.arange(len(self.text))):
            planes = np.ascontiguousarray((self.cells @ self.text[queries].T).transpose(2, 0, 1))
            for rows in self.plan.rows.tiles:
                for columns in self.plan.columns.tiles:
                    cells = planes[:, rows.first : rows.last, columns.first : columns.last]
                    values = rows.weights @ (cells @ columns.weights.T)
                    lowest[queries] = np.minimum(lowest[queries], values.min(axis=(1, 2)))
                    highest[queries] = np.maximum(highest[queries], values.max(axis=(1, 2)))
        spans = lowest, highest - lowest + np.float32(1e-12)
        return LogitField(self.cells, self.text, self.classes, self.plan, self.scale, self.threads, spans)

    def chunks(self, queries: NDArray[np.intp]) -> list[NDArray[np.intp]]:
        """Queries cut so that the cells' logits of a chunk stay within LOGIT_BYTES."""
        cells = self.cells.shape[0] * self.cells.shape[1]
        size = max(1, min(MAX_CHUNK, LOGIT_BYTES // (4 * cells)))
        return np.array_split(queries, -(-len(queries) // size))

    def best(
        self,
        queries: NDArray[np.intp],
        *,
        soft: bool,
        keep_best: bool,
        where: NDArray[np.bool_] | None = None,
    ) -> Best:
        """The best of `queries` at every pixel (only near `where`, if given)."""
        chunks = self.chunks(queries)
        keep_logit = soft or keep_best or len(chunks) > 1
        state = Best.empty(self.plan.shape, self.classes.dtype, soft=soft, keep_logit=keep_logit)
        pieces = [
            (rows, columns)
            for rows in self.plan.rows.tiles
            for columns in self.plan.columns.tiles
            if where is None or where[rows.start : rows.stop, columns.start : columns.stop].any()
        ]
        for chunk in chunks:
            logits = self.logits(chunk)
            classes = self.classes[chunk]
            parallel(lambda piece: reduce_tile(logits, classes, *piece, state), pieces, self.threads)  # noqa: B023
        return state
