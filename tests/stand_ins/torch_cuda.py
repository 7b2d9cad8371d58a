"""torch.cuda on CPU tensors, for the code of benchmarks/gpu that only runs on a GPU.

Events, streams and pinned memory do nothing. What a real capture forbids is refused while a graph records: waiting for
the device (a number read back, indices of what is true) and values that come from the host.
"""

import contextlib
import time
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

# cudaStreamCaptureUnsupported: they read the device's results, or copy pageable memory of the host.
FORBIDDEN = (
    "aten._local_scalar_dense",
    "aten.nonzero",
    "aten.masked_select",
    "aten._unique2",
    "aten.bincount",
    "aten.lift_fresh",
    "aten.repeat_interleave",
)


class CaptureError(RuntimeError):
    """What CUDA would refuse."""


class _Capture(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = str(func)
        boolean = name.startswith("aten.index.") and any(
            isinstance(index, torch.Tensor) and index.dtype == torch.bool for index in args[1]
        )
        if boolean or any(name.startswith(f"{bad}.") for bad in FORBIDDEN):
            raise CaptureError(f"operation not permitted when stream is capturing: {name}")
        return func(*args, **(kwargs or {}))


class Event:
    def __init__(self, **_: bool) -> None:
        self.time = 0.0

    def record(self) -> None:
        self.time = time.perf_counter()

    def elapsed_time(self, end: "Event") -> float:
        return 1000 * (end.time - self.time) + 1e-6


class Stream:
    def wait_stream(self, other: "Stream") -> None:
        pass

    def synchronize(self) -> None:
        pass


class CUDAGraph:
    """Replays nothing: what it captured has been computed while it was captured, from inputs that stay."""

    def replay(self) -> None:
        pass


def install(patch: pytest.MonkeyPatch) -> list[str]:
    """Put it in torch's place; returns the list in which captures are noted."""
    captured: list[str] = []

    @contextlib.contextmanager
    def graph(_: CUDAGraph) -> Iterator[None]:
        with _Capture():
            yield
        captured.append("graph")

    for name, value in {
        "Event": Event,
        "Stream": Stream,
        "CUDAGraph": CUDAGraph,
        "graph": graph,
        "stream": lambda _: contextlib.nullcontext(),
        "current_stream": Stream,
        "synchronize": lambda *_: None,
        "empty_cache": lambda: None,
    }.items():
        patch.setattr(torch.cuda, name, value)
    empty = torch.empty

    def unpinned(*size: Any, pin_memory: bool = False, **options: Any) -> torch.Tensor:
        return empty(*size, **options)

    patch.setattr(torch, "empty", unpinned)
    return captured
