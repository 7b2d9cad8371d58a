"""What every Triton operation needs around its kernel: checks of the arguments, the right device, the launch."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.library import wrap_triton as _wrap_triton
from triton.runtime.jit import JITFunction

FLOATS = (torch.float32, torch.float16, torch.bfloat16)


def wrap_triton(kernel: Any) -> Any:
    """torch.library.wrap_triton, and interpreted kernels as they are (torch 2.11 refuses those)."""
    return _wrap_triton(kernel) if isinstance(kernel, JITFunction) else kernel


def interpreted(kernel: Any) -> bool:
    """Whether Triton's interpreter runs this kernel (on the CPU)."""
    return not isinstance(kernel, JITFunction)


def on_device_of(tensor: Tensor) -> AbstractContextManager[Any]:
    """Make the tensor's GPU the current one: Triton launches on the current device, whatever its arguments are on.

    Not while tracing, where tensors are stand-ins and there may be no GPU.
    """
    traced = torch.compiler.is_compiling() or type(tensor) not in (Tensor, torch.nn.Parameter)
    if not tensor.is_cuda or traced:
        return nullcontext()
    return torch.cuda.device(tensor.device)


def is_hopper(device: torch.device) -> bool:
    """Whether a GPU has compute capability 9.0, whose wider products want other blocks; also without a GPU: False."""
    if device.type != "cuda" or not torch.cuda.is_available():
        return False
    return torch.cuda.get_device_capability(device) == (9, 0)


def check_tensors(operation: str, kernel: Any, **tensors: Tensor) -> None:
    """Refuse tensors of other dtypes than fp32, fp16, bf16, or on devices where the kernel can't run.

    Raises:
        ValueError: names the operation, the argument and what was found.
    """
    device = next(iter(tensors.values())).device
    for name, tensor in tensors.items():
        if tensor.dtype not in FLOATS:
            raise ValueError(f"{operation} takes float32, float16 or bfloat16; {name} is {tensor.dtype}")
        if tensor.device != device:
            raise ValueError(
                f"{operation} needs all tensors on one device; {name} is on {tensor.device}, not {device}"
            )
    if device.type == "cpu" and not interpreted(kernel):
        raise ValueError(
            f"{operation} as a Triton kernel needs tensors on an NVIDIA GPU; got {device}. "
            "Use kernels='reference', or set TRITON_INTERPRET=1 to run kernels on the CPU for tests."
        )


def check_shape(operation: str, name: str, tensor: Tensor, expected: tuple[int | None, ...]) -> None:
    """Refuse a tensor whose shape isn't `expected`; None stands for any size.

    Raises:
        ValueError: names the operation, the argument and both shapes.
    """
    fits = tensor.dim() == len(expected) and all(
        want is None or size == want for size, want in zip(tensor.shape, expected, strict=True)
    )
    if not fits:
        wanted = ", ".join("any" if want is None else str(want) for want in expected)
        raise ValueError(f"{operation}: {name} must have shape ({wanted}); got {tuple(tensor.shape)}")


def next_power_of_2(value: int) -> int:
    """The smallest power of two that is at least `value`."""
    return 1 << max(0, value - 1).bit_length()
