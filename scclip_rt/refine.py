"""PAMR: pixel-adaptive refinement of the logits by the image (METHOD §4, last paragraph)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, kw_only=True)
class Affinity:
    """weights (16, H, W) float32: how much each neighbour counts."""

    weights: NDArray[np.float32]
    steps: int = 10


def pamr_affinity(
    resized: NDArray[np.uint8],
    shape: tuple[int, int],
    *,
    mean: tuple[float, float, float],
    std: tuple[float, float, float],
    steps: int = 10,
) -> Affinity:
    """Affinity from the resized image uint8 (h, w, 3), for maps of `shape` (height, width)."""
    raise NotImplementedError
