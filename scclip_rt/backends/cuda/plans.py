"""One stream with its buffers: a lane of a `DeviceEncoder`, used by one thread at a time."""

import contextlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from functools import partial
from typing import Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from scclip_rt.backends.cuda import (
    Device,
    DeviceArray,
    DeviceBuffer,
    Kernel,
    Ledger,
    PinnedBuffer,
    Stream,
)
from scclip_rt.backends.cuda.decode import DecodeKernels, DecodeTask, DeviceDecode
from scclip_rt.backends.cuda.loaded import DeviceGraph, GraphCall, GraphSession
from scclip_rt.backends.cuda.replay import Replay
from scclip_rt.backends.cuda.windows import make_cutter
from scclip_rt.decode.decode import Decoded
from scclip_rt.errors import BackendError, not_finite
from scclip_rt.image.geometry import Tiling

MAX_PLANS = 8
"""Combinations of sizes and options that a lane keeps buffers and a CUDA graph for; the longest unused goes first."""

_ALIGNED = 256
"""Bytes: TensorRT takes no tensor address that is not a multiple of it, and memory is allocated on such."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """What one window becomes: `patches` vectors of `embed_dim` numbers."""

    patches: int
    embed_dim: int


class _Closable(Protocol):
    def close(self) -> None: ...


Plan = TypeVar("Plan", bound=_Closable)


class PlanCache(Generic[Plan]):
    """The plans used last. One thread at a time gets and closes; `values` may be asked by any."""

    def __init__(self) -> None:
        self._plans: OrderedDict[Hashable, Plan] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Hashable, make: Callable[[], Plan]) -> Plan:
        """The plan of a key, made if it is new."""
        with self._lock:
            found = self._plans.get(key)
            if found is not None:
                self._plans.move_to_end(key)
                return found
        while len(self._plans) >= MAX_PLANS:
            # Before the new one is made, so that both need not fit into the memory.
            self._take_first().close()
        plan = make()
        with self._lock:
            self._plans[key] = plan
        return plan

    def values(self) -> list[Plan]:
        """All of them."""
        with self._lock:
            return list(self._plans.values())

    def close(self) -> None:
        """Free all."""
        while self._plans:
            self._take_first().close()

    def _take_first(self) -> Plan:
        with self._lock:
            return self._plans.popitem(last=False)[1]


class Lane:
    """A stream, what the library needs for it, and the plans made on it."""

    def __init__(self, device: Device, graph: DeviceGraph, ledger: Ledger) -> None:
        self.device, self.graph, self.ledger = device, graph, ledger
        self.stream = Stream(device)
        self.session: GraphSession = graph.session(self.stream)
        self.encodes: PlanCache[EncodePlan] = PlanCache()
        self.segments: PlanCache[SegmentPlan] = PlanCache()
        self._pending = False

    def run(self, work: Callable[[], None]) -> None:
        """Queue work and wait for it."""
        self._pending = True
        work()
        self.stream.synchronize()
        self._pending = False
        self.session.settled()

    def settle(self) -> None:
        """Make the GPU current in this thread, and wait for what an interrupted run left on the stream.

        Its pinned buffers are about to be written again.
        """
        self.device.make_current()
        if self._pending:
            self.stream.synchronize()
            self._pending = False

    def close(self) -> None:
        """Free everything on this lane."""
        # A stream whose work failed is freed all the same: after a fatal error that is quiet and does nothing.
        with contextlib.suppress(BackendError):
            self.settle()
        self.encodes.close()
        self.segments.close()
        self.session.close()
        self.stream.close()


def chunks(count: int, most: int) -> list[tuple[int, int]]:
    """First index and length of runs that cover `count` windows, at most `most` at once."""
    return [(start, min(most, count - start)) for start in range(0, count, most)]


class EncodePlan:
    """Host windows of one shape to host features and logits: pinned buffers both ways, device buffers between."""

    def __init__(
        self, lane: Lane, *, batch: int, height: int, width: int, queries: int, sizes: Sizes
    ) -> None:
        ledger, device = lane.ledger, lane.device
        self._lane, self._batch, self._queries = lane, batch, queries
        self._shape = (batch, height, width, 3)
        fewest = lane.graph.batch[0]
        run = max(batch, fewest)
        self._sizes = sizes
        self._input_bytes = batch * height * width * 3
        self._text_bytes = 4 * queries * sizes.embed_dim
        self._feature_bytes = 4 * batch * sizes.patches * sizes.embed_dim
        self._logit_bytes = 4 * batch * sizes.patches * queries
        self._call = lane.session.call(batch=run, height=height, width=width, queries=queries)
        self._windows = DeviceBuffer(ledger, self._input_bytes // batch * run, f"{run} windows")
        self._text = DeviceBuffer(ledger, self._text_bytes, f"{queries} queries")
        self._features = DeviceBuffer(ledger, self._feature_bytes // batch * run, "features")
        self._logits = DeviceBuffer(ledger, self._logit_bytes // batch * run, "logits")
        self._pinned_windows = PinnedBuffer(device, self._input_bytes)
        self._pinned_text = PinnedBuffer(device, self._text_bytes)
        self._pinned_features = PinnedBuffer(device, self._feature_bytes)
        self._pinned_logits = PinnedBuffer(device, self._logit_bytes)
        self._replays = {
            with_logits: Replay(
                lane.stream, partial(self._queue, with_logits), capturable=self._call.capturable
            )
            for with_logits in (False, True)
        }

    def run(
        self, windows: NDArray[np.uint8], text: NDArray[np.float32], *, with_logits: bool
    ) -> list[NDArray[np.float32]]:
        """Features (batch, N, E) and, if wanted, logits (batch, N, Q), owned by the caller."""
        np.copyto(self._pinned_windows.array(self._shape, np.uint8), windows)
        np.copyto(self._pinned_text.array(text.shape, np.float32), text)
        self._lane.run(self._replays[with_logits])
        batch, patches = self._batch, self._sizes.patches
        shape = (batch, patches, self._sizes.embed_dim)
        outputs = [self._pinned_features.array(shape, np.float32).copy()]
        if with_logits:
            outputs.append(self._pinned_logits.array((batch, patches, self._queries), np.float32).copy())
        return outputs

    def _queue(self, with_logits: bool) -> None:
        stream = self._lane.stream
        stream.upload(self._windows.pointer, self._pinned_windows.address, self._input_bytes)
        stream.upload(self._text.pointer, self._pinned_text.address, self._text_bytes)
        self._call.enqueue(
            windows=self._windows.pointer,
            text=self._text.pointer,
            features=self._features.pointer,
            logits=self._logits.pointer,
        )
        stream.download(self._pinned_features.address, self._features.pointer, self._feature_bytes)
        if with_logits:
            stream.download(self._pinned_logits.address, self._logits.pointer, self._logit_bytes)

    @property
    def captured(self) -> int:
        """CUDA graphs captured."""
        return sum(replay.captured for replay in self._replays.values())

    def close(self) -> None:
        """Free everything."""
        for replay in self._replays.values():
            replay.close()
        self._call.close()
        for buffer in (self._windows, self._text, self._features, self._logits):
            buffer.close()
        for pinned in (
            self._pinned_windows,
            self._pinned_text,
            self._pinned_features,
            self._pinned_logits,
        ):
            pinned.close()


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentShape:
    """What a `SegmentPlan` is made for, next to its decode task."""

    source: tuple[int, int]
    tiling: Tiling
    batch: int
    sizes: Sizes


class SegmentPlan:
    """An image of one size to its labels, all of it on the device: one upload, one download.

    Args:
        lane: where it runs.
        shape: sizes.
        task: what the decode is to do.
        text: (Q, E) float32 on the device, kept by the plan.
        kernels: the decode's.
        cutter_kernel: the one that resizes and cuts, or None.
    """

    def __init__(
        self,
        lane: Lane,
        shape: SegmentShape,
        task: DecodeTask,
        text: DeviceBuffer,
        kernels: DecodeKernels,
        cutter_kernel: Kernel | None,
    ) -> None:
        ledger, count = lane.ledger, len(shape.tiling)
        self._lane, self._shape, self._text = lane, shape, text
        self._cutter = make_cutter(cutter_kernel, shape.tiling, shape.source, ledger)
        self._decode = DeviceDecode(kernels, task, ledger)
        fewest, _ = lane.graph.batch
        self._chunks = chunks(count, shape.batch)
        height, width = shape.tiling.window
        self._window_bytes = height * width * 3
        self._logit_bytes = 4 * shape.sizes.patches * self._decode.num_queries
        # A run under the fewest windows that the graph takes is filled up: what lies beyond the last window then
        # belongs to nobody, but has to be memory.
        longest, spare = max(max(length, fewest) for _, length in self._chunks), fewest - 1
        self._calls: dict[int, GraphCall] = {}
        for _, length in self._chunks:
            run = max(length, fewest)
            if run not in self._calls:
                self._calls[run] = lane.session.call(
                    batch=run, height=height, width=width, queries=self._decode.num_queries
                )
        pixels = self._cutter.upload_shape[0] * self._cutter.upload_shape[1] * 3
        self._source = DeviceBuffer(ledger, pixels, "the image")
        self._windows = DeviceBuffer(ledger, self._window_bytes * (count + spare), f"{count} windows")
        features = 4 * shape.sizes.patches * shape.sizes.embed_dim * longest
        self._features = DeviceBuffer(ledger, features, f"features of {longest} windows")
        logits = self._logit_bytes * (count + spare)
        purpose = f"logits of {count} windows and {self._decode.num_queries} queries"
        self._logits = DeviceBuffer(ledger, logits, purpose)
        # Runs that would start at an address no library takes go through memory of their own.
        self._staged_windows = self._staged_logits = None
        if any(first * self._window_bytes % _ALIGNED for first, _ in self._chunks):
            self._staged_windows = DeviceBuffer(ledger, self._window_bytes * longest, f"{longest} windows")
        if any(first * self._logit_bytes % _ALIGNED for first, _ in self._chunks):
            self._staged_logits = DeviceBuffer(ledger, self._logit_bytes * longest, purpose)
        self._pinned_source = PinnedBuffer(lane.device, pixels)
        self._pinned_results = PinnedBuffer(lane.device, self._decode.copied_bytes)
        # A library may tie a graph to the addresses it was captured with: one run, one set of addresses.
        capturable = len(self._chunks) == 1 and all(call.capturable for call in self._calls.values())
        self._from_host = Replay(lane.stream, self._queue_all, capturable=capturable)
        self._from_device = Replay(lane.stream, self._queue_encoder, capturable=capturable)

    def run(self, image: "NDArray[np.uint8] | DeviceArray") -> Decoded:
        """Segment one image of the plan's size: (H, W, 3) uint8 on the host or the device."""
        if isinstance(image, DeviceArray):
            self._lane.run(lambda: self._queue_from(image))
        else:
            view = self._pinned_source.array(self._cutter.upload_shape, np.uint8)
            np.copyto(view, self._cutter.host_pixels(image))
            self._lane.run(self._from_host)
        block = self._pinned_results.array((self._decode.copied_bytes,), np.uint8)
        finite, labels, confidence = self._decode.read(block)
        if not finite:
            raise not_finite("the encoder's output")
        return Decoded(labels=labels, confidence=confidence, unlabelled=self._decode.unlabelled)

    def takes_device_image(self) -> bool:
        """Whether an image of this size that is on the device already can be segmented without the host."""
        return self._cutter.takes_device_image()

    def _queue_from(self, image: DeviceArray) -> None:
        self._cutter.cut(self._lane.stream, image.pointer, image.strides[0], self._windows.pointer)
        self._from_device()

    def _queue_all(self) -> None:
        stream, (_, width, _) = self._lane.stream, self._cutter.upload_shape
        stream.upload(self._source.pointer, self._pinned_source.address, self._pinned_source.size)
        self._cutter.cut(stream, self._source.pointer, 3 * width, self._windows.pointer)
        self._queue_encoder()

    def _queue_encoder(self) -> None:
        stream, (fewest, _) = self._lane.stream, self._lane.graph.batch
        for first, length in self._chunks:
            run = max(length, fewest)
            windows = self._windows.pointer + first * self._window_bytes
            logits = self._logits.pointer + first * self._logit_bytes
            read, written = windows, logits
            if self._staged_windows is not None:
                read = self._staged_windows.pointer
                stream.copy(read, windows, run * self._window_bytes)
            if self._staged_logits is not None:
                written = self._staged_logits.pointer
            self._calls[run].enqueue(
                windows=read, text=self._text.pointer, features=self._features.pointer, logits=written
            )
            if written != logits:
                stream.copy(logits, written, length * self._logit_bytes)
        self._decode.queue(stream, self._logits.pointer)
        stream.download(self._pinned_results.address, self._decode.results.pointer, self._decode.copied_bytes)

    @property
    def captured(self) -> int:
        """CUDA graphs captured."""
        return self._from_host.captured + self._from_device.captured

    @property
    def reason(self) -> str:
        """Why there is no CUDA graph, where that was tried or ruled out."""
        return self._from_host.reason or self._from_device.reason

    def close(self) -> None:
        """Free everything. Explicitly: a replay's work refers to the plan that holds it."""
        for replay in (self._from_host, self._from_device):
            replay.close()
        for call in self._calls.values():
            call.close()
        for buffer in (self._source, self._windows, self._features, self._logits):
            buffer.close()
        for staged in (self._staged_windows, self._staged_logits):
            if staged is not None:
                staged.close()
        self._decode.close()
        self._cutter.close()
        self._pinned_source.close()
        self._pinned_results.close()
