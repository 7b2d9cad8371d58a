"""Anomaly scores: distances, nearest neighbours and local outlier factor, without the N × N distances.

    d_ij = ||x_i - x_j||^2 (Gram form, mean token subtracted, fp32),  d_ii left out
    K_i = the k smallest of row i;  kd_i = the largest of them
    score_i = kd_i · mean over j in K_i of 1 / kd_j

Two launches, because scores need the k-distances of all patches. The first streams blocks of keys and keeps
each row's smallest distances: bits of the distance and index packed into one integer, so that equal
distances go to the lower index. After the first block few candidates beat a row's worst, and the loop that
lets them in ends early.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.library import triton_op

from scclip_kernels.anomaly import anomaly_scores as _anomaly_scores_torch
from scclip_kernels.fused._launch import (
    check_shape,
    check_tensors,
    next_power_of_2,
    on_device_of,
    wrap_triton,
)

BLOCK_M = 16
BLOCK_N = 32
BLOCK_D = 32
BLOCK_D_WIDE = 16  # fp32: larger blocks spill on sm_100
SCORE_BLOCK = 32
MAX_NEIGHBORS = 64


@triton.jit
def _k_distance_kernel(
    features, mean, k_distance, neighbors,
    num_patches, width, num_neighbors, stride_b, stride_n, stride_d,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, TOP: tl.constexpr,
):  # fmt: skip
    """The num_neighbors nearest patches of BLOCK_M patches of one window.

    features (B, N, D), mean (B, D) fp32, k_distance (B, N) fp32, neighbors (B, N, num_neighbors) int32 in
    no order.
    """
    window = tl.program_id(1).to(tl.int64)
    features += window * stride_b
    row = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    row_valid = row < num_patches
    # Candidates are packed so that nearer is larger. Lanes in use start below any candidate and apart from each other;
    # the others above all of them. Not tl.topk: a bitonic network costs more than the few candidates that get in.
    rank = tl.arange(0, TOP).to(tl.int64)[None, :]
    nearest = tl.where(rank < num_neighbors, rank, 0x7FFFFFFFFFFFFFFF) + tl.zeros((BLOCK_M, TOP), tl.int64)
    worst = tl.min(nearest, axis=1)
    for start in range(0, num_patches, BLOCK_N):
        column = start + tl.arange(0, BLOCK_N)
        column_valid = column < num_patches
        product = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
        row_norm = tl.zeros((BLOCK_M,), tl.float32)
        column_norm = tl.zeros((BLOCK_N,), tl.float32)
        for d_start in range(0, width, BLOCK_D):
            d = d_start + tl.arange(0, BLOCK_D)
            d_valid = d < width
            center = tl.load(mean + window * width + d, mask=d_valid, other=0.0)
            a_valid = row_valid[:, None] & d_valid[None, :]
            a_address = features + row.to(tl.int64)[:, None] * stride_n + d[None, :] * stride_d
            a = tl.load(a_address, mask=a_valid, other=0.0).to(tl.float32)
            a = tl.where(a_valid, a - center[None, :], 0.0)
            b_valid = d_valid[:, None] & column_valid[None, :]
            b_address = features + column.to(tl.int64)[None, :] * stride_n + d[:, None] * stride_d
            b = tl.load(b_address, mask=b_valid, other=0.0).to(tl.float32)
            b = tl.where(b_valid, b - center[:, None], 0.0)
            product = tl.dot(a, b, product, input_precision="ieee")
            row_norm += tl.sum(a * a, axis=1)
            column_norm += tl.sum(b * b, axis=0)
        distance = row_norm[:, None] + column_norm[None, :] - 2.0 * product
        # Below any distance between distinct fp32 tokens; keeps 1 / kd finite when more than k tokens are identical.
        distance = tl.maximum(distance, 1e-30)
        bits = distance.to(tl.int32, bitcast=True).to(tl.int64)  # non-negative floats sort as integers
        packed = 0x7FFFFFFFFFFFFFFF - ((bits << 32) | column.to(tl.int64)[None, :])
        candidate = column_valid[None, :] & (row[:, None] != column[None, :])
        block = tl.where(candidate, packed, -1)
        best = tl.max(block, axis=1)
        while tl.max((best > worst).to(tl.int32), axis=0) > 0:
            replaced = (best > worst)[:, None] & (nearest == worst[:, None])
            nearest = tl.where(replaced, best[:, None], nearest)
            block = tl.where(block == best[:, None], -1, block)
            worst = tl.min(nearest, axis=1)
            best = tl.max(block, axis=1)
    index = ((0x7FFFFFFFFFFFFFFF - nearest) & 0x7FFFFFFF).to(tl.int32)
    place = window * num_patches + row
    wanted = row_valid[:, None] & (rank < num_neighbors)
    tl.store(neighbors + place[:, None] * num_neighbors + rank, index, mask=wanted)
    last = ((0x7FFFFFFFFFFFFFFF - worst) >> 32).to(tl.int32).to(tl.float32, bitcast=True)
    tl.store(k_distance + place, last, mask=row_valid)


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


@triton_op("scclip::anomaly_scores", mutates_args={})
def _anomaly_scores(features: Tensor, num_neighbors: int) -> Tensor:
    batch, patches, width = features.shape
    mean = features.mean(dim=1, dtype=torch.float32)
    k_distance = torch.empty((batch, patches), dtype=torch.float32, device=features.device)
    neighbors = torch.empty((batch, patches, num_neighbors), dtype=torch.int32, device=features.device)
    scores = torch.empty_like(k_distance)
    top = next_power_of_2(num_neighbors)
    block_d = BLOCK_D_WIDE if features.dtype == torch.float32 else BLOCK_D
    wrap_triton(_k_distance_kernel)[(triton.cdiv(patches, BLOCK_M), batch)](
        features, mean, k_distance, neighbors, patches, width, num_neighbors, *features.stride(),
        BLOCK_M=BLOCK_M, BLOCK_N=BLOCK_N, BLOCK_D=block_d, TOP=top,
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
