"""Rows as two float16 halves: products as good as those of float32, on tensor cores.

    c_i = a power of two, 2^11 <= ||x_i|| / c_i < 2^12
    hi  = fp16(x / c),  lo = fp16(x / c - hi)
    <x_i, x_j> = c_i c_j (hi_i · hi_j + hi_i · lo_j + lo_i · hi_j)

Dividing by a power of two rounds nothing, and brings rows of any magnitude into float16's range: entries are below
4096, and lo, at most 2, is stored to 2^-25. What hi and lo leave out is at most 2^-22 of an entry, and the product of
two lo, left out too, is below 2^-22 of the whole: the size of float32's own rounding. Products of float16 are exact in
float32, in which they are summed. Rows of small integers come out exactly.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.library import triton_op

from scclip_kernels.triton.launch import next_power_of_2, wrap_triton

ROWS = 4
WARPS = 4


class Halves(NamedTuple):
    """Rows x (B, N, D) as two float16 halves.

    Attributes:
        pair: (B, N, 2, D) float16: hi, then lo.
        scale: (B, N) float32, c.
        square: (B, N) float32, ||x||^2.
    """

    pair: Tensor
    scale: Tensor
    square: Tensor


@triton.jit
def write_halves(x, pair, scale, square, row, row_valid, d, width):
    """Write the halves of rows (R, BLOCK_D) fp32, 0 beyond `width`, to where `row` (R,) counts over all windows."""
    total = tl.sum(x * x, axis=1)
    # Below this the squares underflow; such rows are scaled alike, and stay within range.
    norm = tl.maximum(tl.sqrt(total), 1e-18)
    power = (norm.to(tl.int32, bitcast=True) & 0x7F800000).to(tl.float32, bitcast=True)
    x = x * (2048.0 / power)[:, None]
    hi = x.to(tl.float16)
    lo = (x - hi.to(tl.float32)).to(tl.float16)
    valid = row_valid[:, None] & (d < width)[None, :]
    place = row[:, None] * (2 * width) + d[None, :]
    tl.store(pair + place, hi, mask=valid)
    tl.store(pair + place + width, lo, mask=valid)
    tl.store(scale + row, power / 2048.0, mask=row_valid)
    tl.store(square + row, total, mask=row_valid)


@triton.jit
def _halves_kernel(
    features, mean, pair, scale, square, num_patches, width, stride_b, stride_n, stride_d,
    ROWS: tl.constexpr, BLOCK_D: tl.constexpr, CENTERED: tl.constexpr,
):  # fmt: skip
    """The halves of ROWS rows of one window; of x - mean if CENTERED, with mean (B, D) fp32."""
    window = tl.program_id(1).to(tl.int64)
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    d = tl.arange(0, BLOCK_D)
    row_valid = row < num_patches
    valid = row_valid[:, None] & (d < width)[None, :]
    address = features + window * stride_b + row[:, None] * stride_n + d[None, :] * stride_d
    x = tl.load(address, mask=valid, other=0.0).to(tl.float32)
    if CENTERED:
        center = tl.load(mean + window * width + d, mask=d < width, other=0.0)
        x = tl.where(valid, x - center[None, :], 0.0)
    write_halves(x, pair, scale, square, window * num_patches + row, row_valid, d, width)


@triton.jit
def gram_block(
    pair, row, column, num_patches, width,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, CHAINED: tl.constexpr,
):  # fmt: skip
    """<x_i, x_j> / (c_i c_j) of rows (BLOCK_M,) and columns (BLOCK_N,) of the window `pair` leads to; 0 outside.

    CHAINED sums everything in one place. To Triton (3.6 to 3.8) such products look like those of flash attention, and
    all warps get rows: it wants 16 rows a warp. Without it the warps share the columns, too, and there are three sums.
    """
    g = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    above, below = g, g
    row_valid, column_valid = (row < num_patches)[:, None], (column < num_patches)[None, :]
    a_row = pair + row[:, None] * (2 * width)
    b_column = pair + column[None, :] * (2 * width)
    for start in range(0, width, BLOCK_K):
        k = start + tl.arange(0, BLOCK_K)
        a_valid, b_valid = row_valid & (k < width)[None, :], (k < width)[:, None] & column_valid
        a_hi = tl.load(a_row + k[None, :], mask=a_valid, other=0.0)
        a_lo = tl.load(a_row + width + k[None, :], mask=a_valid, other=0.0)
        b_hi = tl.load(b_column + k[:, None], mask=b_valid, other=0.0)
        b_lo = tl.load(b_column + width + k[:, None], mask=b_valid, other=0.0)
        g = tl.dot(a_hi, b_hi, g, input_precision="ieee")
        if CHAINED:
            g = tl.dot(a_hi, b_lo, g, input_precision="ieee")
            g = tl.dot(a_lo, b_hi, g, input_precision="ieee")
        else:
            above = tl.dot(a_hi, b_lo, above, input_precision="ieee")
            below = tl.dot(a_lo, b_hi, below, input_precision="ieee")
    return g if CHAINED else g + (above + below)


@triton_op("scclip::halves", mutates_args={})
def _halves(features: Tensor, mean: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    batch, patches, width = features.shape
    device = features.device
    pair = torch.empty((batch, patches, 2, width), dtype=torch.float16, device=device)
    scale = torch.empty((batch, patches), dtype=torch.float32, device=device)
    square = torch.empty_like(scale)
    wrap_triton(_halves_kernel)[(triton.cdiv(patches, ROWS), batch)](
        features, scale if mean is None else mean, pair, scale, square, patches, width, *features.stride(),
        ROWS=ROWS, BLOCK_D=next_power_of_2(width), CENTERED=mean is not None, num_warps=WARPS,
    )  # fmt: skip
    return pair, scale, square


def halves(features: Tensor, mean: Tensor | None = None) -> Halves:
    """Return rows as halves.

    Args:
        features: (B, N, D), fp32, fp16 or bf16, any strides.
        mean: (B, D) float32, contiguous, subtracted from every row first; None for nothing.
    """
    return Halves(*_halves(features, mean))
