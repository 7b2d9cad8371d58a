"""Affinity: averaging patches by thresholded cosine similarity, without the N × N similarities.

    s_ij = <g_i, g_j> / (||g_i|| ||g_j||)
    y_i  = sum_j s_ij [s_ij >= floor] x_j / (sum_j s_ij [s_ij >= floor] + 1e-6)

What stands for the similarities is the features they are made from and their inverse norms (`Similarity`);
blocks of s are computed where they are used. The products are those of the features as they are (fp16
products are exact in fp32), so nothing is rounded by normalising first. A program owns BLOCK_D channels of
BLOCK_M rows and repeats the block of s for each run of channels: at 768 channels three times, which costs
less than holding 768 of them in registers.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.library import triton_op

from scclip_kernels.affinity import affinity, cosine_similarity
from scclip_kernels.affinity import aggregate as _aggregate_torch
from scclip_kernels.fused._launch import check_shape, check_tensors, on_device_of, wrap_triton

NARROW = {"BLOCK_M": 32, "BLOCK_N": 64, "BLOCK_D": 256, "BLOCK_K": 64, "num_warps": 4}
# Products of fp32 run without tensor cores and take more registers.
WIDE = {"BLOCK_M": 32, "BLOCK_N": 32, "BLOCK_D": 128, "BLOCK_K": 32, "num_warps": 8}
NORM_BLOCK_N = 16
NORM_BLOCK_D = 256
MEAN_BLOCK_N = 32
MEAN_BLOCK_D = 64


class Similarity(NamedTuple):
    """Cosine similarities of the patches of each window, in factors.

    Attributes:
        features: (B, N, D), fp32, fp16 or bf16.
        inverse_norm: (B, N) float32.
    """

    features: Tensor
    inverse_norm: Tensor


@triton.jit
def _token_block(features, row, d, num_patches, width, stride_n, stride_d):
    """Rows (BLOCK_N,) and channels (BLOCK_D,) of the window that `features` leads to, fp32; 0 outside."""
    valid = (row < num_patches)[:, None] & (d < width)[None, :]
    address = features + row.to(tl.int64)[:, None] * stride_n + d[None, :] * stride_d
    return tl.load(address, mask=valid, other=0.0).to(tl.float32)


@triton.jit
def _inverse_norm_kernel(
    features, inverse_norm, num_patches, width, stride_b, stride_n, stride_d,
    BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """inverse_norm (B, N) fp32 = 1 / max(||x||, 1e-12)."""
    window = tl.program_id(1).to(tl.int64)
    row = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    square = tl.zeros((BLOCK_N, BLOCK_D), tl.float32)
    for d_start in range(0, width, BLOCK_D):
        d = d_start + tl.arange(0, BLOCK_D)
        x = _token_block(features + window * stride_b, row, d, num_patches, width, stride_n, stride_d)
        square += x * x
    norm = tl.maximum(tl.sqrt(tl.sum(square, axis=1)), 1e-12)
    tl.store(inverse_norm + window * num_patches + row, 1.0 / norm, mask=row < num_patches)


@triton.jit
def _mean_similarity_kernel(
    features, inverse_norm, parts, num_patches, width, stride_b, stride_n, stride_d,
    BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Part of the mean of s over all pairs, from BLOCK_D channels: mean s = ||mean of the unit features||^2."""
    window = tl.program_id(1).to(tl.int64)
    d = tl.program_id(0) * BLOCK_D + tl.arange(0, BLOCK_D)
    total = tl.zeros((BLOCK_N, BLOCK_D), tl.float32)
    for start in range(0, num_patches, BLOCK_N):
        row = start + tl.arange(0, BLOCK_N)
        x = _token_block(features + window * stride_b, row, d, num_patches, width, stride_n, stride_d)
        scale = tl.load(inverse_norm + window * num_patches + row, mask=row < num_patches, other=0.0)
        total += x * scale[:, None]
    mean = tl.sum(total, axis=0) / num_patches
    tl.store(parts + window * tl.num_programs(0) + tl.program_id(0), tl.sum(mean * mean))


@triton.jit
def similarity_block(
    guide, inverse_norm, row, column, num_patches, width, stride_n, stride_d,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """S of rows (BLOCK_M,) and columns (BLOCK_N,) of the window the pointers lead to; 0 outside."""
    s = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    row_valid, column_valid = row < num_patches, column < num_patches
    a_row = guide + row.to(tl.int64)[:, None] * stride_n
    b_column = guide + column.to(tl.int64)[None, :] * stride_n
    for start in range(0, width, BLOCK_K):
        k = start + tl.arange(0, BLOCK_K)
        a_valid = row_valid[:, None] & (k < width)[None, :]
        b_valid = (k < width)[:, None] & column_valid[None, :]
        a = tl.load(a_row + k[None, :] * stride_d, mask=a_valid, other=0.0)
        b = tl.load(b_column + k[:, None] * stride_d, mask=b_valid, other=0.0)
        s = tl.dot(a, b, s, input_precision=PRECISION)
    row_scale = tl.load(inverse_norm + row, mask=row_valid, other=0.0)
    column_scale = tl.load(inverse_norm + column, mask=column_valid, other=0.0)
    return s * row_scale[:, None] * column_scale[None, :]


@triton.jit
def _aggregate_kernel(
    features, guide, inverse_norm, out,
    num_patches, width, guide_width, floor,
    features_b, features_n, features_d, guide_b, guide_n, guide_d,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_K: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """BLOCK_M rows and BLOCK_D channels of out (B, N, D), contiguous; see the module's formula."""
    window = tl.program_id(2).to(tl.int64)
    features += window * features_b
    guide += window * guide_b
    inverse_norm += window * num_patches
    row = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    d = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)
    y = tl.zeros((BLOCK_M, BLOCK_D), tl.float32)
    total = tl.zeros((BLOCK_M,), tl.float32)
    for start in range(0, num_patches, BLOCK_N):
        column = start + tl.arange(0, BLOCK_N)
        s = similarity_block(
            guide, inverse_norm, row, column, num_patches, guide_width, guide_n, guide_d,
            BLOCK_M, BLOCK_N, BLOCK_K, PRECISION,
        )  # fmt: skip
        s = tl.where((s >= floor) & (column < num_patches)[None, :], s, 0.0)
        total += tl.sum(s, axis=1)
        valid = (column < num_patches)[:, None] & (d < width)[None, :]
        address = features + column.to(tl.int64)[:, None] * features_n + d[None, :] * features_d
        x = tl.load(address, mask=valid, other=0.0)
        y = tl.dot(s.to(x.dtype), x, y, input_precision=PRECISION)
    y = y / (total + 1e-6)[:, None]
    place = (window * num_patches + row)[:, None] * width + d[None, :]
    valid = (row < num_patches)[:, None] & (d < width)[None, :]
    tl.store(out + place, y.to(out.dtype.element_ty), mask=valid)


@triton_op("scclip::inverse_norm", mutates_args={})
def _inverse_norm(features: Tensor) -> Tensor:
    batch, patches, width = features.shape
    inverse_norm = torch.empty((batch, patches), dtype=torch.float32, device=features.device)
    wrap_triton(_inverse_norm_kernel)[(triton.cdiv(patches, NORM_BLOCK_N), batch)](
        features, inverse_norm, patches, width, *features.stride(), BLOCK_N=NORM_BLOCK_N, BLOCK_D=NORM_BLOCK_D
    )
    return inverse_norm


@triton_op("scclip::mean_similarity", mutates_args={})
def _mean_similarity(features: Tensor, inverse_norm: Tensor) -> Tensor:
    batch, patches, width = features.shape
    blocks = triton.cdiv(width, MEAN_BLOCK_D)
    parts = torch.empty((batch, blocks), dtype=torch.float32, device=features.device)
    wrap_triton(_mean_similarity_kernel)[(blocks, batch)](
        features, inverse_norm, parts, patches, width, *features.stride(),
        BLOCK_N=MEAN_BLOCK_N, BLOCK_D=MEAN_BLOCK_D,
    )  # fmt: skip
    return parts.sum(dim=-1)


@triton_op("scclip::aggregate", mutates_args={})
def _aggregate(features: Tensor, guide: Tensor, inverse_norm: Tensor, floor: float) -> Tensor:
    batch, patches, width = features.shape
    out = torch.empty(features.shape, dtype=features.dtype, device=features.device)
    sizes = WIDE if torch.float32 in (features.dtype, guide.dtype) else NARROW
    grid = (triton.cdiv(patches, sizes["BLOCK_M"]), triton.cdiv(width, sizes["BLOCK_D"]), batch)
    wrap_triton(_aggregate_kernel)[grid](
        features, guide, inverse_norm, out, patches, width, guide.shape[2], floor,
        *features.stride(), *guide.stride(),
        PRECISION="ieee", **sizes,
    )  # fmt: skip
    return out


def similarity(features: Tensor) -> Similarity:
    """Return the cosine similarities of every pair of patches, in factors.

    Args:
        features: (B, N, D), fp32, fp16 or bf16, any strides.
    """
    check_tensors("similarity", _inverse_norm_kernel, features=features)
    check_shape("similarity", "features", features, (None, None, None))
    with on_device_of(features):
        return Similarity(features, _inverse_norm(features))


def mean_similarity(similarity: Similarity) -> Tensor:
    """Return the mean over all pairs of patches of a window, (B,) float32, in O(N · D)."""
    with on_device_of(similarity.features):
        return _mean_similarity(similarity.features, similarity.inverse_norm)


def aggregate(features: Tensor, similarity: Similarity, floor: float = 0.4) -> Tensor:
    """Average patches by thresholded similarity, see the module's formula.

    Args:
        features: (B, N, D), fp32, fp16 or bf16, any strides.
        similarity: of the same patches; its features may have another width and dtype.
        floor: the threshold, upstream `beta`.

    Returns:
        (B, N, D) contiguous, dtype of `features`; sums are fp32.

    Raises:
        ValueError: shapes, dtypes or devices don't fit.
    """
    guide, inverse_norm = similarity
    check_tensors("aggregate", _aggregate_kernel, features=features, guide=guide, inverse_norm=inverse_norm)
    check_shape("aggregate", "features", features, (None, None, None))
    check_shape("aggregate", "similarity.features", guide, (*features.shape[:2], None))
    check_shape("aggregate", "similarity.inverse_norm", inverse_norm, tuple(features.shape[:2]))
    with on_device_of(features):
        return _aggregate(features, guide, inverse_norm.contiguous(), float(floor))


def aggregate_reference(features: Tensor, similarity: Similarity, floor: float = 0.4) -> Tensor:
    """The same in plain torch."""
    return _aggregate_torch(features, affinity(cosine_similarity(similarity.features), floor))
