"""Similarity: averaging patches by thresholded cosine similarity, without the N × N similarities.

    s_ij = <g_i, g_j> / (||g_i|| ||g_j||)
    y_i  = sum_j s_ij [s_ij >= floor] x_j / (sum_j s_ij [s_ij >= floor] + 1e-6)

What stands for the similarities is the features they are made from, in halves (`Similarity`); blocks of s are
computed where they are used, once: a program owns BLOCK_M rows with all their channels. It makes s of 2 BLOCK_N
patches, then runs through the channels. Where that is a whole row it is all; else the sums so far wait in memory
(float32, of the output's size) between blocks: in registers there is no room for them.
"""

from collections.abc import Mapping
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.library import triton_op

from scclip_kernels.similarity import aggregate as _aggregate_torch
from scclip_kernels.similarity import cosine_similarity, similarity_weights
from scclip_kernels.triton.halves import _halves_kernel, gram_block, halves
from scclip_kernels.triton.launch import (
    check_shape,
    check_tensors,
    is_hopper,
    on_device_of,
    wrap_triton,
)

NARROW = {"BLOCK_M": 32, "BLOCK_N": 64, "BLOCK_D": 32, "BLOCK_K": 32, "num_warps": 2, "num_stages": 2}
# Compute capability 9.0, by measurement (docs/kernels.md); for rows of one block and for longer ones.
HOPPER = {"BLOCK_M": 64, "BLOCK_N": 128, "BLOCK_D": 64, "BLOCK_K": 64, "num_warps": 4, "num_stages": 3}
HOPPER_LONG = HOPPER | {"BLOCK_D": 32, "BLOCK_K": 32}
# Products with fp32 features run without tensor cores and take more registers.
WIDE = {"BLOCK_M": 16, "BLOCK_N": 32, "BLOCK_D": 64, "BLOCK_K": 32, "num_warps": 8, "num_stages": 2}
MEAN_BLOCK_N = 32
MEAN_BLOCK_D = 64


class Similarity(NamedTuple):
    """Cosine similarities of the patches of each window, in factors.

    Attributes:
        features: (B, N, D), fp32, fp16 or bf16.
        pair, scale, square: its `halves.Halves`.
    """

    features: Tensor
    pair: Tensor
    scale: Tensor
    square: Tensor


@triton.jit
def _mean_similarity_kernel(
    pair, scale, square, parts, num_patches, width, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr
):
    """Part of the mean of s over all pairs, from BLOCK_D channels: mean s = ||mean of the unit features||^2."""
    window = tl.program_id(1).to(tl.int64)
    first = window * num_patches
    pair += first * 2 * width
    d = tl.program_id(0) * BLOCK_D + tl.arange(0, BLOCK_D)
    total = tl.zeros((BLOCK_N, BLOCK_D), tl.float32)
    for start in range(0, num_patches, BLOCK_N):
        row = start + tl.arange(0, BLOCK_N)
        valid = (row < num_patches)[:, None] & (d < width)[None, :]
        address = pair + row[:, None] * (2 * width) + d[None, :]
        x = tl.load(address, mask=valid, other=0.0).to(tl.float32)
        x += tl.load(address + width, mask=valid, other=0.0).to(tl.float32)
        total += x * unit_scale(scale + first, square + first, row, num_patches)[:, None]
    mean = tl.sum(total, axis=0) / num_patches
    tl.store(parts + window * tl.num_programs(0) + tl.program_id(0), tl.sum(mean * mean))


@triton.jit
def unit_scale(scale, square, row, num_patches):
    """What makes the halves of `row` (R,) unit rows: c / max(||x||, 1e-12); 0 outside."""
    c = tl.load(scale + row, mask=row < num_patches, other=0.0)
    norm = tl.sqrt(tl.load(square + row, mask=row < num_patches, other=1.0))
    return c / tl.maximum(norm, 1e-12)


@triton.jit
def _weights(
    pair, scale, square, threshold, row, row_scale, column, num_patches, width,
    ATTEND: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """Weights of rows (BLOCK_M,) and columns (BLOCK_N,) before their division, fp32; 0 in columns outside."""
    s = gram_block(pair, row, column, num_patches, width, BLOCK_M, BLOCK_N, BLOCK_K, True)
    s = s * row_scale[:, None] * unit_scale(scale, square, column, num_patches)[None, :]
    kept = s >= threshold
    if ATTEND:
        # The diagonal always counts: rounding must not empty a row whose similarities are all equal.
        kept = kept | (row[:, None] == column[None, :])
        s = tl.exp(3.0 * (s - 1.0))
    return tl.where(kept & (column < num_patches)[None, :], s, 0.0)


@triton.jit
def average_by_similarity(
    features, pair, scale, square, threshold, addend, scratch, out, window, row,
    num_patches, width, guide_width, features_n, features_d,
    ATTEND: tl.constexpr, WHOLE: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """Rows (BLOCK_M,) of one window of out (B, N, width): weighted means of `features`.

    The weights are the similarities themselves from `threshold` on, or, if ATTEND, exp(3 (s - 1)) of those: the
    result is then half of that and `addend`, which is like out (and may be out). `features` leads to the window;
    pair, scale, square, scratch and out to the first of all. WHOLE promises num_patches <= 2 BLOCK_N, and leaves
    `scratch`, fp32 like out, alone.
    """
    first = window * num_patches
    pair += first * 2 * guide_width
    scale += first
    square += first
    place = (first + row)[:, None] * width
    row_valid = (row < num_patches)[:, None]
    row_scale = unit_scale(scale, square, row, num_patches)
    total = tl.zeros((BLOCK_M,), tl.float32)
    for start in range(0, 1 if WHOLE else num_patches, 2 * BLOCK_N):
        # Two blocks side by side: the products of one of twice the width take more registers than there are.
        left = start + tl.arange(0, BLOCK_N)
        right = left + BLOCK_N
        weight = _weights(
            pair, scale, square, threshold, row, row_scale, left, num_patches, guide_width,
            ATTEND, BLOCK_M, BLOCK_N, BLOCK_K,
        )  # fmt: skip
        total += tl.sum(weight, axis=1)
        left_weight = weight.to(features.dtype.element_ty)
        weight = _weights(
            pair, scale, square, threshold, row, row_scale, right, num_patches, guide_width,
            ATTEND, BLOCK_M, BLOCK_N, BLOCK_K,
        )  # fmt: skip
        total += tl.sum(weight, axis=1)
        right_weight = weight.to(features.dtype.element_ty)
        last = WHOLE or start + 2 * BLOCK_N >= num_patches
        factor = 0.5 / tl.where(row < num_patches, total, 1.0) if ATTEND else 1.0 / (total + 1e-6)
        for d_start in range(0, width, BLOCK_D):
            d = d_start + tl.arange(0, BLOCK_D)
            d_valid = (d < width)[None, :]
            stored = row_valid & d_valid
            if WHOLE:
                y = tl.zeros((BLOCK_M, BLOCK_D), tl.float32)
            else:
                y = tl.load(scratch + place + d[None, :], mask=stored & (start > 0), other=0.0)
            address = features + left[:, None] * features_n + d[None, :] * features_d
            x = tl.load(address, mask=(left < num_patches)[:, None] & d_valid, other=0.0)
            y = tl.dot(left_weight, x, y, input_precision="ieee")
            address += BLOCK_N * features_n
            x = tl.load(address, mask=(right < num_patches)[:, None] & d_valid, other=0.0)
            y = tl.dot(right_weight, x, y, input_precision="ieee")
            if not WHOLE:
                tl.store(scratch + place + d[None, :], y, mask=stored & (not last))
            y = y * factor[:, None]
            if ATTEND:
                by_key = tl.load(addend + place + d[None, :], mask=stored & last, other=0.0)
                y += by_key.to(tl.float32)
            tl.store(out + place + d[None, :], y.to(out.dtype.element_ty), mask=stored & last)
        if not WHOLE:
            tl.debug_barrier()  # the sums are read again, maybe by other threads than wrote them


@triton.jit
def _aggregate_kernel(
    features, pair, scale, square, scratch, out, num_patches, width, guide_width, floor,
    features_b, features_n, features_d,
    WHOLE: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
    BLOCK_K: tl.constexpr,
):  # fmt: skip
    """BLOCK_M rows of out (B, N, width), contiguous; see the module's formula."""
    window = tl.program_id(1).to(tl.int64)
    row = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    # Inductor passes Python's floats as fp64.
    average_by_similarity(
        features + window * features_b, pair, scale, square, tl.cast(floor, tl.float32), out, scratch, out, window, row,
        num_patches, width, guide_width, features_n, features_d,
        False, WHOLE, BLOCK_M, BLOCK_N, BLOCK_D, BLOCK_K,
    )  # fmt: skip


@triton_op("scclip::mean_similarity", mutates_args={})
def _mean_similarity(pair: Tensor, scale: Tensor, square: Tensor) -> Tensor:
    batch, patches, _, width = pair.shape
    blocks = triton.cdiv(width, MEAN_BLOCK_D)
    parts = torch.empty((batch, blocks), dtype=torch.float32, device=pair.device)
    wrap_triton(_mean_similarity_kernel)[(blocks, batch)](
        pair, scale, square, parts, patches, width, BLOCK_N=MEAN_BLOCK_N, BLOCK_D=MEAN_BLOCK_D
    )
    return parts.sum(dim=-1)


def scratch_for(out: Tensor, *, whole: bool) -> Tensor:
    """Memory for sums between blocks, fp32 like `out` (B, N, D); one number if there is one block."""
    return torch.empty((1,) if whole else out.shape, dtype=torch.float32, device=out.device)


def launch_sizes(features: Tensor, hopper: Mapping[str, int], long: Mapping[str, int]) -> dict[str, int]:
    """Return the constants of `average_by_similarity` and launch options for features (B, N, D)."""
    sizes: Mapping[str, int] = WIDE if features.dtype == torch.float32 else NARROW
    if sizes is NARROW and is_hopper(features.device):
        sizes = hopper if features.shape[1] <= 2 * hopper["BLOCK_N"] else long
    return {"WHOLE": features.shape[1] <= 2 * sizes["BLOCK_N"], **sizes}


@triton_op("scclip::aggregate", mutates_args={})
def _aggregate(features: Tensor, pair: Tensor, scale: Tensor, square: Tensor, floor: float) -> Tensor:
    batch, patches, width = features.shape
    out = torch.empty(features.shape, dtype=features.dtype, device=features.device)
    sizes = launch_sizes(features, HOPPER, HOPPER_LONG)
    scratch = scratch_for(out, whole=bool(sizes["WHOLE"]))
    wrap_triton(_aggregate_kernel)[(triton.cdiv(patches, sizes["BLOCK_M"]), batch)](
        features, pair, scale, square, scratch, out, patches, width, pair.shape[3], floor, *features.stride(),
        **sizes,
    )  # fmt: skip
    return out


def similarity(features: Tensor) -> Similarity:
    """Return the cosine similarities of every pair of patches, in factors.

    Args:
        features: (B, N, D), fp32, fp16 or bf16, any strides.
    """
    check_tensors("similarity", _halves_kernel, features=features)
    check_shape("similarity", "features", features, (None, None, None))
    with on_device_of(features):
        return Similarity(features, *halves(features))


def check_similarity(operation: str, similarity: Similarity, shape: tuple[int, ...]) -> None:
    """Refuse factors of other patches than `shape` (B, N); `similarity` made them fit each other.

    Raises:
        ValueError: says which shape was wanted and found.
    """
    check_shape(operation, "similarity.features", similarity.features, (*shape, None))


def mean_similarity(similarity: Similarity) -> Tensor:
    """Return the mean over all pairs of patches of a window, (B,) float32, in O(N · D)."""
    with on_device_of(similarity.pair):
        return _mean_similarity(*similarity[1:])


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
    check_tensors("aggregate", _aggregate_kernel, features=features, guide=similarity.features)
    check_shape("aggregate", "features", features, (None, None, None))
    check_similarity("aggregate", similarity, tuple(features.shape[:2]))
    with on_device_of(features):
        return _aggregate(features, *similarity[1:], float(floor))


def aggregate_reference(features: Tensor, similarity: Similarity, floor: float = 0.4) -> Tensor:
    """The same in plain torch."""
    return _aggregate_torch(features, similarity_weights(cosine_similarity(similarity.features), floor))
