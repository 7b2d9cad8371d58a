"""Where an activation's 256 levels lie: the usual rules, on tokens seen in calibration."""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

RangeRule = Literal["minmax", "percentile", "entropy"]
PERCENTILE = 99.99
_BINS, _LEVELS = 2048, 128


def activation_range(
    rule: RangeRule, values: NDArray[np.float32], low: float, high: float
) -> tuple[float, float]:
    """Return the range (least, largest value) that a rule gives, 0 within.

    Args:
        rule: `minmax`: all that was seen; `percentile`: without the 0.01 % of values at each end; `entropy`: see below.
        values: a sample of the activation, float32, any shape.
        low: least value of all that was seen.
        high: the largest.
    """
    if rule == "percentile":
        below, above = np.percentile(values, [100 - PERCENTILE, PERCENTILE])
        low, high = float(below), float(above)
    elif rule == "entropy":
        threshold = _entropy_threshold(values, max(high, -low))
        low, high = max(low, -threshold), min(high, threshold)
    return min(low, 0.0), max(high, 0.0)


def _entropy_threshold(values: NDArray[np.float32], largest: float) -> float:
    """Return where |x| is cut so that its levels lose least information (Migacz, GTC 2017).

    The histogram of |x| is cut, what lies above goes to the last bin, and the Kullback-Leibler divergence between that
    and its form in 128 levels is minimised.
    """
    counts, edges = np.histogram(np.abs(values), bins=_BINS, range=(0.0, max(largest, 1e-12)))
    best, threshold = np.inf, float(edges[-1])
    for bins in range(_LEVELS, _BINS + 1, 16):
        reference = counts[:bins].astype(np.float64)
        coarse = _coarse(reference)
        reference[-1] += counts[bins:].sum()
        loss = _divergence(reference, coarse)
        if loss < best:
            best, threshold = loss, float(edges[bins])
    return threshold


def _coarse(counts: NDArray[np.float64]) -> NDArray[np.float64]:
    """A histogram after a passage through `_LEVELS` levels: each level's mass spread over its occupied bins."""
    level = np.arange(len(counts)) * _LEVELS // len(counts)
    filled = counts > 0
    mass = np.bincount(level, counts, minlength=_LEVELS)
    occupied = np.maximum(np.bincount(level, filled, minlength=_LEVELS), 1)
    return np.where(filled, (mass / occupied)[level], 0.0)


def _divergence(reference: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    p, q = reference / max(reference.sum(), 1.0), other / max(other.sum(), 1.0)
    some = p > 0
    return float((p[some] * np.log(p[some] / np.maximum(q[some], 1e-12))).sum())
