"""Attention: the ordinary one of CLIP's blocks, and the calibrated one of the last block (SC-CLIP §3.3)."""

from collections.abc import Callable

import torch
from torch import Tensor

from scclip_kernels.wide import wide

# Scaled queries, keys, values and a mask or None to attended values: the contract of `scaled_attention`.
Attention = Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]


def split_heads(x: Tensor, num_heads: int) -> Tensor:
    """(B, N, D) → (B, heads, N, D / heads)."""
    _, length, width = x.shape
    return x.reshape(-1, length, num_heads, width // num_heads).transpose(1, 2)


def merge_heads(x: Tensor) -> Tensor:
    """(B, heads, N, head_dim) → (B, N, heads * head_dim)."""
    _, heads, length, head_dim = x.shape
    return x.transpose(1, 2).reshape(-1, length, heads * head_dim)


def scaled_attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
    """Softmax attention over queries that carry the factor 1 / sqrt(head_dim) already.

    Written out, not called as scaled_dot_product_attention: the exporter would split the factor over query and key,
    two multiplications a block that folding it into a weight saves.

    Args:
        query: (B, heads, N, head_dim), scaled.
        key: (B, heads, M, head_dim).
        value: (B, heads, M, head_dim).
        mask: added to the scores, broadcastable to (B, heads, N, M), or None.

    Returns:
        (B, heads, N, head_dim), dtype of `value`; the softmax is float32.
    """
    scores = query @ key.transpose(-1, -2)
    if mask is not None:
        scores = scores + mask
    # Not softmax(dtype=…): torch.onnx (torch 2.14) takes that softmax in the dtype of the scores and casts afterwards.
    return torch.softmax(wide(scores), dim=-1).to(value.dtype) @ value


def similarity_attention(similarity: Tensor) -> Tensor:
    """Turn similarities into attention weights: softmax_j of 3 (s_ij - mean s), entries below the mean left out.

    The mean is over the whole matrix of the window. The diagonal is 1, never below the mean, so no row is empty.

    Args:
        similarity: (B, N, N) float32.

    Returns:
        (B, N, N) float32; rows sum to 1.
    """
    scores = 3.0 * (similarity - similarity.mean(dim=(1, 2), keepdim=True))
    return torch.softmax(torch.where(scores >= 0.0, scores, float("-inf")), dim=-1)


def calibrated_attention(
    key: Tensor,
    value: Tensor,
    weights: Tensor,
    num_heads: int,
    attention: Attention = scaled_attention,
) -> Tensor:
    """Calibrated attention of both passes of the last block, summed, before the output projection.

    For each pass z: (P v_z + softmax(k_z k_z^T / sqrt(head_dim)) v_z) / 2. P has no head axis and is common to both
    passes, so P v_1 + P v_2 is one product, and the (linear) output projection may be applied to the sum.

    Args:
        key: (passes, B, N, D), any float dtype.
        value: (passes, B, N, D).
        weights: P, (B, N, N) float32, see `similarity_attention`.
        num_heads: heads of the last block.
        attention: computes softmax(k kᵀ) v.

    Returns:
        (B, N, D), dtype of `value`.
    """
    passes, _, patches, width = key.shape
    keys, values = (split_heads(x.view(-1, patches, width), num_heads) for x in (key, value))
    scale = keys.shape[-1] ** -0.5
    by_key = merge_heads(attention(keys * scale, keys, values, None)).view(passes, -1, patches, width)
    by_similarity = weights.to(value.dtype) @ value.sum(dim=0)
    return 0.5 * (by_similarity + by_key.sum(dim=0))
