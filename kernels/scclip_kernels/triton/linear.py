"""A product with weights whose epilogue adds the bias and applies QuickGELU before anything is written.

    y = h · sigmoid(1.702 h),  h = x wᵀ + b

By itself QuickGELU reads and writes the widest tensor of a block once more. cuBLAS has no such epilogue (its GELU is
the one by tanh), so the product is Triton's own: worth it where that comes near enough to cuBLAS.
"""

from collections.abc import Mapping

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.library import triton_op

from scclip_kernels.triton.launch import check_shape, check_tensors, is_hopper, on_device_of, wrap_triton

# Not measured yet; `python -m benchmarks.gpu` times both on a GPU.
SIZES = {"BLOCK_M": 128, "BLOCK_N": 128, "BLOCK_K": 32, "num_warps": 4, "num_stages": 3}
HOPPER = {"BLOCK_M": 128, "BLOCK_N": 256, "BLOCK_K": 64, "num_warps": 8, "num_stages": 3}
GROUP = 8
"""Blocks of rows that take the same weights one after the other, while those are in the cache."""


@triton.jit
def _linear_quick_gelu_kernel(
    x, weight, bias, out, count, width, outer,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, GROUP: tl.constexpr, EVEN: tl.constexpr,
):  # fmt: skip
    """One block of out (count, outer): x (count, width), weight (outer, width), bias (outer,), all contiguous.

    EVEN: `width` is a multiple of BLOCK_K.
    """
    # Programs in order share a band of GROUP blocks of rows.
    rows, columns = tl.cdiv(count, BLOCK_M), tl.cdiv(outer, BLOCK_N)
    band = tl.program_id(0) // (GROUP * columns)
    tall = tl.minimum(rows - band * GROUP, GROUP)
    within = tl.program_id(0) % (GROUP * columns)
    m = (band * GROUP + within % tall) * BLOCK_M + tl.arange(0, BLOCK_M)
    n = (within // tall) * BLOCK_N + tl.arange(0, BLOCK_N)
    k = tl.arange(0, BLOCK_K)
    # Rows and columns outside are computed from the first ones, and not written.
    a = x + (m % count).to(tl.int64)[:, None] * width + k[None, :]
    b = weight + (n % outer)[None, :] * width + k[:, None]
    total = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for start in range(0, width, BLOCK_K):
        if EVEN:
            total = tl.dot(tl.load(a), tl.load(b), total, input_precision="ieee")
        else:
            left = width - start
            part = tl.load(a, mask=k[None, :] < left, other=0.0)
            other = tl.load(b, mask=k[:, None] < left, other=0.0)
            total = tl.dot(part, other, total, input_precision="ieee")
        a += BLOCK_K
        b += BLOCK_K
    total += tl.load(bias + n % outer).to(tl.float32)[None, :]
    total = total * tl.sigmoid(1.702 * total)
    place = out + m.to(tl.int64)[:, None] * outer + n[None, :]
    tl.store(place, total.to(out.dtype.element_ty), mask=(m < count)[:, None] & (n < outer)[None, :])


def sizes_on(device: torch.device) -> Mapping[str, int]:
    """The blocks for a device."""
    return HOPPER if is_hopper(device) else SIZES


@triton_op("scclip::linear_quick_gelu", mutates_args={})
def _linear_quick_gelu(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    (count, width), outer = x.shape, weight.shape[0]
    sizes = sizes_on(x.device)
    out = torch.empty((count, outer), dtype=x.dtype, device=x.device)
    grid = (triton.cdiv(count, sizes["BLOCK_M"]) * triton.cdiv(outer, sizes["BLOCK_N"]),)
    wrap_triton(_linear_quick_gelu_kernel)[grid](
        x, weight, bias, out, count, width, outer, GROUP=GROUP, EVEN=width % sizes["BLOCK_K"] == 0, **sizes
    )
    return out


def linear_quick_gelu(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Return QuickGELU(x wᵀ + b), summed in float32 and rounded once.

    Args:
        x: (T, D), fp16 or bf16.
        weight: (O, D), the same dtype.
        bias: (O,), the same dtype.

    Returns:
        (T, O), dtype of `x`.

    Raises:
        ValueError: shapes, dtypes or devices don't fit. float32 is refused: its products are cuBLAS's.
    """
    parts = {"x": x, "weight": weight, "bias": bias}
    check_tensors("linear_quick_gelu", _linear_quick_gelu_kernel, **parts)
    check_shape("linear_quick_gelu", "x", x, (None, None))
    check_shape("linear_quick_gelu", "weight", weight, (None, x.shape[1]))
    check_shape("linear_quick_gelu", "bias", bias, (weight.shape[0],))
    if x.dtype == torch.float32 or len({tensor.dtype for tensor in parts.values()}) > 1:
        found = ", ".join(f"{name} {tensor.dtype}" for name, tensor in parts.items())
        raise ValueError(f"linear_quick_gelu takes float16 or bfloat16, the same for all three; got {found}")
    with on_device_of(x):
        return _linear_quick_gelu(x.contiguous(), weight.contiguous(), bias.contiguous())


def linear_quick_gelu_reference(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """The same in plain torch, which rounds after the product."""
    y = torch.nn.functional.linear(x, weight, bias)
    return y * torch.sigmoid(1.702 * y)
