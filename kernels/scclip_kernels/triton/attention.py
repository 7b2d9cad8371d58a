"""Calibrated attention of the last block, every pass at once, without N × N weights.

    P      = softmax over j of 3 (s_ij - mean s), entries below the mean left out
    out_i  = 1/2 sum over passes z of (P v_z + softmax(k_z k_z^T / sqrt(head_dim)) v_z)

The largest s of a row is its diagonal, 1, so P needs no running maximum: exp(3 (s - 1)) is at most 1, and the mean
matters only to the mask. Two launches, each of which takes all passes: the second part first, ordinary streamed
attention with q = k in a program per head, which also sums the passes' values; then P v, which adds to it. P has no
head axis, so its programs own rows with all channels, and the two parts share neither work nor shape: in one launch a
program would run all heads after each other.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.library import triton_op

from scclip_kernels.attention import calibrated_attention as _calibrated_attention_torch
from scclip_kernels.attention import similarity_attention
from scclip_kernels.similarity import cosine_similarity
from scclip_kernels.triton import similarity as by_similarity
from scclip_kernels.triton.launch import (
    check_shape,
    check_tensors,
    next_power_of_2,
    on_device_of,
    wrap_triton,
)
from scclip_kernels.triton.similarity import (
    Similarity,
    average_by_similarity,
    check_similarity,
    launch_sizes,
    mean_similarity,
    scratch_for,
)

NARROW = {"BLOCK_M": 64, "BLOCK_N": 32, "num_warps": 4, "num_stages": 3}
WIDE = {"BLOCK_M": 32, "BLOCK_N": 32, "num_warps": 8, "num_stages": 2}
# Of the launch by similarity, on compute capability 9.0: those of `similarity` would spill registers here.
HOPPER = by_similarity.HOPPER | {"BLOCK_K": 32}
HOPPER_LONG = HOPPER | {"BLOCK_N": 64}
MAX_HEAD = 128


@triton.jit
def _attend_by_key(
    key, value, row, channel, lane_valid, num_patches, scale, key_n, key_d, value_n, value_d,
    HEAD: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """softmax(k k^T · scale) v of BLOCK_M rows for one head and pass, (BLOCK_M, HEAD) fp32."""
    row_valid = (row < num_patches)[:, None] & lane_valid[None, :]
    q = tl.load(key + row[:, None] * key_n + channel[None, :] * key_d, mask=row_valid, other=0.0)
    y = tl.zeros((BLOCK_M, HEAD), tl.float32)
    total = tl.zeros((BLOCK_M,), tl.float32)
    highest = tl.full((BLOCK_M,), float("-inf"), tl.float32)
    for start in range(0, num_patches, BLOCK_N):
        column = start + tl.arange(0, BLOCK_N)
        k_valid = lane_valid[:, None] & (column < num_patches)[None, :]
        k_address = key + column[None, :] * key_n + channel[:, None] * key_d
        k = tl.load(k_address, mask=k_valid, other=0.0)
        scores = tl.dot(q, k, input_precision="ieee") * scale
        scores = tl.where((column < num_patches)[None, :], scores, float("-inf"))
        peak = tl.maximum(highest, tl.max(scores, axis=1))
        shrink = tl.exp2(highest - peak)
        p = tl.exp2(scores - peak[:, None])
        total = total * shrink + tl.sum(p, axis=1)
        v_valid = (column < num_patches)[:, None] & lane_valid[None, :]
        v_address = value + column[:, None] * value_n + channel[None, :] * value_d
        v = tl.load(v_address, mask=v_valid, other=0.0)
        y = tl.dot(p.to(v.dtype), v, y * shrink[:, None], input_precision="ieee")
        highest = peak
    return y / total[:, None]


@triton.jit
def _attend_by_key_kernel(
    key, value, out, value_sum, num_patches, num_heads, head_dim, scale,
    key_p, key_b, key_n, key_d, value_p, value_b, value_n, value_d,
    PASSES: tl.constexpr, HEAD: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """Half the sum over passes of softmax(k k^T · scale) v, and the sum of v: BLOCK_M rows of one head.

    key, value (PASSES, B, N, D) with D = num_heads · head_dim; out, value_sum (B, N, D), contiguous.
    """
    window = tl.program_id(2).to(tl.int64)
    row = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    lane = tl.arange(0, HEAD)
    channel = tl.program_id(1) * head_dim + lane
    valid = (row < num_patches)[:, None] & (lane < head_dim)[None, :]
    key += window * key_b
    value += window * value_b
    # Powers of two are what the hardware has. And Inductor passes Python's floats as fp64.
    scale = tl.cast(scale, tl.float32) * 1.4426950408889634
    total = tl.zeros((BLOCK_M, HEAD), tl.float32)
    place = (window * num_patches + row)[:, None] * (num_heads * head_dim) + channel[None, :]
    for _ in tl.static_range(PASSES):
        total += _attend_by_key(
            key, value, row, channel, lane < head_dim, num_patches, scale, key_n, key_d, value_n, value_d,
            HEAD, BLOCK_M, BLOCK_N,
        )  # fmt: skip
        key += key_p
        value += value_p
    tl.store(out + place, (0.5 * total).to(out.dtype.element_ty), mask=valid)
    own = tl.zeros((BLOCK_M, HEAD), tl.float32)
    for _ in tl.static_range(PASSES):
        value -= value_p
        address = value + row[:, None] * value_n + channel[None, :] * value_d
        own += tl.load(address, mask=valid, other=0.0).to(tl.float32)
    tl.store(value_sum + place, own.to(value_sum.dtype.element_ty), mask=valid)


@triton.jit
def _attend_by_similarity_kernel(
    value, pair, scale, square, mean, by_key, scratch, out, num_patches, width, guide_width,
    WHOLE: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
    BLOCK_K: tl.constexpr,
):  # fmt: skip
    """P v / 2 + by_key: BLOCK_M rows of out (B, N, width), contiguous; it may be `by_key`.

    value (B, N, width), contiguous, summed over passes; mean (B,) fp32; the rest as in `average_by_similarity`.
    """
    window = tl.program_id(1).to(tl.int64)
    row = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    average_by_similarity(
        value + window * num_patches * width, pair, scale, square, tl.load(mean + window), by_key, scratch, out,
        window, row, num_patches, width, guide_width, width, 1,
        True, WHOLE, BLOCK_M, BLOCK_N, BLOCK_D, BLOCK_K,
    )  # fmt: skip


def padded_head(head_dim: int) -> int:
    """Channels of a head as a kernel holds them: a power of two, at least 16."""
    return max(16, next_power_of_2(head_dim))


@triton_op("scclip::calibrated_attention", mutates_args={})
def _calibrated_attention(
    key: Tensor, value: Tensor, pair: Tensor, scale: Tensor, square: Tensor, mean: Tensor, num_heads: int
) -> Tensor:
    passes, batch, patches, width = key.shape
    head_dim = width // num_heads
    sizes = WIDE if key.dtype == torch.float32 else NARROW
    out = torch.empty((batch, patches, width), dtype=value.dtype, device=value.device)
    value_sum = torch.empty_like(out)
    grid = (triton.cdiv(patches, sizes["BLOCK_M"]), num_heads, batch)
    wrap_triton(_attend_by_key_kernel)[grid](
        key, value, out, value_sum, patches, num_heads, head_dim, head_dim**-0.5, *key.stride(), *value.stride(),
        PASSES=passes, HEAD=padded_head(head_dim), **sizes,
    )  # fmt: skip
    sizes = launch_sizes(value_sum, HOPPER, HOPPER_LONG)
    scratch = scratch_for(out, whole=bool(sizes["WHOLE"]))
    wrap_triton(_attend_by_similarity_kernel)[(triton.cdiv(patches, sizes["BLOCK_M"]), batch)](
        value_sum, pair, scale, square, mean, out, scratch, out, patches, width, pair.shape[3],
        **sizes,
    )  # fmt: skip
    return out


def calibrated_attention(key: Tensor, value: Tensor, similarity: Similarity, num_heads: int) -> Tensor:
    """Calibrated attention of all passes of the last block, summed, before the output projection.

    Args:
        key: (passes, B, N, D), fp32, fp16 or bf16, any strides.
        value: (passes, B, N, D), dtype of `key`.
        similarity: of the same patches, what P is made from.
        num_heads: heads of the last block; D / num_heads is at most 128.

    Returns:
        (B, N, D) contiguous, dtype of `value`; soft-max and sums are fp32.

    Raises:
        ValueError: shapes, dtypes or devices don't fit.
    """
    operation = "calibrated_attention"
    check_tensors(operation, _attend_by_key_kernel, key=key, value=value, guide=similarity.features)
    check_shape(operation, "key", key, (None, None, None, None))
    check_shape(operation, "value", value, tuple(key.shape))
    check_similarity(operation, similarity, tuple(key.shape[1:3]))
    if key.dtype != value.dtype:
        raise ValueError(f"{operation}: key is {key.dtype}, value {value.dtype}; they must be alike")
    if num_heads < 1 or key.shape[-1] % num_heads or key.shape[-1] // num_heads > MAX_HEAD:
        raise ValueError(
            f"{operation}: {num_heads} heads must divide a width of {key.shape[-1]} into parts of at most {MAX_HEAD}"
        )
    with on_device_of(key):
        mean = mean_similarity(similarity)
        return _calibrated_attention(key, value, *similarity[1:], mean, num_heads)


def calibrated_attention_reference(
    key: Tensor, value: Tensor, similarity: Similarity, num_heads: int
) -> Tensor:
    """The same in plain torch."""
    weights = similarity_attention(cosine_similarity(similarity.features))
    return _calibrated_attention_torch(key, value, weights, num_heads)
