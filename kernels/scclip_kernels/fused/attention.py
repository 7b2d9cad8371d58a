"""Calibrated attention of the last block, every pass in one launch, without N × N weights.

    P      = softmax over j of 3 (s_ij - mean s), entries below the mean left out
    out_i  = 1/2 sum over passes z of (P v_z + softmax(k_z k_z^T / sqrt(head_dim)) v_z)

The largest s of a row is its diagonal, 1, so P needs no running maximum: exp(3 (s - 1)) is at most 1, and
the mean matters only to the mask. P has no head axis: a program computes it once for a group of heads and
all passes; then each head of the group and each pass is ordinary streamed attention with q = k.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.library import triton_op

from scclip_kernels.affinity import cosine_similarity
from scclip_kernels.attention import calibrated_attention as _calibrated_attention_torch
from scclip_kernels.attention import similarity_attention
from scclip_kernels.fused._launch import (
    check_shape,
    check_tensors,
    next_power_of_2,
    on_device_of,
    wrap_triton,
)
from scclip_kernels.fused.affinity import Similarity, mean_similarity, similarity_block

NARROW = {"BLOCK_M": 32, "BLOCK_N": 32, "BLOCK_K": 64, "num_warps": 8}
WIDE = {"BLOCK_M": 16, "BLOCK_N": 16, "BLOCK_K": 32, "num_warps": 8}
GROUP_WIDTH = 256
GROUP_WIDTH_WIDE = 64
MAX_HEAD = 128


@triton.jit
def _attend_by_similarity(
    value, guide, inverse_norm, row, channel, channel_valid, mean, num_passes, num_patches, guide_width,
    value_p, value_n, value_d, guide_n, guide_d,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_K: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """P (v_0 + v_1 + …) of BLOCK_M rows and BLOCK_D channels, (BLOCK_M, BLOCK_D) fp32."""
    y = tl.zeros((BLOCK_M, BLOCK_D), tl.float32)
    total = tl.zeros((BLOCK_M,), tl.float32)
    for start in range(0, num_patches, BLOCK_N):
        column = start + tl.arange(0, BLOCK_N)
        s = similarity_block(
            guide, inverse_norm, row, column, num_patches, guide_width, guide_n, guide_d,
            BLOCK_M, BLOCK_N, BLOCK_K, PRECISION,
        )  # fmt: skip
        # The diagonal always counts: rounding must not empty a row whose similarities are all equal.
        kept = (s >= mean) | (row[:, None] == column[None, :])
        p = tl.where(kept & (column < num_patches)[None, :], tl.exp(3.0 * (s - 1.0)), 0.0)
        total += tl.sum(p, axis=1)
        valid = (column < num_patches)[:, None] & channel_valid[None, :]
        address = value + column.to(tl.int64)[:, None] * value_n + channel[None, :] * value_d
        # A product per pass: adding the passes' values first would hold them in registers.
        for number in range(num_passes):
            v = tl.load(address + number * value_p, mask=valid, other=0.0)
            y = tl.dot(p.to(v.dtype), v, y, input_precision=PRECISION)
    return y / tl.where(row < num_patches, total, 1.0)[:, None]


@triton.jit
def _attend_by_key(
    key, value, row, head, num_patches, head_dim, scale, key_n, key_d, value_n, value_d,
    HEAD: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """softmax(k k^T · scale) v of BLOCK_M rows for one head and pass, (BLOCK_M, HEAD) fp32."""
    lane = tl.arange(0, HEAD)
    channel = head * head_dim + lane
    lane_valid = lane < head_dim
    row_valid = (row < num_patches)[:, None] & lane_valid[None, :]
    q = tl.load(key + row.to(tl.int64)[:, None] * key_n + channel[None, :] * key_d, mask=row_valid, other=0.0)
    y = tl.zeros((BLOCK_M, HEAD), tl.float32)
    total = tl.zeros((BLOCK_M,), tl.float32)
    highest = tl.full((BLOCK_M,), float("-inf"), tl.float32)
    for start in range(0, num_patches, BLOCK_N):
        column = start + tl.arange(0, BLOCK_N)
        k_valid = lane_valid[:, None] & (column < num_patches)[None, :]
        k_address = key + column.to(tl.int64)[None, :] * key_n + channel[:, None] * key_d
        k = tl.load(k_address, mask=k_valid, other=0.0)
        scores = tl.dot(q, k, input_precision=PRECISION) * scale
        scores = tl.where((column < num_patches)[None, :], scores, float("-inf"))
        peak = tl.maximum(highest, tl.max(scores, axis=1))
        shrink = tl.exp(highest - peak)
        p = tl.exp(scores - peak[:, None])
        total = total * shrink + tl.sum(p, axis=1)
        v_valid = (column < num_patches)[:, None] & lane_valid[None, :]
        v_address = value + column.to(tl.int64)[:, None] * value_n + channel[None, :] * value_d
        v = tl.load(v_address, mask=v_valid, other=0.0)
        y = tl.dot(p.to(v.dtype), v, y * shrink[:, None], input_precision=PRECISION)
        highest = peak
    return y / total[:, None]


@triton.jit
def _calibrated_attention_kernel(
    key, value, guide, inverse_norm, mean, scratch, out,
    num_passes, num_patches, num_heads, head_dim, guide_width, scale,
    key_p, key_b, key_n, key_d, value_p, value_b, value_n, value_d, guide_b, guide_n, guide_d,
    GROUP: tl.constexpr, HEAD: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """BLOCK_M rows of the GROUP heads of program 1 of window 2: out (B, N, num_heads * head_dim), contiguous.

    key, value (num_passes, B, N, D); guide (B, N, guide_width); inverse_norm (B, N) and mean (B,) fp32;
    scratch like out, fp32: each program's part of P v waits there, because a head's share of it can't be
    cut out of registers.
    """
    window = tl.program_id(2).to(tl.int64)
    first = tl.program_id(1) * GROUP
    key += window * key_b
    value += window * value_b
    row = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    place = (window * num_patches + row)[:, None] * (num_heads * head_dim)
    lane = tl.arange(0, GROUP * HEAD)
    channel = (first + lane // HEAD) * head_dim + lane % HEAD
    channel_valid = (first + lane // HEAD < num_heads) & (lane % HEAD < head_dim)
    y = _attend_by_similarity(
        value, guide + window * guide_b, inverse_norm + window * num_patches, row, channel, channel_valid,
        tl.load(mean + window), num_passes, num_patches, guide_width, value_p, value_n, value_d, guide_n,
        guide_d, BLOCK_M, BLOCK_N, GROUP * HEAD, BLOCK_K, PRECISION,
    )  # fmt: skip
    stored = (row < num_patches)[:, None] & channel_valid[None, :]
    tl.store(scratch + place + channel[None, :], y, mask=stored)
    tl.debug_barrier()  # the program's other threads read what this one wrote
    within = tl.arange(0, HEAD)
    for head in range(first, tl.minimum(first + GROUP, num_heads)):
        valid = (row < num_patches)[:, None] & (within < head_dim)[None, :]
        address = place + head * head_dim + within[None, :]
        total = tl.load(scratch + address, mask=valid, other=0.0)
        for number in range(num_passes):
            total += _attend_by_key(
                key + number * key_p, value + number * value_p, row, head, num_patches, head_dim, scale,
                key_n, key_d, value_n, value_d, HEAD, BLOCK_M, BLOCK_N, PRECISION,
            )  # fmt: skip
        tl.store(out + address, (0.5 * total).to(out.dtype.element_ty), mask=valid)


def launch_sizes(num_heads: int, head_dim: int, *, wide: bool) -> dict[str, int]:
    """Return the kernel's constants and num_warps; `wide` if any operand is fp32.

    HEAD is head_dim padded to a power of two, at least 16; GROUP the heads per program.
    """
    sizes = WIDE if wide else NARROW
    head = max(16, next_power_of_2(head_dim))
    channels = GROUP_WIDTH_WIDE if wide else GROUP_WIDTH
    group = max(1, min(channels // head, next_power_of_2(num_heads)))
    return {"GROUP": group, "HEAD": head, **sizes}


@triton_op("scclip::calibrated_attention", mutates_args={})
def _calibrated_attention(
    key: Tensor, value: Tensor, guide: Tensor, inverse_norm: Tensor, mean: Tensor, num_heads: int
) -> Tensor:
    passes, batch, patches, width = key.shape
    head_dim = width // num_heads
    wide = torch.float32 in (key.dtype, guide.dtype)
    sizes = launch_sizes(num_heads, head_dim, wide=wide)
    out = torch.empty((batch, patches, width), dtype=value.dtype, device=value.device)
    scratch = torch.empty((batch, patches, width), dtype=torch.float32, device=value.device)
    grid = (triton.cdiv(patches, sizes["BLOCK_M"]), triton.cdiv(num_heads, sizes["GROUP"]), batch)
    wrap_triton(_calibrated_attention_kernel)[grid](
        key, value, guide, inverse_norm, mean, scratch, out,
        passes, patches, num_heads, head_dim, guide.shape[2], head_dim**-0.5,
        *key.stride(), *value.stride(), *guide.stride(),
        PRECISION="ieee", **sizes,
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
    guide, inverse_norm = similarity
    operation = "calibrated_attention"
    check_tensors(operation, _calibrated_attention_kernel, key=key, value=value, guide=guide)
    check_shape(operation, "key", key, (None, None, None, None))
    check_shape(operation, "value", value, tuple(key.shape))
    check_shape(operation, "similarity.features", guide, (*key.shape[1:3], None))
    check_shape(operation, "similarity.inverse_norm", inverse_norm, tuple(key.shape[1:3]))
    if key.dtype != value.dtype:
        raise ValueError(f"{operation}: key is {key.dtype}, value {value.dtype}; they must be alike")
    if num_heads < 1 or key.shape[-1] % num_heads or key.shape[-1] // num_heads > MAX_HEAD:
        raise ValueError(
            f"{operation}: {num_heads} heads must divide a width of {key.shape[-1]} into parts of at most {MAX_HEAD}"
        )
    with on_device_of(key):
        mean = mean_similarity(similarity)
        return _calibrated_attention(key, value, guide, inverse_norm.contiguous(), mean, num_heads)


def calibrated_attention_reference(
    key: Tensor, value: Tensor, similarity: Similarity, num_heads: int
) -> Tensor:
    """The same in plain torch."""
    weights = similarity_attention(cosine_similarity(similarity.features))
    return _calibrated_attention_torch(key, value, weights, num_heads)
