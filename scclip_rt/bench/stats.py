"""Percentiles, and ratios of paired runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

QUANTILES = (50, 90, 99)


@dataclass(frozen=True, slots=True, kw_only=True)
class Percentiles:
    """Seconds. With few samples p99 is close to the longest: `max` says which it was."""

    p50: float
    p90: float
    p99: float
    mean: float
    min: float
    max: float

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Percentiles:
        """Of at least one duration, with linear interpolation between ranks."""
        p50, p90, p99 = (float(value) for value in np.percentile(seconds, QUANTILES))
        mean, least, most = (float(f(seconds)) for f in (np.mean, np.min, np.max))
        return cls(p50=p50, p90=p90, p99=p99, mean=mean, min=least, max=most)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ratio:
    """How many times as fast: of each round the first contender's seconds over this one's."""

    median: float
    min: float
    max: float

    @classmethod
    def of(cls, first: Sequence[float], other: Sequence[float]) -> Ratio:
        """Pair by pair: a drift of the machine's speed meets both of a pair.

        Raises:
            ValueError: the lengths differ.
        """
        ratios = [a / b for a, b in zip(first, other, strict=True)]
        return cls(median=float(np.median(ratios)), min=min(ratios), max=max(ratios))
