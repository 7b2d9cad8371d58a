"""A flag for NaN and infinity: what keeps a broken encoder's output from passing for labels on the device."""

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.library import triton_op

from scclip_kernels.triton.launch import check_tensors, on_device_of, wrap_triton

BLOCK = 1024


@triton.jit
def _finite_kernel(values, flag, count, BLOCK: tl.constexpr):
    """Set flag (1,) int32 to 1 if any of values (count,) float is NaN or infinite; leave it alone otherwise."""
    index = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    value = tl.load(values + index, mask=index < count, other=0.0).to(tl.float32)
    # By its bits, not by arithmetic that a compiler may take for granted: the exponent of NaN and infinity is all ones.
    exponent = value.to(tl.int32, bitcast=True) & 0x7F800000
    broken = tl.max((exponent == 0x7F800000).to(tl.int32))
    if broken > 0:
        tl.atomic_max(flag, 1)


@triton_op("scclip::is_broken", mutates_args={})
def _is_broken(values: Tensor) -> Tensor:
    flag = torch.zeros(1, dtype=torch.int32, device=values.device)
    count = values.numel()
    wrap_triton(_finite_kernel)[(triton.cdiv(count, BLOCK),)](values, flag, count, BLOCK=BLOCK)
    return flag


def is_broken(values: Tensor) -> Tensor:
    """Tell whether a tensor holds NaN or infinity, without waiting for the device.

    Args:
        values: any shape, fp32, fp16 or bf16, at least one element.

    Returns:
        (1,) int32: 0 if all are finite, else 1.

    Raises:
        ValueError: another dtype or device.
    """
    check_tensors("is_broken", _finite_kernel, values=values)
    with on_device_of(values):
        return _is_broken(values.contiguous())


def is_broken_reference(values: Tensor) -> Tensor:
    """The same in plain torch."""
    return (~torch.isfinite(values).all()).int().reshape(1)
