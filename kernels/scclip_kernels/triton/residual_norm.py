"""The sum of the residual stream and the norm behind it, in one launch that reads and writes each tensor once.

    sum  = x + delta, float32
    norm = (sum - mean) / sqrt(variance + eps) · weight + bias, statistics in float32

Twelve bytes an element where products are float16: 4 + 2 read, 4 + 2 written. Copies are the limit.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.library import triton_op

from scclip_kernels.triton.launch import (
    check_shape,
    check_tensors,
    next_power_of_2,
    on_device_of,
    wrap_triton,
)

ROWS = 1
WARPS = 4


@triton.jit
def _add_layer_norm_kernel(
    x, delta, weight, bias, out_sum, out_norm, count, width, eps,
    ROWS: tl.constexpr, BLOCK_D: tl.constexpr, ADDED: tl.constexpr,
):  # fmt: skip
    """ROWS rows of x and delta (count, width), contiguous; without ADDED `delta` and `out_sum` are not touched."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    d = tl.arange(0, BLOCK_D)
    in_row = d < width
    valid = (row < count)[:, None] & in_row[None, :]
    place = row[:, None] * width + d[None, :]
    total = tl.load(x + place, mask=valid, other=0.0).to(tl.float32)
    if ADDED:
        total += tl.load(delta + place, mask=valid, other=0.0).to(tl.float32)
        tl.store(out_sum + place, total, mask=valid)
    mean = tl.sum(total, axis=1) / width
    centered = tl.where(valid, total - mean[:, None], 0.0)
    deviation = tl.sqrt(tl.sum(centered * centered, axis=1) / width + eps)
    scale = tl.load(weight + d, mask=in_row, other=0.0).to(tl.float32)
    shift = tl.load(bias + d, mask=in_row, other=0.0).to(tl.float32)
    norm = centered / deviation[:, None] * scale[None, :] + shift[None, :]
    tl.store(out_norm + place, norm.to(out_norm.dtype.element_ty), mask=valid)


@triton_op("scclip::add_layer_norm", mutates_args={})
def _add_layer_norm(
    x: Tensor, delta: Tensor, weight: Tensor, bias: Tensor, eps: float, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    count, width = x.shape
    out_sum = torch.empty(x.shape, dtype=torch.float32, device=x.device)
    out_norm = torch.empty(x.shape, dtype=dtype, device=x.device)
    wrap_triton(_add_layer_norm_kernel)[(triton.cdiv(count, ROWS),)](
        x, delta, weight, bias, out_sum, out_norm, count, width, eps,
        ROWS=ROWS, BLOCK_D=next_power_of_2(width), ADDED=True, num_warps=WARPS,
    )  # fmt: skip
    return out_sum, out_norm


@triton_op("scclip::layer_norm", mutates_args={})
def _layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
    count, width = x.shape
    out = torch.empty(x.shape, dtype=dtype, device=x.device)
    wrap_triton(_add_layer_norm_kernel)[(triton.cdiv(count, ROWS),)](
        x, x, weight, bias, out, out, count, width, eps,
        ROWS=ROWS, BLOCK_D=next_power_of_2(width), ADDED=False, num_warps=WARPS,
    )  # fmt: skip
    return out


def add_layer_norm(
    x: Tensor, delta: Tensor | None, weight: Tensor, bias: Tensor, eps: float, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Add a block's part to the residual stream, and normalise the sum for the products that follow.

    Args:
        x: (T, D) float32, tokens.
        delta: (T, D), what is added, fp32, fp16 or bf16; None for nothing.
        weight: (D,), of the norm.
        bias: (D,), of the norm.
        eps: of the norm.
        dtype: of the normalised rows.

    Returns:
        The sum, (T, D) float32 (`x` itself without a `delta`), and its norm, (T, D) in `dtype`.

    Raises:
        ValueError: shapes, dtypes or devices don't fit.
    """
    parts = {"x": x, "weight": weight, "bias": bias}
    if delta is not None:
        parts["delta"] = delta
    check_tensors("add_layer_norm", _add_layer_norm_kernel, **parts)
    check_shape("add_layer_norm", "x", x, (None, None))
    for name, tensor in parts.items():
        check_shape(
            "add_layer_norm", name, tensor, tuple(x.shape) if name in ("x", "delta") else (x.shape[1],)
        )
    x = x.float().contiguous()
    with on_device_of(x):
        if delta is None:
            return x, _layer_norm(x, weight, bias, eps, dtype)
        return _add_layer_norm(x, delta.contiguous(), weight, bias, eps, dtype)


def add_layer_norm_reference(
    x: Tensor, delta: Tensor | None, weight: Tensor, bias: Tensor, eps: float, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """The same in plain torch."""
    total = x if delta is None else x + delta.float()
    return total, torch.nn.functional.layer_norm(total, weight.shape, weight, bias, eps).to(dtype)
