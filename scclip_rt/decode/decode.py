"""From window features to a label map (METHOD §4), without a (queries, height, width) tensor.

Everything between the patches' logits and the map in original size is linear and separable, so the map of
query q is rows · L_q · columnsᵀ with two small matrices that depend on sizes only (`DecodePlan`). The map is
computed a tile at a time, queries last so that the arg-max runs over contiguous memory, and reduced before the
next tile.
Memory is independent of queries × pixels: queries go in chunks, with a running maximum and a running sum of
exponentials per pixel.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import numpy as np
from numpy.typing import NDArray

from scclip_rt.decode.best import Best, Labels
from scclip_rt.decode.field import LogitField
from scclip_rt.decode.pamr import PixelWeights, refined_best
from scclip_rt.decode.plan import DecodePlan, label_type
from scclip_rt.decode.settings import DecodeSettings
from scclip_rt.decode.threads import single_blas_thread
from scclip_rt.errors import not_finite


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


def decode(
    features: NDArray[np.float32],
    text: NDArray[np.float32],
    plan: DecodePlan,
    settings: DecodeSettings,
    *,
    refine: PixelWeights | None = None,
    threads: int | None = None,
) -> Decoded:
    """Label every pixel (METHOD §4).

    Args:
        features: (windows, N, E) float32, taken as they are: not every method's are unit vectors.
        text: (Q, E) float32.
        plan: of these windows, for the output size.
        settings: classes, scale and thresholds.
        refine: PAMR on the resized logits (`scclip_rt.decode.pamr.pixel_weights`), or None.
        threads: worker threads; default: the CPUs this process may use.

    Raises:
        BackendError: the features hold NaN or infinity.
    """
    _check(features, text, settings)
    dtype, unlabelled = label_type(settings.num_classes)
    classes = cast("Labels", settings.query_class.astype(dtype))
    with single_blas_thread():
        field = LogitField(plan.arrange(features), text, classes, plan, settings.logit_scale, threads)
        if settings.maps == "minmax":
            field = field.stretched()

        def best_of(
            queries: NDArray[np.intp], *, soft: bool, keep_best: bool, where: NDArray[np.bool_] | None = None
        ) -> Best:
            if refine is not None:
                return refined_best(field, queries, refine, soft=soft)
            return field.best(queries, soft=soft, keep_best=keep_best, where=where)

        soft = settings.soft
        best = best_of(np.arange(len(text)), soft=soft, keep_best=soft and settings.drops)
        labels, probability = best.labels, best.probability
        if settings.drops:
            removed = _small_classes(labels, settings) | _faint_classes(labels, probability, settings)
            if removed.any():
                labels, probability = _reassign(best_of, classes, best, removed, unlabelled)
    if settings.prob_threshold > 0 and probability is not None:
        rest = unlabelled if settings.background is None else settings.background
        labels[probability < settings.prob_threshold] = rest
    confidence = probability if settings.with_confidence else None
    return Decoded(labels=labels, confidence=confidence, unlabelled=unlabelled)


def _small_classes(labels: Labels, settings: DecodeSettings) -> NDArray[np.bool_]:
    """(classes,) bool: those with at most `area_threshold` of all foreground pixels."""
    if settings.area_threshold == 0:
        return np.zeros(settings.num_classes, bool)
    counts = np.bincount(labels.ravel(), minlength=settings.num_classes)
    if settings.background is not None:
        counts[settings.background] = 0
    removed = counts <= settings.area_threshold * counts.sum()
    if settings.background is not None:
        removed[settings.background] = False
    return np.asarray(removed, bool)


def _faint_classes(
    labels: Labels, probability: NDArray[np.float32] | None, settings: DecodeSettings
) -> NDArray[np.bool_]:
    """(classes,) bool: those that no pixel has with `class_threshold`."""
    if settings.class_threshold == 0 or probability is None:
        return np.zeros(settings.num_classes, bool)
    best = np.zeros(settings.num_classes, np.float32)
    np.maximum.at(best, labels.ravel(), probability.ravel())
    faint = best < settings.class_threshold
    if settings.background is not None:
        faint[settings.background] = False
    return np.asarray(faint, bool)


def _reassign(
    best_of: Callable[..., Best], classes: Labels, best: Best, removed: NDArray[np.bool_], unlabelled: int
) -> tuple[Labels, NDArray[np.float32] | None]:
    """Give the pixels of removed classes to the best class that remains.

    Probabilities stay those over all queries, as in the reference.
    """
    labels, probability = best.labels, best.probability
    affected = removed[labels]
    kept = np.flatnonzero(~removed[classes])
    if not len(kept):
        labels[...] = unlabelled
        return labels, None if probability is None else np.zeros_like(probability)
    if affected.any():
        second = best_of(kept, soft=False, keep_best=probability is not None, where=affected)
        np.copyto(labels, second.labels, where=affected)
        if probability is not None and best.logit is not None and second.logit is not None:
            gap = second.logit[affected] - best.logit[affected]
            probability[affected] *= np.exp(gap)
    return labels, probability


def _check(features: NDArray[np.float32], text: NDArray[np.float32], settings: DecodeSettings) -> None:
    if features.ndim != 3 or text.ndim != 2 or features.shape[2] != text.shape[1]:
        raise ValueError(
            f"features (windows, N, E) and text (Q, E) don't fit: {features.shape} and {text.shape}"
        )
    if len(text) == 0 or len(settings.query_class) != len(text):
        raise ValueError(
            f"need a class for each of at least one query; got {len(settings.query_class)}, {len(text)}"
        )
    if not np.isfinite(features).all():
        raise not_finite("the encoder's output")
