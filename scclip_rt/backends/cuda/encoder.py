"""An encoder on a GPU: host arrays through pinned memory, or whole images with only labels coming back."""

import contextlib
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from scclip_rt.backends.base import BackendInfo
from scclip_rt.backends.cuda import (
    Device,
    DeviceArray,
    DeviceBuffer,
    Event,
    KernelSet,
    Ledger,
    Stream,
    image_array,
)
from scclip_rt.backends.cuda.decode import DecodeKernels, DecodeTask
from scclip_rt.backends.cuda.loaded import DeviceGraph
from scclip_rt.backends.cuda.plans import EncodePlan, Lane, SegmentPlan, SegmentShape, Sizes
from scclip_rt.backends.device_segmenter import SegmentRequest
from scclip_rt.backends.host_encoder import BatchedEncoder, Feeds
from scclip_rt.bundle.bundle import Bundle
from scclip_rt.bundle.manifest import EncoderSpec
from scclip_rt.decode.decode import Decoded
from scclip_rt.decode.plan import decode_plan
from scclip_rt.errors import BackendError, ImageError
from scclip_rt.image.device_array import is_device_array

LANES = 2
"""Streams at most: one computes while the other's host side works. More threads than lanes wait."""
_TEXTS = 4


class DeviceEncoder(BatchedEncoder):
    """An `EncoderBackend` and a `DeviceSegmenter` over a library's `DeviceGraph`.

    Args:
        bundle: whose encoder this is.
        spec: that encoder.
        info: what `describe` tells, without `details`.
        batch: most windows at once, within what the graph takes.
        device: the GPU.
        graph: the loaded encoder.
        ledger: where its device memory is counted.
        lanes: most streams.
    """

    def __init__(
        self,
        bundle: Bundle,
        spec: EncoderSpec,
        info: BackendInfo,
        batch: int,
        *,
        device: Device,
        graph: DeviceGraph,
        ledger: Ledger,
        lanes: int = LANES,
    ) -> None:
        super().__init__(bundle, spec, info, batch)
        self._device, self._graph, self._ledger = device, graph, ledger
        self._queries, self._most_lanes = graph.queries, lanes
        self._embed_dim = bundle.model.embed_dim
        with device.current():
            self._kernels = KernelSet.load(bundle, device)
        self._decode = DecodeKernels.of(self._kernels)
        # A graph that takes no fewer than n queries gets n dummies where nobody asks for cosines.
        self._no_text = np.repeat(self._no_text, self._queries[0], axis=0)
        self._lanes: list[Lane] = []
        self._free: list[Lane] = []
        self._waiting = threading.Condition()
        self._closed = False
        self._receiving: Stream | None = None
        self._texts: OrderedDict[int, tuple[NDArray[np.float32], DeviceBuffer]] = OrderedDict()
        self._text_lock = threading.Lock()

    def infer(self, names: Sequence[str], feeds: Feeds) -> list[NDArray[np.float32]]:
        """One run from host memory to host memory; arguments as for `BatchedEncoder`."""
        windows, text = feeds["windows"], feeds["text"]
        fewest, most = self._queries
        if not fewest <= len(text) <= most:
            # Outside the graph's range the cosines are one small product of the features.
            features = self._encode(windows, self._no_text, with_logits=False)[0]
            return [features, features @ text.T][: len(names)]
        return self._encode(windows, text, with_logits="logits" in names)

    def _encode(
        self, windows: NDArray[np.uint8], text: NDArray[np.float32], *, with_logits: bool
    ) -> list[NDArray[np.float32]]:
        batch, height, width, _ = windows.shape
        key = (batch, height, width, len(text))
        sizes = self._sizes(height, width)
        with self._lane() as lane:
            plan = lane.encodes.get(
                key,
                lambda: EncodePlan(
                    lane, batch=batch, height=height, width=width, queries=len(text), sizes=sizes
                ),
            )
            return plan.run(windows, text, with_logits=with_logits)

    def can_segment(self, *, num_queries: int, num_classes: int) -> bool:
        """Whether the device can decode: the kernels are there, and queries and classes within their range."""
        fewest, most = self._queries
        return (
            self._decode.missing is None and fewest <= num_queries <= most and self._decode.takes(num_classes)
        )

    def segment(self, request: SegmentRequest) -> Decoded:
        """One image to its labels; see `DeviceSegmenter`."""
        if self._decode.missing is not None:
            raise BackendError(f"this bundle can't be decoded on {self._device}: {self._decode.missing}")
        with self._lane() as lane:
            text = self._resident(request.text)
            image = self._image(request.image, lane)
            source = (image.shape[0], image.shape[1])
            plan = lane.segments.get(
                _plan_key(request, source, id(text)),
                lambda: self._segment_plan(lane, request, source, text),
            )
            if isinstance(image, DeviceArray) and not plan.takes_device_image():
                raise BackendError(
                    "an image on the GPU has to be resized there, and "
                    f"{self._kernels.reason or 'this bundle has no kernel for it'}. Add kernels with "
                    "`scclip-export --bundle … --gpu-kernels`, or pass the image as a numpy array"
                )
            return plan.run(image)

    def _segment_plan(
        self, lane: Lane, request: SegmentRequest, source: tuple[int, int], text: DeviceBuffer
    ) -> SegmentPlan:
        height, width = request.tiling.window
        shape = SegmentShape(
            source=source,
            tiling=request.tiling,
            batch=self._batch_size,
            sizes=self._sizes(height, width),
        )
        task = DecodeTask(plan=decode_plan(request.tiling, request.grid, source), settings=request.settings)
        return SegmentPlan(lane, shape, task, text, self._decode, self._kernels.get("resize_windows"))

    def receive(self, image: object) -> DeviceArray:
        """An image on the device, seen in the thread that has it; see `DeviceSegmenter`."""
        with self._waiting, self._device.current():
            self._check_open()
            if self._receiving is None:
                self._receiving = Stream(self._device)
            array, ready = image_array(image, self._receiving), Event(self._device)
            ready.record(self._receiving)
        return replace(array, ready=ready)

    @staticmethod
    def _image(image: object, lane: Lane) -> "NDArray[np.uint8] | DeviceArray":
        if isinstance(image, DeviceArray):
            if image.ready is not None:
                lane.stream.wait_until(image.ready)
            return image
        if is_device_array(image):
            return image_array(image, lane.stream)
        if isinstance(image, np.ndarray):
            return image
        raise ImageError(f"expected an array; got {type(image).__name__}")

    def _resident(self, text: NDArray[np.float32]) -> DeviceBuffer:
        """The queries on the device: uploaded when an array is seen for the first time."""
        with self._text_lock:
            key = id(text)
            if key not in self._texts:
                while len(self._texts) >= _TEXTS:
                    self._texts.popitem(last=False)  # plans that use it keep the memory
                values = np.asarray(text, np.float32)
                with self._device.current():
                    buffer = DeviceBuffer.of(self._ledger, values, f"{len(text)} queries")
                # The array is kept: its id stays its own as long as it is the key.
                self._texts[key] = (text, buffer)
            self._texts.move_to_end(key)
            return self._texts[key][1]

    @contextlib.contextmanager
    def _lane(self) -> Iterator[Lane]:
        """A lane for this thread alone, its GPU current; waits if all are in use.

        Raises:
            BackendError: the encoder is closed.
        """
        with self._device.current():
            with self._waiting:
                self._waiting.wait_for(
                    lambda: self._closed or self._free or len(self._lanes) < self._most_lanes
                )
                self._check_open()
                if not self._free:
                    lane = Lane(self._device, self._graph, self._ledger)
                    self._lanes.append(lane)
                    self._free.append(lane)
                lane = self._free.pop()
            try:
                lane.settle()
                yield lane
            finally:
                with self._waiting:
                    self._free.append(lane)
                    self._waiting.notify_all()

    def _check_open(self) -> None:
        if self._closed:
            raise BackendError(
                f"this encoder on {self._device} was closed; open the backend (or make the Segmenter) again"
            )

    def _sizes(self, height: int, width: int) -> Sizes:
        return Sizes(patches=self._feature_rows(height, width), embed_dim=self._embed_dim)

    def describe(self) -> BackendInfo:
        """What runs where, with the memory held and how much of the way is on the device."""
        info = super().describe()
        free, total = self._device.memory()
        with self._waiting:
            lanes = list(self._lanes)
        graphs = sum(
            plan.captured
            for lane in lanes
            for cache in (lane.encodes, lane.segments)
            for plan in cache.values()
        )
        refused = {plan.reason for lane in lanes for plan in lane.segments.values() if plan.reason}
        info["details"] = {
            **info.get("details", {}),
            "gpu": self._device.name,
            "compute_capability": self._device.capability,
            "windows": "cut on the GPU by a kernel"
            if self._kernels.get("resize_windows")
            else "cut on the GPU by copies",
            "decode": "on the GPU" if self._decode.missing is None else f"on the CPU: {self._decode.missing}",
            "streams": len(lanes),
            "cuda_graphs": graphs,
            "cuda_graphs_refused": sorted(refused),
            "device_memory_held": self._ledger.held,
            "device_memory_free": free,
            "device_memory_total": total,
        }
        return info

    def close(self) -> None:
        """Free streams, buffers, graphs and weights, now: of no use afterwards, every later call is an error.

        Waits for the calls that run; those that wait for a stream get that error. May be called again.
        """
        with self._waiting, self._device.current():
            self._closed = True
            self._waiting.notify_all()
            self._waiting.wait_for(lambda: len(self._free) == len(self._lanes))
            for lane in self._lanes:
                lane.close()
            self._lanes.clear()
            self._free.clear()
            for _, buffer in self._texts.values():
                buffer.close()
            self._texts.clear()
            if self._receiving is not None:
                self._receiving.close()
            self._graph.close()
            self._kernels.close()
            self._waiting.notify_all()


def _plan_key(request: SegmentRequest, source: tuple[int, int], text: int) -> tuple[object, ...]:
    # The text buffer's id stands for the queries; the plan keeps the buffer, so that the id stays its own.
    return (
        source,
        request.tiling,
        request.grid,
        text,
        request.settings.key,
    )
