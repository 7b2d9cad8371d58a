"""From window features to a label map (METHOD §4), without a (queries, height, width) tensor.

Everything between the patches' logits and the map in original size is linear and separable, so the map of
query q is rows · L_q · columnsᵀ with two small matrices that depend on sizes only (`DecodePlan`). The map is
computed a tile at a time, queries last so that the arg-max runs over contiguous memory, and reduced before the
next tile.
Memory is independent of queries × pixels: queries go in chunks, with a running maximum and a running sum of
exponentials per pixel.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, cast

import numpy as np
from numpy.typing import NDArray

from scclip_rt.decode.best import Best, Labels, reduce_tile
from scclip_rt.decode.interpolation import Axis, interpolation_axis
from scclip_rt.decode.threads import parallel, single_blas_thread, worker_threads
from scclip_rt.errors import BackendError, OptionError
from scclip_rt.image.geometry import Tiling

if TYPE_CHECKING:
    from scclip_rt.decode.pamr import Affinity

TILE_ROWS = 64
TILE_COLUMNS = 128
LOGIT_BYTES = 64 << 20
"""Most memory for the patches' logits of one chunk of queries."""
MAX_CHUNK = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoded:
    """A label map.

    Attributes:
        labels: (H, W) uint8, or uint16 above 254 classes.
        confidence: (H, W) float32, probability of the best class before `prob_threshold` cuts it; None unless
            asked for.
        unlabelled: the label of pixels without a class: 255 or 65535.
    """

    labels: Labels
    confidence: NDArray[np.float32] | None
    unlabelled: int


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
            cells=grid[0],
            resized=tiling.height,
            length=shape[0],
            tile=TILE_ROWS,
        ),
        columns=interpolation_axis(
            starts=tiling.columns,
            window=tiling.window[1],
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


def decode(
    features: NDArray[np.float32],
    text: NDArray[np.float32],
    plan: DecodePlan,
    *,
    query_class: Sequence[int] | NDArray[np.integer],
    num_classes: int,
    logit_scale: float = 40.0,
    prob_threshold: float = 0.0,
    area_threshold: float = 0.0,
    background: int | None = None,
    with_confidence: bool = False,
    refine: Affinity | None = None,
    threads: int | None = None,
) -> Decoded:
    """Label every pixel (METHOD §4).

    Args:
        features: (windows, N, E) float32, unit vectors.
        text: (Q, E) float32, unit vectors.
        plan: of these windows, for the output size.
        query_class: class of each query, Q long.
        num_classes: more than any of them.
        logit_scale: factor on the cosines before the soft-max over queries; a class has its best query's
            probability.
        prob_threshold: pixels whose best probability is less become `background`, or unlabelled without one.
        area_threshold: foreground classes (without a background, all classes) with at most this share of all
            foreground pixels are removed; their pixels go to the best class that remains. 0 removes none.
        background: index of the background class, or None.
        with_confidence: also return probabilities.
        refine: PAMR on the resized logits (`scclip_rt.decode.pamr.pamr_affinity`), or None.
        threads: worker threads; default: the CPUs this process may use.

    Raises:
        BackendError: the features hold NaN or infinity.
    """
    _check(features, text, query_class, num_classes)
    dtype, unlabelled = label_type(num_classes)
    classes = cast("Labels", np.asarray(query_class).astype(dtype))
    with single_blas_thread():
        field = LogitField(plan.arrange(features), text, classes, plan, float(logit_scale), refine, threads)
        soft = with_confidence or prob_threshold > 0
        best = field.best(np.arange(len(text)), soft=soft, keep_best=soft and area_threshold > 0)
        labels, probability = best.labels, best.probability
        if area_threshold > 0:
            removed = _small_classes(labels, num_classes, area_threshold, background)
            if removed.any():
                labels, probability = _reassign(field, best, removed, unlabelled)
    if prob_threshold > 0 and probability is not None:
        labels[probability < prob_threshold] = unlabelled if background is None else background
    return Decoded(labels=labels, confidence=probability if with_confidence else None, unlabelled=unlabelled)


class LogitField:
    """The logit maps of one image, asked for the best query per pixel."""

    def __init__(
        self,
        cells: NDArray[np.float32],
        text: NDArray[np.float32],
        classes: Labels,
        plan: DecodePlan,
        scale: float,
        refine: Affinity | None,
        threads: int | None,
    ) -> None:
        self.cells = cells
        self.text = text
        self.classes = classes
        self.plan = plan
        self.scale = scale
        self.refine = refine
        self.threads = worker_threads(threads)

    def logits(self, queries: NDArray[np.intp]) -> NDArray[np.float32]:
        """(cell rows, cell columns, queries) float32, scaled."""
        weights = self.text[queries].T * np.float32(self.scale)
        return self.cells @ weights

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
        if self.refine is not None:
            from scclip_rt.decode.pamr import refined_best

            return refined_best(self, queries, self.refine, soft=soft)
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


def _small_classes(
    labels: Labels, num_classes: int, area_threshold: float, background: int | None
) -> NDArray[np.bool_]:
    """(classes,) bool: those with at most `area_threshold` of all foreground pixels."""
    counts = np.bincount(labels.ravel(), minlength=num_classes)
    if background is not None:
        counts[background] = 0
    removed = counts <= area_threshold * counts.sum()
    if background is not None:
        removed[background] = False
    return np.asarray(removed, bool)


def _reassign(
    field: LogitField, best: Best, removed: NDArray[np.bool_], unlabelled: int
) -> tuple[Labels, NDArray[np.float32] | None]:
    """Give the pixels of removed classes to the best class that remains.

    Probabilities stay those over all queries, as in the reference.
    """
    labels, probability = best.labels, best.probability
    affected = removed[labels]
    kept = np.flatnonzero(~removed[field.classes])
    if not len(kept):
        labels[...] = unlabelled
        return labels, None if probability is None else np.zeros_like(probability)
    if affected.any():
        second = field.best(kept, soft=False, keep_best=probability is not None, where=affected)
        np.copyto(labels, second.labels, where=affected)
        if probability is not None and best.logit is not None and second.logit is not None:
            gap = second.logit[affected] - best.logit[affected]
            probability[affected] *= np.exp(gap)
    return labels, probability


def _check(
    features: NDArray[np.float32],
    text: NDArray[np.float32],
    query_class: Sequence[int] | NDArray[np.integer],
    num_classes: int,
) -> None:
    if features.ndim != 3 or text.ndim != 2 or features.shape[2] != text.shape[1]:
        raise ValueError(
            f"features (windows, N, E) and text (Q, E) don't fit: {features.shape} and {text.shape}"
        )
    if len(text) == 0 or len(query_class) != len(text):
        raise ValueError(f"need a class for each of at least one query; got {len(query_class)}, {len(text)}")
    if not 0 <= np.min(query_class) <= np.max(query_class) < num_classes:
        raise ValueError(f"query_class must lie in 0..{num_classes - 1}")
    if not np.isfinite(features).all():
        raise BackendError(
            "the encoder returned NaN or infinity; the model file or the precision is unsound. "
            "Check the bundle with 'scclip inspect', or use --precision fp32."
        )
