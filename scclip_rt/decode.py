"""From window features to a label map (METHOD §4), without a (queries, height, width) tensor."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scclip_rt.geometry import Tiling
from scclip_rt.refine import Affinity


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoded:
    """labels (H, W) uint8 or uint16; confidence (H, W) float32 or None; `unlabelled`: the value of no class."""

    labels: NDArray[np.uint8] | NDArray[np.uint16]
    confidence: NDArray[np.float32] | None
    unlabelled: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodePlan:
    """The two matrices; `plan(tiling, grid, shape)` makes and caches them."""

    rows: NDArray[np.float32]
    columns: NDArray[np.float32]


def decode_plan(tiling: Tiling, grid: tuple[int, int], shape: tuple[int, int]) -> DecodePlan:
    """The cached plan for one tiling, one grid of patches per window (rows, columns) and one output size."""
    raise NotImplementedError


def decode(
    features: NDArray[np.float32],
    text: NDArray[np.float32],
    plan: DecodePlan,
    *,
    query_class: NDArray[np.int64],
    num_classes: int,
    logit_scale: float = 40.0,
    prob_threshold: float = 0.0,
    area_threshold: float = 0.0,
    background: int | None = None,
    with_confidence: bool = False,
    refine: Affinity | None = None,
    threads: int | None = None,
) -> Decoded:
    """features (W, N, E) float32, text (Q, E) float32 → labels of the plan's output size."""
    raise NotImplementedError
