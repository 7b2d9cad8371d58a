"""Anomaly tokens: local outlier factor over patch features (SC-CLIP §3.2, METHOD "anomaly detection").

The score is the simplified local outlier factor that SC-CLIP computes. Its reach distance max(d_ij, kd_i) always
equals kd_i, because j is one of the k nearest neighbours of i; so the score needs the k-distances alone:

    d_ij    = ||x_i - x_j||^2
    K_i     = the k nearest patches of i, i itself left out;  kd_i = max over K_i of d_ij
    score_i = kd_i * mean over j in K_i of 1 / kd_j
"""

import math
from fractions import Fraction

import torch
from torch import Tensor

from scclip_kernels.wide import wide

# Below any distance between distinct fp32 tokens; keeps 1 / kd finite when more than k tokens are identical.
_SMALLEST_DISTANCE = 1e-30


def num_outliers(num_patches: int, fraction: float = 0.05) -> int:
    """Return m, how many scores lie above the (1 - fraction) quantile with linear interpolation, ties aside.

    m = N - 1 - floor((1 - fraction) * (N - 1)): 10 for 196 patches, 13 for 256 at 0.05. The arithmetic is exact, and
    stays integer arithmetic when `num_patches` is a symbolic size, so that a dynamic graph can compute m from Shape.

    Args:
        num_patches: N, at least 2.
        fraction: share of patches taken for outliers, in [0, 1).

    Raises:
        ValueError: `fraction` is outside [0, 1).
    """
    if not 0.0 <= fraction < 1.0:
        raise ValueError(f"outlier_fraction must be in [0, 1); got {fraction}")
    keep = 1 - Fraction(str(fraction))
    last = num_patches - 1
    return last - (last * keep.numerator) // keep.denominator


def squared_distances(features: Tensor) -> Tensor:
    """Return squared Euclidean distances between the patches of each window, the diagonal set to +inf.

    The Gram form ||a||^2 + ||b||^2 - 2ab cancels badly far from the origin, so the mean token is subtracted first.

    Args:
        features: (B, N, D) float32.

    Returns:
        (B, N, N) float32, non-negative.
    """
    centered = features - features.mean(dim=1, keepdim=True)
    norms = centered.square().sum(dim=-1)
    gram = centered @ centered.transpose(1, 2)
    distances = (norms.unsqueeze(2) + norms.unsqueeze(1) - 2.0 * gram).clamp_min(_SMALLEST_DISTANCE)
    index = torch.arange(features.shape[1], device=features.device)
    itself = index.unsqueeze(0) == index.unsqueeze(1)
    return torch.where(itself, math.inf, distances)


def anomaly_scores(features: Tensor, num_neighbors: int = 30) -> Tensor:
    """Return the local outlier factor of every patch.

    Args:
        features: (B, N, D), any float dtype; the arithmetic is float32.
        num_neighbors: k, at most N - 1.

    Returns:
        (B, N) float32; about 1 for an inlier, larger for an outlier.
    """
    distances = squared_distances(wide(features))
    nearest = torch.topk(distances, num_neighbors, dim=-1, largest=False, sorted=True)
    k_distance = nearest.values[..., -1]
    patches = features.shape[1]
    # -1, not the batch: ONNX then needs no Shape.
    neighbors = nearest.indices.view(-1, patches * num_neighbors)
    density = torch.gather(k_distance.reciprocal(), 1, neighbors).view(-1, patches, num_neighbors)
    return k_distance * density.mean(dim=-1)


def outlier_indices(scores: Tensor, count: int) -> Tensor:
    """Return the indices of the `count` highest scores of each window, the highest first.

    Args:
        scores: (B, N) float32.
        count: m, see `num_outliers`.

    Returns:
        (B, m) int64.
    """
    return torch.topk(scores, count, dim=-1, largest=True, sorted=True).indices
