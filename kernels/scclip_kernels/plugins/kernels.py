"""The Triton kernels under the calling convention of TensorRT's ahead-of-time plug-ins.

TensorRT launches a kernel with the addresses of its inputs, then the integers that were declared, then the addresses of
its outputs, and knows nothing of strides, of scalars that aren't integers, or of scratch memory. So each kernel here is
one of this package under another signature: tensors are contiguous, what is known when the engine is built is a
constant, and scratch memory is one more output. The arithmetic is the other kernel's own.
"""

import triton
import triton.language as tl

from scclip_kernels.triton.anomaly import _anomaly_score_kernel, _k_distance_kernel
from scclip_kernels.triton.attention import _attend_by_key_kernel, _attend_by_similarity_kernel
from scclip_kernels.triton.halves import _halves_kernel
from scclip_kernels.triton.outlier_repair import _repair_kernel
from scclip_kernels.triton.similarity import _aggregate_kernel


@triton.jit
def _halves_plugin(
    features, num_patches, pair, scale, square,
    WIDTH: tl.constexpr, ROWS: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """See `_halves_kernel`: features (B, N, WIDTH) fp32, centred where that is wanted."""
    _halves_kernel(
        features, features, pair, scale, square, num_patches, WIDTH, num_patches * WIDTH, WIDTH, 1,
        ROWS, BLOCK_D, False,
    )  # fmt: skip


@triton.jit
def _k_distance_plugin(
    pair, scale, square, num_patches, k_distance, neighbors, scratch,
    WIDTH: tl.constexpr, NEIGHBORS: tl.constexpr, TOP: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """See `_k_distance_kernel`."""
    _k_distance_kernel(
        pair, scale, square, scratch, k_distance, neighbors, num_patches, WIDTH, NEIGHBORS,
        False, TOP, BLOCK_M, BLOCK_N, BLOCK_K,
    )  # fmt: skip


@triton.jit
def _anomaly_score_plugin(
    k_distance, neighbors, num_patches, scores,
    NEIGHBORS: tl.constexpr, BLOCK: tl.constexpr, TOP: tl.constexpr,
):  # fmt: skip
    """See `_anomaly_score_kernel`."""
    _anomaly_score_kernel(k_distance, neighbors, scores, num_patches, NEIGHBORS, BLOCK, TOP)


@triton.jit
def _repair_plugin(
    patches, guide, scores, num_patches, out_patches, out_guide,
    WIDTH: tl.constexpr, COLUMNS: tl.constexpr, OUTLIERS: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """See `_repair_kernel`: patches, guide (B, N, WIDTH) fp32; scores (B, N) fp32."""
    stride = num_patches * WIDTH
    _repair_kernel(
        patches, guide, scores, out_patches, out_guide, num_patches, WIDTH, COLUMNS, OUTLIERS,
        stride, WIDTH, 1, stride, WIDTH, 1, BLOCK_M, BLOCK_N, BLOCK_D,
    )  # fmt: skip


@triton.jit
def _aggregate_plugin(
    features, pair, scale, square, num_patches, out, scratch,
    WIDTH: tl.constexpr, FLOOR: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """See `_aggregate_kernel`: features (B, N, WIDTH), the halves of a guide as wide."""
    _aggregate_kernel(
        features, pair, scale, square, scratch, out, num_patches, WIDTH, WIDTH, FLOOR,
        num_patches * WIDTH, WIDTH, 1, False, BLOCK_M, BLOCK_N, BLOCK_D, BLOCK_K,
    )  # fmt: skip


@triton.jit
def _attend_by_key_plugin(
    key, value, batch, num_patches, out, value_sum,
    HEADS: tl.constexpr, HEAD_DIM: tl.constexpr, SCALE: tl.constexpr, HEAD: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """See `_attend_by_key_kernel`: key, value (2, B, N, HEADS · HEAD_DIM)."""
    width: tl.constexpr = HEADS * HEAD_DIM
    stride = num_patches * width
    # 64 bits: the two passes of a large batch lie further apart than 32 bits count.
    both = batch.to(tl.int64) * stride
    _attend_by_key_kernel(
        key, value, out, value_sum, num_patches, HEADS, HEAD_DIM, SCALE,
        both, stride, width, 1, both, stride, width, 1, 2, HEAD, BLOCK_M, BLOCK_N,
    )  # fmt: skip


@triton.jit
def _attend_by_similarity_plugin(
    value, pair, scale, square, mean, by_key, num_patches, out, scratch,
    WIDTH: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """See `_attend_by_similarity_kernel`: value (B, N, WIDTH), the halves of a guide as wide."""
    _attend_by_similarity_kernel(
        value, pair, scale, square, mean, by_key, scratch, out, num_patches, WIDTH, WIDTH,
        False, BLOCK_M, BLOCK_N, BLOCK_D, BLOCK_K,
    )  # fmt: skip
