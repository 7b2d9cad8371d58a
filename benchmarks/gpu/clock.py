"""Clocks and ceilings for benchmarks/gpu: CUDA events, or a monotonic clock to run the script on a CPU at all."""

import functools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

PERCENTILES = (50, 90, 99)
FEWEST = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Clock:
    """How often, and where.

    Attributes:
        device: of the work.
        warmup: runs before the clock.
        iterations: timed runs, at most.
        seconds: of timed runs in all, about; fewer runs then, but at least `FEWEST`.
    """

    device: torch.device
    warmup: int
    iterations: int
    seconds: float = float("inf")

    @property
    def on_gpu(self) -> bool:
        """Whether the device has CUDA events and graphs."""
        return self.device.type == "cuda"

    def synchronize(self) -> None:
        """Wait for the device."""
        if self.on_gpu:
            torch.cuda.synchronize(self.device)

    def device_time(self, work: Callable[[], object]) -> dict[str, float]:
        """Milliseconds on the device per run: an event before and after each, read at the end.

        Host time that hides behind the device's is not counted; gaps that the host leaves are.
        """
        if not self.on_gpu:
            return self.host_time(work)
        pairs = [
            (torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True))
            for _ in range(self._runs(work))
        ]
        for start, end in pairs:
            start.record()
            work()
            end.record()
        self.synchronize()
        return statistics([start.elapsed_time(end) for start, end in pairs])

    def host_time(self, work: Callable[[], object]) -> dict[str, float]:
        """Milliseconds from call to result on the host, which `work` waits for."""
        samples = []
        for _ in range(self._runs(work)):
            start = time.perf_counter()
            work()
            self.synchronize()
            samples.append(1000 * (time.perf_counter() - start))
        return statistics(samples)

    def _runs(self, work: Callable[[], object]) -> int:
        """Warm up, and how many runs fit into the time: slow work needs fewer to be known."""
        taken = 0.0
        for _ in range(self.warmup):
            start = time.perf_counter()
            work()
            self.synchronize()
            taken = time.perf_counter() - start
            if taken > self.seconds:
                break  # one is enough to be warm
        if taken * self.iterations <= self.seconds:
            return self.iterations
        return min(self.iterations, max(int(self.seconds / taken), FEWEST))


def statistics(samples: Sequence[float]) -> dict[str, float]:
    """Percentiles and minimum of milliseconds, by linear interpolation."""
    values = torch.tensor(samples, dtype=torch.float64)
    told = {f"p{p}": float(torch.quantile(values, p / 100)) for p in PERCENTILES}
    return told | {"min": float(values.min()), "runs": len(samples)}


class CudaGraph:
    """A function of no arguments, captured once and launched as a whole; its tensors stay where they are."""

    def __init__(self, work: Callable[[], Any]) -> None:
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                work()
        torch.cuda.current_stream().wait_stream(side)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self.output = work()

    def __call__(self) -> Any:
        """Run it."""
        self._graph.replay()
        return self.output


def gemm_ceiling(clock: Clock, dtype: torch.dtype, sizes: Sequence[int]) -> dict[str, Any]:
    """The best rate of square products: what this GPU does, not what its data sheet says.

    Returns:
        `flops_per_second`, and the rate of each size.
    """
    rates = {}
    for size in sizes:
        a, b = (torch.randn(size, size, device=clock.device, dtype=dtype) for _ in range(2))
        out = torch.empty_like(a)
        taken = clock.device_time(lambda: torch.mm(a, b, out=out))  # noqa: B023
        rates[str(size)] = 2 * size**3 / (taken["p50"] / 1000)
    return {"flops_per_second": max(rates.values()), "by_size": rates}


@functools.cache
def own_gemms(clock: Clock, dtype: torch.dtype, shapes: tuple[tuple[int, int, int, int], ...]) -> float:
    """Milliseconds of a model's own products with weights, one after the other: their share of a run is its floor."""
    total = 0.0
    for rows, inner, outer, count in shapes:
        x = torch.randn(rows, inner, device=clock.device, dtype=dtype)
        weight = torch.randn(outer, inner, device=clock.device, dtype=dtype)
        bias = torch.randn(outer, device=clock.device, dtype=dtype)
        taken = clock.device_time(lambda: torch.nn.functional.linear(x, weight, bias))  # noqa: B023
        total += count * taken["p50"]
    return total


def copy_ceilings(clock: Clock, size: int) -> dict[str, float]:
    """Bytes per second: within the device (read and written bytes counted), and over the bus both ways, pinned."""
    count = size // 4
    source = torch.empty(count, device=clock.device)
    target = torch.empty_like(source)
    host: Tensor = torch.empty(count, pin_memory=clock.on_gpu)
    copies = {
        "device": (2 * size, lambda: target.copy_(source)),
        "to_device": (size, lambda: target.copy_(host, non_blocking=True)),
        "to_host": (size, lambda: host.copy_(source, non_blocking=True)),
    }
    return {name: moved / (clock.device_time(work)["p50"] / 1000) for name, (moved, work) in copies.items()}
