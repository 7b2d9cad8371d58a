"""What the kernels are held against: the method's formulas in float64, and how far plain torch is from them."""

import torch
from torch import Tensor
from torch.nn import functional as F

FACTOR = 2.0
"""A path may be so many times as far from the oracle as plain torch in its dtype, plus a floor."""
FLOOR = {torch.float32: 1e-6, torch.float16: 1e-3, torch.bfloat16: 8e-3}


def assert_within_budget(got: Tensor, plain: Tensor, oracle: Tensor, slack: Tensor | float = 0.0) -> None:
    """At most twice as far from the oracle as plain torch in the same dtype, plus a floor, plus `slack`.

    The floor is one rounding of the result's dtype, relative to the largest value; `slack` bounds, element by
    element, what changes where rounding puts a similarity on the other side of a threshold.
    """
    assert got.dtype == plain.dtype
    assert got.shape == oracle.shape
    error, plain_error = ((x.double() - oracle).abs() for x in (got, plain))
    assert torch.isfinite(got).all()
    budget = FACTOR * plain_error.max() + FLOOR[got.dtype] * oracle.abs().max()
    assert (error <= budget + slack).all(), f"{(error - slack).max():.3g} over a budget of {budget:.3g}"


def similarities(guide: Tensor) -> Tensor:
    unit = F.normalize(guide.double(), dim=-1)
    return unit @ unit.transpose(1, 2)


def decided_by_similarity(guide: Tensor, floor: float | None, tie: float = 1e-5) -> Tensor:
    """(B, N) bool: patches none of whose similarities is so near the threshold that rounding decides.

    Args:
        guide: (B, N, D).
        floor: the threshold; None for the mean of all similarities.
        tie: what is near.
    """
    s = similarities(guide)
    threshold = s.mean(dim=(1, 2), keepdim=True) if floor is None else floor
    return ((s - threshold).abs() > tie).all(dim=-1)


def decided_by_distance(features: Tensor, k: int, tie: float = 3e-6) -> Tensor:
    """(B, N) bool: patches whose k-th and next neighbour differ by more than `tie` of the distance."""
    nearest = _distances(features.double()).topk(k + 1, largest=False).values
    return nearest[..., k] - nearest[..., k - 1] > tie * nearest[..., k - 1]


def _near(s: Tensor, threshold: Tensor | float) -> Tensor:
    """Entries that rounding in fp32 may put on either side."""
    return (s - threshold).abs() < 1e-6


def aggregate_oracle(features: Tensor, guide: Tensor, floor: float) -> tuple[Tensor, Tensor]:
    s = similarities(guide)
    kept = torch.where(s >= floor, s, 0.0)
    total = kept.sum(dim=-1, keepdim=True) + 1e-6
    x = features.double()
    y = kept @ x / total
    changed = torch.where(_near(s, floor), s.abs(), 0.0) / total
    return y, changed @ x.abs() + changed.sum(dim=-1, keepdim=True) * y.abs()


def anomaly_oracle(features: Tensor, k: int) -> Tensor:
    """Equal distances go to the lower index."""
    x = features.double()
    order = _distances(x).sort(dim=-1, stable=True)
    k_distance = order.values[..., k - 1]
    neighbors = order.indices[..., :k].flatten(1)
    density = k_distance.reciprocal().gather(1, neighbors).reshape(*x.shape[:2], k)
    return k_distance * density.mean(dim=-1)


def _distances(x: Tensor) -> Tensor:
    distance = torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist").square().clamp_min(1e-30)
    distance.diagonal(dim1=1, dim2=2).fill_(float("inf"))
    return distance


def repair_oracle(x: Tensor, outliers: set[int], columns: int) -> Tensor:
    """One window, (N, D) float64."""
    out = x.clone()
    for index in outliers:
        row, column = divmod(index, columns)
        near = [(row + i, column + j) for i in (-1, 0, 1) for j in (-1, 0, 1) if i or j]
        inside = [r * columns + c for r, c in near if 0 <= c < columns and 0 <= r < len(x) // columns]
        sound = [patch for patch in inside if patch not in outliers]
        if sound:
            out[index] = x[sound].mean(dim=0)
    return out


def attention_oracle(key: Tensor, value: Tensor, guide: Tensor, heads: int) -> tuple[Tensor, Tensor]:
    s = similarities(guide)
    mean = s.mean(dim=(1, 2), keepdim=True)
    diagonal = torch.eye(s.shape[-1], dtype=torch.bool, device=s.device)
    weight = torch.where((s >= mean) | diagonal, (3 * (s - mean)).exp(), 0.0)
    total = weight.sum(dim=-1, keepdim=True)
    by_similarity = weight @ value.double().sum(dim=0) / total
    changed = torch.where(_near(s, mean), (3 * (s - mean)).exp(), 0.0) / total
    slack = (
        changed @ value.double().sum(dim=0).abs() + changed.sum(dim=-1, keepdim=True) * by_similarity.abs()
    )
    k, v = (x.double().unflatten(-1, (heads, -1)).transpose(-2, -3) for x in (key, value))
    scores = k @ k.transpose(-1, -2) / k.shape[-1] ** 0.5
    by_key = (scores.softmax(dim=-1) @ v).transpose(-2, -3).flatten(-2).sum(dim=0)
    return 0.5 * (by_similarity + by_key), 0.5 * slack
