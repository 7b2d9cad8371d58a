"""ONNX Runtime's GPU providers on device memory: the same way of an image as TensorRT's, through its I/O binding."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from scclip_rt.backends.base import BackendInfo
from scclip_rt.backends.cuda import Device, Ledger, Stream, load_driver
from scclip_rt.backends.cuda.encoder import LANES, DeviceEncoder
from scclip_rt.backends.onnxruntime.cuda_graphs import NO_GRAPH, GraphRuns, PlainRuns, Runs
from scclip_rt.backends.onnxruntime.session import nodes_on_the_cpu
from scclip_rt.bundle.bundle import Bundle
from scclip_rt.bundle.manifest import EncoderSpec
from scclip_rt.errors import BackendError

_NO_LIMIT = 1 << 20


def open_on_device(
    open_session: Callable[..., Any],
    bundle: Bundle,
    spec: EncoderSpec,
    info: BackendInfo,
    batch: int,
    *,
    number: int,
    cuda_graphs: bool,
) -> DeviceEncoder | None:
    """The device's path over a session of a GPU provider; None where cuda-python or its driver is missing.

    The missing part is told in `info`: ONNX Runtime then copies host arrays itself, and the host decodes.

    Args:
        open_session: gives an `onnxruntime.InferenceSession`; `cuda_graphs=True` for one that captures.
        bundle: whose encoder it is.
        spec: that encoder.
        info: what `describe` tells; `details` is set.
        batch: most windows at once.
        number: as in `cuda:N`.
        cuda_graphs: whether ONNX Runtime's own are wanted.

    Raises:
        As `scclip_rt.backends.onnxruntime.session.create_session`.
    """
    try:
        device = Device.open(number, load_driver())
    except BackendError as error:
        info["details"] = {"device_path": f"not taken: {error}"}
        if cuda_graphs:
            info["details"]["onnxruntime_graphs"] = "none: they need the device path"
        return None
    with (
        device.current()
    ):  # ONNX Runtime makes its GPU the thread's, when it opens a session and in every run
        runs, session, reason = _runs(open_session, cuda_graphs)
    info["details"] = {"nodes_on_the_cpu": nodes_on_the_cpu(session)}
    graph = OrtGraph(runs, spec, number, bundle.feature_rows)
    lanes = 1 if isinstance(runs, GraphRuns) else LANES
    encoder = OrtDeviceEncoder(
        bundle, spec, info, batch, device=device, graph=graph, ledger=Ledger(device), lanes=lanes
    )
    encoder.runs, encoder.refused = runs, reason
    return encoder


def _runs(open_session: Callable[..., Any], cuda_graphs: bool) -> tuple[Runs, Any, str]:
    """How to run, the session, and why not with graphs where they were wanted."""
    if cuda_graphs:
        try:
            session = open_session(cuda_graphs=True)
        except BackendError as error:
            # Graphs, or something else? A session without them knows.
            session = open_session()
            return PlainRuns(session), session, str(error)
        return GraphRuns(session, open_session), session, ""
    session = open_session()
    return PlainRuns(session), session, ""


class OrtDeviceEncoder(DeviceEncoder):
    """A `DeviceEncoder` that also tells of ONNX Runtime's own graphs."""

    runs: Runs
    refused: str = ""

    def describe(self) -> BackendInfo:
        """What runs where."""
        info = super().describe()
        if isinstance(self.runs, GraphRuns):
            reason, count = self.runs.reason, self.runs.graphs
            told = f"none: {reason}" if reason else f"{count} captured"
            info["details"] = {**info["details"], "onnxruntime_graphs": told}
        elif self.refused:
            info["details"] = {**info["details"], "onnxruntime_graphs": f"none: {self.refused}"}
        return info


class OrtGraph:
    """A session of a GPU provider; see `DeviceGraph`. Its memory is ONNX Runtime's own and in no ledger."""

    def __init__(
        self, runs: Runs, spec: EncoderSpec, number: int, feature_rows: Callable[[int, int], int]
    ) -> None:
        self.runs, self.number, self.file, self._feature_rows = runs, number, spec.file, feature_rows
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
        """Rows of features of windows (B, H, W, 3)."""
        return self._feature_rows(windows[1], windows[2])

    def session(self, stream: Stream) -> "OrtSession":
        """One more stream: nothing but the stream."""
        return OrtSession(self, stream)

    def close(self) -> None:
        """Let ONNX Runtime's session go, and its memory with it."""
        self.runs.close()


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
        self._addresses: tuple[int, ...] | None = None
        self._number = NO_GRAPH

    def enqueue(self, *, windows: int, text: int, features: int, logits: int) -> None:
        """Run; see `GraphCall`."""
        graph, addresses = self._graph, (windows, text, features, logits)
        number = self._graph_for(addresses)
        self._stream.synchronize()
        try:
            graph.runs.run(partial(self._bind, addresses), number)
        # onnxruntime's exceptions share no public base class.
        except Exception as error:
            reason = " ".join(str(error).split())[:300]
            raise BackendError(
                f"{graph.file}: ONNX Runtime failed on cuda:{graph.number} with {self._windows[0]} windows and "
                f"{self._queries} queries: {reason}"
            ) from error

    def _graph_for(self, addresses: tuple[int, ...]) -> int:
        """The number of this call's graph; none for its first run, nor at other addresses than that had."""
        if self._addresses is None:
            self._addresses = addresses
            return NO_GRAPH
        if self._addresses != addresses:
            return NO_GRAPH
        if self._number == NO_GRAPH:
            self._number = self._graph.runs.number()
        return self._number

    def _bind(self, addresses: tuple[int, ...], session: Any) -> Any:
        graph, embed = self._graph, self._graph.embed_dim
        windows, text, features, logits = addresses
        patches = graph.patches(self._windows)
        binding = session.io_binding()
        for name, dtype, shape, pointer in (
            ("windows", np.uint8, self._windows, windows),
            ("text", np.float32, (self._queries, embed), text),
        ):
            binding.bind_input(name, "cuda", graph.number, dtype, shape, pointer)
        for name, last, pointer in (("features", embed, features), ("logits", self._queries, logits)):
            rows = (self._windows[0], patches, last)
            binding.bind_output(name, "cuda", graph.number, np.float32, rows, pointer)
        return binding

    def close(self) -> None:
        """Nothing is held."""
