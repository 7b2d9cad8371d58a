"""Similarity of mid-level patch features and averages by it (paper §3.3; METHOD §2, pre- and post-adjustment)."""

import torch
from torch import Tensor

from scclip_kernels.wide import wide


def unit_rows(features: Tensor) -> Tensor:
    """Divide rows by their length, or by 1e-12 if that is less.

    `F.normalize`, without the Expand (and the Shape behind it) that ONNX gets from there.

    Args:
        features: (..., D), any float dtype; the arithmetic is float32.

    Returns:
        (..., D) float32.
    """
    rows = wide(features)
    return rows / torch.linalg.vector_norm(rows, dim=-1, keepdim=True).clamp_min(1e-12)


def cosine_similarity(features: Tensor) -> Tensor:
    """Return the cosine similarity of every pair of patches.

    Args:
        features: (B, N, D), any float dtype; the arithmetic is float32.

    Returns:
        (B, N, N) float32 in [-1, 1].
    """
    unit = unit_rows(features)
    return unit @ unit.transpose(1, 2)


def similarity_weights(similarity: Tensor, floor: float = 0.4) -> Tensor:
    """Thresholded, row-normalised similarities: a_ij = s_ij [s_ij >= floor] / (sum_j s_ij [s_ij >= floor] + 1e-6).

    Args:
        similarity: (B, N, N) float32.
        floor: the threshold, upstream `beta`.

    Returns:
        (B, N, N) float32; rows sum to just under 1.
    """
    kept = torch.where(similarity >= floor, similarity, 0.0)
    return kept / (kept.sum(dim=-1, keepdim=True) + 1e-6)


def aggregate(features: Tensor, weights: Tensor) -> Tensor:
    """Average patches by similarity: y_i = sum_j a_ij x_j.

    Args:
        features: (B, N, D), any float dtype.
        weights: (B, N, N), see `similarity_weights`, rows already divided by their sum.

    Returns:
        (B, N, D), dtype of `features`.
    """
    return weights.to(features.dtype) @ features
