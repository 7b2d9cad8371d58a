"""The runtime's device path in benchmarks/gpu without TensorRT: cuda-python, the bundle's kernels, a torch encoder.

Everything but the library is the runtime's own: one pinned upload, the kernel that resizes and cuts, the kernels that
look for NaN and decode, labels alone coming back. The kernels are compiled here for this GPU; a bundle would bring
them.
"""

import ctypes
import functools
import json
from collections.abc import Callable
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from benchmarks.gpu.clock import CudaGraph
from benchmarks.gpu.run import SAME_LABELS, Row
from benchmarks.gpu.torch_models import Encoder
from scclip_kernels.aot.compile import compile_variant
from scclip_rt.backends.cuda import (
    Device,
    DeviceBuffer,
    Kernel,
    KernelSet,
    Ledger,
    Stream,
    image_array,
)
from scclip_rt.backends.cuda.decode import DecodeKernels, DecodeTask
from scclip_rt.backends.cuda.kernels import parse_kernel_list
from scclip_rt.backends.cuda.plans import Lane, SegmentPlan, SegmentShape, Sizes
from scclip_rt.decode.decode import decode
from scclip_rt.decode.settings import DecodeSettings

NO_LIMIT = 1 << 20
CONFIDENCE = 1e-4


class StandIn:
    """An encoder where the runtime expects a library's: all three of `scclip_rt.backends.cuda.loaded` in one.

    There is one stream and one shape, and nothing is held.
    """

    batch = queries = (1, NO_LIMIT)
    capturable = True

    def session(self, stream: Stream) -> Self:
        """The stream that everything is queued on."""
        self.stream = stream
        return self

    def call(self, *, batch: int, height: int, width: int, queries: int) -> Self:
        """The shape of the windows, and the number of queries."""
        self.windows, self.count = (batch, height, width, 3), queries
        return self

    def settled(self) -> None:
        """Nothing to keep."""

    def close(self) -> None:
        """Nothing is held."""


class TorchGraph(StandIn):
    """A torch encoder. Its part is a CUDA graph of torch's own, launched on the runtime's stream.

    Args:
        encode: uint8 windows (B, H, W, 3) and text (Q, E) to logits (B, N, Q), on `device`.
        sizes: of a window.
        device: torch's.
    """

    capturable = False  # a graph can't be launched while another is captured

    def __init__(self, encode: Encoder, sizes: Sizes, device: torch.device) -> None:
        self.encode, self.sizes, self.device = encode, sizes, device
        self._replay: Callable[[], Any] | None = None

    def enqueue(self, *, windows: int, text: int, features: int, logits: int) -> None:
        """Queue one run; see `GraphCall`. The features stay inside: nobody reads them here."""
        del features
        on_gpu = self.device.type == "cuda"
        if self._replay is None:
            # What was queued before must not run into the warm-up, nor the warm-up into the run.
            self.stream.synchronize()
            self._replay = self._prepare(windows, text, logits)
            if on_gpu:
                torch.cuda.synchronize(self.device)
        if not on_gpu:
            self._replay()
            return
        with torch.cuda.stream(torch.cuda.ExternalStream(self.stream.address, self.device)):
            self._replay()

    def _prepare(self, windows: int, text: int, logits: int) -> Callable[[], Any]:
        pixels = view(windows, self.windows, np.uint8, self.device)
        queries = view(text, (self.count, self.sizes.embed_dim), np.float32, self.device)
        out = view(logits, (self.windows[0], self.sizes.patches, self.count), np.float32, self.device)
        work = lambda: out.copy_(self.encode(pixels, queries))  # noqa: E731
        return CudaGraph(work) if self.device.type == "cuda" else work

    def close(self) -> None:
        """Let the graph go."""
        self._replay = None


class CopyGraph(StandIn):
    """An encoder that copies logits it was given: what is left is the runtime itself, all of it in one CUDA graph."""

    def __init__(self, logits: DeviceBuffer) -> None:
        self._logits = logits

    def enqueue(self, *, windows: int, text: int, features: int, logits: int) -> None:
        """Queue the copy."""
        del windows, text, features
        self.stream.copy(logits, self._logits.pointer, self._logits.size)


class _Memory:
    """Device memory under the CUDA array interface."""

    def __init__(self, pointer: int, shape: tuple[int, ...], dtype: Any) -> None:
        typestr = np.dtype(dtype).str
        self.__cuda_array_interface__ = {
            "shape": shape,
            "typestr": typestr,
            "data": (pointer, False),
            "version": 2,
        }


def view(pointer: int, shape: tuple[int, ...], dtype: Any, device: torch.device) -> Tensor:
    """Memory at an address as a tensor, without a copy."""
    if device.type == "cuda":
        return torch.as_tensor(_Memory(pointer, shape, dtype), device=device)
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    block = (ctypes.c_uint8 * size).from_address(pointer)
    return torch.from_numpy(np.frombuffer(block, dtype).reshape(shape))


@functools.cache
def compiled_kernels(device: Device) -> KernelSet:
    """The runtime's kernels for this GPU, as a bundle would bring them."""
    from scclip_kernels.aot.variants import runtime_variants

    major, minor = device.compute_capability
    compiled = [compile_variant(variant, 10 * major + minor) for variant in runtime_variants()]
    specs = parse_kernel_list(json.dumps([done.entry_of_list() for done in compiled]).encode())
    kernels: dict[str, tuple[Kernel, ...]] = {}
    for spec, done in zip(specs, compiled, strict=True):
        kernels[spec.name] = (*kernels.get(spec.name, ()), Kernel(device, spec, done.cubin))
    return KernelSet(device, kernels, "")


def sizes_of(photo: Any, text: Tensor) -> Sizes:
    """Patches of a window, and the width of the embeddings."""
    rows, columns = photo.plan.grid
    return Sizes(patches=rows * columns, embed_dim=text.shape[1])


class RuntimePath:
    """A `SegmentPlan` over one of the two graphs above."""

    def __init__(
        self,
        device: Device,
        kernels: KernelSet,
        graph: Any,
        photo: Any,
        text: Tensor,
        *,
        with_confidence: bool = False,
        area_threshold: float = 0.0,
        ledger: Ledger | None = None,
    ) -> None:
        self.ledger = ledger or Ledger(device)
        self._lane = Lane(device, graph, self.ledger)
        queries = len(text)
        sizes = sizes_of(photo, text)
        source, batch = photo.pixels.shape[:2], len(photo.tiling)
        shape = SegmentShape(source=source, tiling=photo.tiling, batch=batch, sizes=sizes)
        classes = np.arange(queries, dtype=np.int32)
        settings = DecodeSettings(
            query_class=classes,
            num_classes=queries,
            area_threshold=area_threshold,
            with_confidence=with_confidence,
        )
        task = DecodeTask(plan=photo.plan, settings=settings)
        self._text = DeviceBuffer.of(self.ledger, text.cpu().numpy(), f"{queries} queries")
        cutter = kernels.get("resize_windows")
        self.plan = SegmentPlan(self._lane, shape, task, self._text, DecodeKernels.of(kernels), cutter)

    def see(self, image: Any) -> Any:
        """Somebody's array in device memory, for `plan.run`."""
        return image_array(image, self._lane.stream)

    def close(self) -> None:
        """Free everything."""
        self.plan.close()
        self._text.close()
        self._lane.close()


def this_gpu(subject: Any) -> tuple[Device, KernelSet]:
    """The GPU, current in this thread, and the runtime's kernels for it."""
    device = Device.open(subject.device.index or 0)
    device.make_current()
    return device, compiled_kernels(device)


def runtime_row(
    subject: Any, queries: int, encode: Encoder, setting: tuple[Device, KernelSet] | None = None
) -> Row:
    """One photo from host to host; the labels are those of the encoder's own logits, from the host and the device."""
    run, photo, text = subject.run, subject.photo, subject.text[queries]
    device, kernels = setting or this_gpu(subject)
    path = RuntimePath(
        device, kernels, TorchGraph(encode, sizes_of(photo, text), subject.device), photo, text
    )
    try:
        wanted = subject.labels(encode)[len(text)].cpu().numpy()
        labels = path.plan.run(photo.pixels).labels
        _same("labels", labels, wanted)
        if run.clock.on_gpu:
            image = path.see(torch.from_numpy(photo.pixels).to(subject.device))
            _same("labels of an image on the device", path.plan.run(image).labels, labels)
        taken = run.clock.host_time(lambda: path.plan.run(photo.pixels))
        return {
            "milliseconds": taken,
            "labels_as_fp32": float((labels == subject.expected("scclip")[len(text)].cpu().numpy()).mean()),
            "decode": "cuda-python",
            "device_memory_held": path.ledger.held,
        }
    finally:
        path.close()


def overhead_row(subject: Any, queries: int, setting: tuple[Device, KernelSet] | None = None) -> Row:
    """The runtime without an encoder, as one CUDA graph: upload, windows, decode, download.

    Labels first, call by call, captured and replayed, then with confidence and the area rule: all as on the CPU.
    """
    photo = subject.photo
    device, kernels = setting or this_gpu(subject)
    text = subject.text[queries].cpu().numpy()
    size = (len(photo.tiling), sizes_of(photo, subject.text[queries]).patches, text.shape[1])
    features = np.random.default_rng(0).standard_normal(size, np.float32)
    features /= np.linalg.norm(features, axis=-1, keepdims=True)
    options: Row = {"query_class": np.arange(queries), "num_classes": queries}
    ledger = Ledger(device)
    logits = DeviceBuffer.of(ledger, features @ text.T, "logits")
    for share in (0.5 / queries, 0.0):  # the last one is timed
        asked = {"area_threshold": share, "with_confidence": share > 0}
        wanted = decode(features, text, photo.plan, DecodeSettings(**options, **asked))
        path = RuntimePath(
            device, kernels, CopyGraph(logits), photo, subject.text[queries], ledger=ledger, **asked
        )
        try:
            for _ in range(3):
                found = path.plan.run(photo.pixels)
                _same("labels", found.labels, wanted.labels)
            if found.confidence is not None and wanted.confidence is not None:
                farthest = float(abs(found.confidence - wanted.confidence).max())
                if not farthest < CONFIDENCE:
                    raise ValueError(f"confidence is {farthest:.2e} from the CPU's")
            if not path.plan.captured:
                raise ValueError(f"no CUDA graph: {path.plan.reason}")
            if share == 0.0:
                taken = subject.run.clock.host_time(lambda: path.plan.run(photo.pixels))  # noqa: B023
        finally:
            path.close()
    logits.close()
    if ledger.held:
        raise ValueError(f"{ledger.held:,} bytes of device memory were not freed")
    return {"milliseconds": taken, "decode": "cuda-python"}


def _same(what: str, found: Any, wanted: Any) -> None:
    share = float((found.astype(np.int64) == wanted.astype(np.int64)).mean())
    if share < SAME_LABELS:
        raise ValueError(f"{what} agree on {share:.4%} of pixels only")
