"""Semantic affinity: cosine similarities of mid-level patch features, thresholded (SC-CLIP §3.3)."""

import torch
from torch import Tensor
from torch.nn import functional as F


def cosine_similarity(features: Tensor) -> Tensor:
    """Return the cosine similarity of every pair of patches.

    Args:
        features: (B, N, D), any float dtype; the arithmetic is float32.

    Returns:
        (B, N, N) float32 in [-1, 1].
    """
    unit = F.normalize(features.float(), dim=-1)
    return unit @ unit.transpose(1, 2)


def affinity(similarity: Tensor, floor: float = 0.4) -> Tensor:
    """Keep similarities of at least `floor` and divide each row: a_ij = s_ij [s_ij >= floor] / (sum_j + 1e-6).

    Args:
        similarity: (B, N, N) float32.
        floor: the threshold, upstream `beta`.

    Returns:
        (B, N, N) float32; rows sum to just under 1.
    """
    kept = torch.where(similarity >= floor, similarity, 0.0)
    return kept / (kept.sum(dim=-1, keepdim=True) + 1e-6)


def aggregate(features: Tensor, affinity: Tensor) -> Tensor:
    """Average patches by affinity: y_i = sum_j a_ij x_j.

    Args:
        features: (B, N, D), any float dtype.
        affinity: (B, N, N), rows already divided by their sum.

    Returns:
        (B, N, D), dtype of `features`.
    """
    return affinity.to(features.dtype) @ features
