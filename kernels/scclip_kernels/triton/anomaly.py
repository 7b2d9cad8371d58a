"""Anomaly scores: distances, nearest neighbours and local outlier factor, without the N × N distances.

    d_ij = ||x_i - x_j||^2 (Gram form, mean token subtracted, in halves),  d_ii left out
    K_i = the k smallest of row i;  kd_i = the largest of them
    score_i = kd_i · mean over j in K_i of 1 / kd_j

Three launches: the halves; the nearest; and, because scores need the k-distances of all patches, the scores. A program
holds the distances of its rows to 2 BLOCK_N patches, and finds the k-th smallest by bisection between the bits of the
smallest and the largest (non-negative floats sort as integers) until exactly k are below, or a tie is left, which goes
to the lower indices. Where there are more patches, the k nearest so far wait in memory and take part in the next
block's search.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.library import triton_op

from scclip_kernels.anomaly import anomaly_scores as _anomaly_scores_torch
from scclip_kernels.triton.halves import gram_block, halves
from scclip_kernels.triton.launch import (
    check_shape,
    check_tensors,
    is_hopper,
    next_power_of_2,
    on_device_of,
    wrap_triton,
)

SIZES = {"BLOCK_M": 32, "BLOCK_N": 128, "BLOCK_K": 32, "num_warps": 8, "num_stages": 2}
LONG = SIZES | {"BLOCK_N": 64}  # for more patches than two blocks: what waits between blocks takes registers
# Compute capability 9.0, by measurement (docs/kernels.md): rows of one block, and those of few windows, where smaller
# blocks occupy more of the GPU.
HOPPER = {"BLOCK_M": 64, "BLOCK_N": 128, "BLOCK_K": 32, "num_warps": 8, "num_stages": 3}
HOPPER_FEW = {"BLOCK_M": 16, "BLOCK_N": 128, "BLOCK_K": 64, "num_warps": 4, "num_stages": 3}
FEW_PROGRAMS = 64
SCORE_BLOCK = 32
MAX_NEIGHBORS = 64
"""Below 2 BLOCK_N - 1 of every size, so that every block but the first finds k before it."""
NONE = tl.constexpr(0x7FFFFFFF)  # above the bits of any distance


@triton.jit
def _distance_bits(
    pair, scale, square, row, column, num_patches, width,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """Squared distances of rows (BLOCK_M,) and columns (BLOCK_N,) of the window `pair` leads to, as bits of fp32.

    NONE on the diagonal and in columns outside.
    """
    row_valid, column_valid = row < num_patches, column < num_patches
    g = gram_block(pair, row, column, num_patches, width, BLOCK_M, BLOCK_N, BLOCK_K, False)
    row_scale = 2.0 * tl.load(scale + row, mask=row_valid, other=0.0)
    column_scale = tl.load(scale + column, mask=column_valid, other=0.0)
    norms = tl.load(square + row, mask=row_valid, other=0.0)[:, None]
    norms = norms + tl.load(square + column, mask=column_valid, other=0.0)[None, :]
    # Below any distance between distinct fp32 tokens; keeps 1 / kd finite when more than k tokens are identical.
    distance = tl.maximum(norms - g * row_scale[:, None] * column_scale[None, :], 1e-30)
    candidate = column_valid[None, :] & (row[:, None] != column[None, :])
    return tl.where(candidate, distance.to(tl.int32, bitcast=True), NONE)


@triton.jit
def _least(bits):
    return tl.min(bits, axis=1)


@triton.jit
def _largest(bits):
    return tl.max(tl.where(bits == NONE, -1, bits), axis=1)


@triton.jit
def _up_to(bits, limit):
    return tl.sum((bits <= limit[:, None]).to(tl.int32), axis=1)


@triton.jit
def _below(bits, limit):
    return tl.sum((bits < limit[:, None]).to(tl.int32), axis=1)


@triton.jit
def _bisect(left, right, old, num_neighbors, WHOLE: tl.constexpr):
    """A number per row that num_neighbors of all bits are at or below: exactly so many, if no tie forbids it."""
    low = tl.minimum(_least(left), _least(right))
    high = tl.maximum(_largest(left), _largest(right))
    if not WHOLE:
        low = tl.minimum(low, _least(old))
        worst = _largest(old)
        high = tl.where(worst < 0, high, worst)
    low -= 1  # fewer than num_neighbors are at or below it
    while tl.max(high - low, axis=0) > 1:
        middle = low + (high - low) // 2
        count = _up_to(left, middle) + _up_to(right, middle)
        if not WHOLE:
            count += _up_to(old, middle)
        high = tl.where(count >= num_neighbors, middle, high)
        low = tl.where(count < num_neighbors, middle, low)
        low = tl.where(count == num_neighbors, high - 1, low)
    return high


@triton.jit
def _keep(bits, index, limit, need, below_before, equal_before, neighbors, near, WHOLE: tl.constexpr):
    """Write those of `bits` that are among the nearest, and their `index`, to their places in the rows' lists.

    Returns the largest of them, and how many numbers were below and equal to the limit up to here, per row.
    """
    below = (bits < limit[:, None]).to(tl.int32)
    equal = (bits == limit[:, None]).to(tl.int32)
    both = tl.cumsum(below + (equal << 16), axis=1) + (below_before + (equal_before << 16))[:, None]
    equals = (both >> 16) - equal
    member = (below > 0) | ((equal > 0) & (equals < need[:, None]))
    place = (both & 0xFFFF) - below + tl.minimum(equals, need[:, None])
    tl.store(neighbors + place, index, mask=member)
    if not WHOLE:
        tl.store(near + place, bits, mask=member)
    largest = tl.max(tl.where(member, bits, 0), axis=1)
    return largest, below_before + tl.sum(below, axis=1), equal_before + tl.sum(equal, axis=1)


@triton.jit
def _k_distance_kernel(
    pair, scale, square, near, k_distance, neighbors, num_patches, width, num_neighbors,
    WHOLE: tl.constexpr, TOP: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """The num_neighbors nearest patches of BLOCK_M patches of one window.

    pair, scale, square are the halves of the centred patches; k_distance (B, N) fp32; neighbors (B, N, num_neighbors)
    int32, ascending. WHOLE promises num_patches <= 2 BLOCK_N, and leaves `near`, like neighbors, alone: it holds the
    bits of the distances between blocks.
    """
    first = tl.program_id(1).to(tl.int64) * num_patches
    pair += first * 2 * width
    scale += first
    square += first
    row = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    # Rows outside are computed like the last one, and write the same.
    row = tl.minimum(row, num_patches - 1)
    neighbors += (first + row)[:, None] * num_neighbors
    near += (first + row)[:, None] * num_neighbors
    rank = tl.arange(0, TOP)[None, :]
    for start in range(0, 1 if WHOLE else num_patches, 2 * BLOCK_N):
        if not WHOLE:
            listed = (rank < num_neighbors) & (start > 0) & (row >= 0)[:, None]
            tl.debug_barrier()  # other threads wrote what is read here,
            old = tl.load(near + rank, mask=listed, other=NONE)
            index = tl.load(neighbors + rank, mask=listed, other=0)
            tl.debug_barrier()  # and may write again before it is read
        column = start + tl.arange(0, BLOCK_N)
        left = _distance_bits(pair, scale, square, row, column, num_patches, width, BLOCK_M, BLOCK_N, BLOCK_K)
        right = _distance_bits(
            pair, scale, square, row, column + BLOCK_N, num_patches, width, BLOCK_M, BLOCK_N, BLOCK_K
        )
        if WHOLE:
            old, index = left, left
        limit = _bisect(left, right, old, num_neighbors, WHOLE)
        need = num_neighbors - _below(left, limit) - _below(right, limit)
        below = tl.zeros((BLOCK_M,), tl.int32)
        equal = below
        worst = below
        if not WHOLE:
            need -= _below(old, limit)
            worst, below, equal = _keep(old, index, limit, need, below, equal, neighbors, near, WHOLE)
        column = column[None, :] + tl.zeros((BLOCK_M, BLOCK_N), tl.int32)
        more, below, equal = _keep(left, column, limit, need, below, equal, neighbors, near, WHOLE)
        worst = tl.maximum(worst, more)
        more, below, equal = _keep(right, column + BLOCK_N, limit, need, below, equal, neighbors, near, WHOLE)
        worst = tl.maximum(worst, more)
        if start + 2 * BLOCK_N >= num_patches:
            tl.store(k_distance + first + row, worst.to(tl.float32, bitcast=True))


@triton.jit
def _anomaly_score_kernel(
    k_distance, neighbors, scores, num_patches, num_neighbors, BLOCK: tl.constexpr, TOP: tl.constexpr
):
    """Scores (B, N) fp32 from k_distance (B, N) and neighbors (B, N, num_neighbors)."""
    window = tl.program_id(1).to(tl.int64)
    row = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    rank = tl.arange(0, TOP)
    row_valid = row < num_patches
    valid = row_valid[:, None] & (rank < num_neighbors)[None, :]
    place = window * num_patches + row
    index = tl.load(neighbors + place[:, None] * num_neighbors + rank[None, :], mask=valid, other=0)
    distance = tl.load(k_distance + window * num_patches + index, mask=valid, other=1.0)
    density = tl.sum(tl.where(valid, 1.0 / distance, 0.0), axis=1) / num_neighbors
    own = tl.load(k_distance + place, mask=row_valid, other=0.0)
    tl.store(scores + place, own * density, mask=row_valid)


def launch_sizes(features: Tensor) -> dict[str, int]:
    """Return the constants of `_k_distance_kernel` but TOP, and launch options, for features (B, N, D)."""
    batch, patches, _ = features.shape
    sizes = SIZES if patches <= 2 * SIZES["BLOCK_N"] else LONG
    if is_hopper(features.device) and patches <= 2 * HOPPER["BLOCK_N"]:
        few = batch * triton.cdiv(patches, HOPPER["BLOCK_M"]) < FEW_PROGRAMS
        sizes = HOPPER_FEW if few else HOPPER
    return {"WHOLE": patches <= 2 * sizes["BLOCK_N"], **sizes}


@triton_op("scclip::anomaly_scores", mutates_args={})
def _anomaly_scores(features: Tensor, num_neighbors: int) -> Tensor:
    batch, patches, width = features.shape
    mean = features.mean(dim=1, dtype=torch.float32)
    k_distance = torch.empty((batch, patches), dtype=torch.float32, device=features.device)
    neighbors = torch.empty((batch, patches, num_neighbors), dtype=torch.int32, device=features.device)
    scores = torch.empty_like(k_distance)
    sizes = launch_sizes(features)
    whole = bool(sizes["WHOLE"])
    near = k_distance if whole else torch.empty_like(neighbors)
    top = next_power_of_2(num_neighbors)
    wrap_triton(_k_distance_kernel)[(triton.cdiv(patches, sizes["BLOCK_M"]), batch)](
        *halves(features, mean), near, k_distance, neighbors, patches, width, num_neighbors,
        TOP=top, **sizes,
    )  # fmt: skip
    wrap_triton(_anomaly_score_kernel)[(triton.cdiv(patches, SCORE_BLOCK), batch)](
        k_distance, neighbors, scores, patches, num_neighbors, BLOCK=SCORE_BLOCK, TOP=top
    )
    return scores


def anomaly_scores(features: Tensor, num_neighbors: int = 30) -> Tensor:
    """Return the local outlier factor of every patch, see `scclip_kernels.anomaly_scores`.

    Args:
        features: (B, N, D), fp32, fp16 or bf16, any strides; the arithmetic is fp32.
        num_neighbors: k, at most N - 1 and 64.

    Returns:
        (B, N) float32.

    Raises:
        ValueError: too few patches, too many neighbours, or tensors the kernel can't take.
    """
    check_tensors("anomaly_scores", _k_distance_kernel, features=features)
    check_shape("anomaly_scores", "features", features, (None, None, None))
    limit = min(features.shape[1] - 1, MAX_NEIGHBORS)
    if not 1 <= num_neighbors <= limit:
        raise ValueError(
            f"anomaly_scores: num_neighbors must be in 1..{limit} for {features.shape[1]} patches; got {num_neighbors}"
        )
    with on_device_of(features):
        return _anomaly_scores(features, num_neighbors)


def anomaly_scores_reference(features: Tensor, num_neighbors: int = 30) -> Tensor:
    """The same in plain torch; see `scclip_kernels.anomaly_scores`."""
    return _anomaly_scores_torch(features, num_neighbors)
