"""The fused kernels under the calling convention of TensorRT's ahead-of-time plug-ins.

TensorRT launches a kernel with the addresses of its inputs, then the integers that were declared, then the addresses of
its outputs, and knows nothing of strides, of scalars that aren't integers, or of scratch memory. So each kernel here is
one of this package under another signature: tensors are contiguous, what is known when the engine is built is a
constant, and scratch memory is one more output. The arithmetic is the other kernel's own.
"""

import triton
import triton.language as tl

from scclip_kernels.fused.affinity import _aggregate_kernel
from scclip_kernels.fused.anomaly import _anomaly_score_kernel, _k_distance_kernel
from scclip_kernels.fused.attention import _calibrated_attention_kernel
from scclip_kernels.fused.resolution import _resolution_kernel


@triton.jit
def _k_distance_plugin(
    features, mean, num_patches, k_distance, neighbors,
    WIDTH: tl.constexpr, NEIGHBORS: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, TOP: tl.constexpr,
):  # fmt: skip
    """See `_k_distance_kernel`: features (B, N, WIDTH) fp32, mean (B, WIDTH) fp32."""
    _k_distance_kernel(
        features, mean, k_distance, neighbors, num_patches, WIDTH, NEIGHBORS, num_patches * WIDTH, WIDTH, 1,
        BLOCK_M, BLOCK_N, BLOCK_D, TOP,
    )  # fmt: skip


@triton.jit
def _anomaly_score_plugin(
    k_distance, neighbors, num_patches, scores,
    NEIGHBORS: tl.constexpr, BLOCK: tl.constexpr, TOP: tl.constexpr,
):  # fmt: skip
    """See `_anomaly_score_kernel`."""
    _anomaly_score_kernel(k_distance, neighbors, scores, num_patches, NEIGHBORS, BLOCK, TOP)


@triton.jit
def _resolution_plugin(
    patches, guide, scores, num_patches, out_patches, out_guide,
    WIDTH: tl.constexpr, COLUMNS: tl.constexpr, OUTLIERS: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """See `_resolution_kernel`: patches, guide (B, N, WIDTH) fp32; scores (B, N) fp32."""
    stride = num_patches * WIDTH
    _resolution_kernel(
        patches, guide, scores, out_patches, out_guide, num_patches, WIDTH, COLUMNS, OUTLIERS,
        stride, WIDTH, 1, stride, WIDTH, 1, BLOCK_M, BLOCK_N, BLOCK_D,
    )  # fmt: skip


@triton.jit
def _aggregate_plugin(
    features, guide, inverse_norm, num_patches, out,
    WIDTH: tl.constexpr, FLOOR: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_K: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """See `_aggregate_kernel`: features and guide (B, N, WIDTH), inverse_norm (B, N) fp32."""
    stride = num_patches * WIDTH
    _aggregate_kernel(
        features, guide, inverse_norm, out, num_patches, WIDTH, WIDTH, FLOOR,
        stride, WIDTH, 1, stride, WIDTH, 1, BLOCK_M, BLOCK_N, BLOCK_D, BLOCK_K, PRECISION,
    )  # fmt: skip


@triton.jit
def _calibrated_attention_plugin(
    key, value, guide, inverse_norm, mean, batch, num_patches, out, scratch,
    WIDTH: tl.constexpr, HEADS: tl.constexpr, HEAD_DIM: tl.constexpr, SCALE: tl.constexpr,
    GROUP: tl.constexpr, HEAD: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """See `_calibrated_attention_kernel`: key, value (2, B, N, WIDTH)."""
    stride = num_patches * WIDTH
    # 64 bits: the two passes of a large batch lie further apart than 32 bits count.
    both = batch.to(tl.int64) * stride
    _calibrated_attention_kernel(
        key, value, guide, inverse_norm, mean, scratch, out, 2, num_patches, HEADS, HEAD_DIM, WIDTH, SCALE,
        both, stride, WIDTH, 1, both, stride, WIDTH, 1, stride, WIDTH, 1,
        GROUP, HEAD, BLOCK_M, BLOCK_N, BLOCK_K, PRECISION,
    )  # fmt: skip
