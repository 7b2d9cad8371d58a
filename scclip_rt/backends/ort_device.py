"""ONNX Runtime's GPU providers on device memory: the same way of an image as TensorRT's, through its I/O binding."""

from typing import Any

import numpy as np

from scclip_rt.backends.base import BackendInfo
from scclip_rt.backends.cuda import Device, Ledger, Stream, load_driver
from scclip_rt.backends.device_encoder import DeviceEncoder
from scclip_rt.bundle import Bundle
from scclip_rt.errors import BackendError
from scclip_rt.manifest import EncoderSpec

_NO_LIMIT = 1 << 20


def open_on_device(
    session: Any, bundle: Bundle, spec: EncoderSpec, info: BackendInfo, batch: int, *, number: int
) -> DeviceEncoder | None:
    """The device's path over a session of a GPU provider; None where cuda-python or its driver is missing.

    The missing part is told in `info`: ONNX Runtime then copies host arrays itself, and the host decodes.

    Args:
        session: an `onnxruntime.InferenceSession`.
        bundle: whose encoder it is.
        spec: that encoder.
        info: what `describe` tells; `details` is set.
        batch: most windows at once.
        number: as in `cuda:N`.
    """
    try:
        device = Device.open(number, load_driver())
    except BackendError as error:
        info["details"] = {**info.get("details", {}), "device_path": f"not taken: {error}"}
        return None
    graph = OrtGraph(session, spec, number, bundle.model.patch_size)
    return DeviceEncoder(bundle, spec, info, batch, device=device, graph=graph, ledger=Ledger(device))


class OrtGraph:
    """A session of a GPU provider; see `DeviceGraph`. Its memory is ONNX Runtime's own and in no ledger."""

    def __init__(self, session: Any, spec: EncoderSpec, number: int, patch: int) -> None:
        self.run_session, self.number, self.file, self._patch = session, number, spec.file, patch
        self.batch = self._range(spec, "windows")
        self.queries = self._range(spec, "text")
        self.embed_dim = int(next(t for t in spec.inputs if t.name == "text").shape[1])

    @staticmethod
    def _range(spec: EncoderSpec, name: str) -> tuple[int, int]:
        axis = next(tensor for tensor in spec.inputs if tensor.name == name).shape[0]
        if isinstance(axis, int):
            return axis, axis
        limits = spec.axis(axis)
        return limits.min, _NO_LIMIT if limits.max is None else limits.max

    def patches(self, windows: tuple[int, int, int, int]) -> int:
        """N of windows (B, H, W, 3)."""
        return (windows[1] // self._patch) * (windows[2] // self._patch)

    def session(self, stream: Stream) -> "OrtSession":
        """One more stream: nothing but the stream."""
        return OrtSession(self, stream)

    def close(self) -> None:
        """Let ONNX Runtime's session go, and its memory with it."""
        self.run_session = None


class OrtSession:
    """See `GraphSession`."""

    def __init__(self, graph: OrtGraph, stream: Stream) -> None:
        self._graph, self._stream = graph, stream

    def call(self, *, batch: int, height: int, width: int, queries: int) -> "OrtCall":
        """Shapes to bind."""
        return OrtCall(self._graph, self._stream, (batch, height, width, 3), queries)

    def settled(self) -> None:
        """Nothing to keep."""

    def close(self) -> None:
        """Nothing is held."""


class OrtCall:
    """One shape; see `GraphCall`. A run waits for the stream, and for itself: ONNX Runtime has a stream of its own."""

    capturable = False

    def __init__(
        self, graph: OrtGraph, stream: Stream, windows: tuple[int, int, int, int], queries: int
    ) -> None:
        self._graph, self._stream, self._windows, self._queries = graph, stream, windows, queries

    def enqueue(self, *, windows: int, text: int, features: int, logits: int) -> None:
        """Run; see `GraphCall`."""
        graph, embed = self._graph, self._graph.embed_dim
        patches = graph.patches(self._windows)
        binding = graph.run_session.io_binding()
        for name, dtype, shape, pointer in (
            ("windows", np.uint8, self._windows, windows),
            ("text", np.float32, (self._queries, embed), text),
        ):
            binding.bind_input(name, "cuda", graph.number, dtype, shape, pointer)
        for name, last, pointer in (("features", embed, features), ("logits", self._queries, logits)):
            rows = (self._windows[0], patches, last)
            binding.bind_output(name, "cuda", graph.number, np.float32, rows, pointer)
        self._stream.synchronize()
        try:
            graph.run_session.run_with_iobinding(binding)
        # onnxruntime's exceptions share no public base class.
        except Exception as error:
            reason = " ".join(str(error).split())[:300]
            raise BackendError(
                f"{graph.file}: ONNX Runtime failed on cuda:{graph.number} with {self._windows[0]} windows and "
                f"{self._queries} queries: {reason}"
            ) from error

    def close(self) -> None:
        """Nothing is held."""
