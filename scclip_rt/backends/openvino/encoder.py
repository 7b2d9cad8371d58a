"""The image encoder on OpenVINO's CPU plugin: fp32, bf16 from the fp32 file, int8.

Where the processor has bf16, int8 of whole images is bf16 beside its integer products: attention, which grows with the
square of the patches, is a third of their time in float32.
"""

import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from scclip_rt.backends.base import BackendInfo, EncoderRequest
from scclip_rt.backends.choose import batch_size, choose_encoder
from scclip_rt.backends.graph_check import GraphTensors, check_graph
from scclip_rt.backends.host_encoder import BatchedEncoder, Feeds, inference_error
from scclip_rt.backends.openvino.split import Split, narrow_nodes, split_encoder
from scclip_rt.backends.processor import BF16_FLAGS, gaining_bf16, processor_flags, processor_vendor
from scclip_rt.bundle.bundle import Bundle
from scclip_rt.bundle.manifest import EncoderSpec
from scclip_rt.cpus import default_threads
from scclip_rt.errors import BackendError, BundleError, install

PRECISIONS = ("fp32", "bf16", "int8")
_import_lock = threading.Lock()
_DTYPES = {"u8": "uint8", "f32": "float32", "i64": "int64"}


def load_openvino() -> Any:
    """Import OpenVINO, without its telemetry.

    `import openvino` (2026.4) reports itself to Google Analytics unless the user has opted out with a tool of its
    own, and leaves an identifier in the home folder. Segmenting a photo should not open a connection. Where the
    package `openvino_telemetry` can't be imported, OpenVINO takes a stub of its own instead.

    Raises:
        BackendError: not installed.
    """
    with _import_lock:
        hidden = "openvino" not in sys.modules and "openvino_telemetry" not in sys.modules
        if hidden:
            sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
        try:
            import openvino
        except ImportError as error:
            raise BackendError(
                f"backend 'openvino' is not installed ({error}); {install('openvino')}, or use "
                "--backend onnxruntime"
            ) from error
        finally:
            if hidden:
                del sys.modules["openvino_telemetry"]
    return openvino


class _Session(Protocol):
    """One encoder, compiled; `request` makes what one thread at a time runs it with."""

    def request(self) -> "_Request": ...


class _Request(Protocol):
    def infer(self, names: Sequence[str], feeds: Feeds) -> list[NDArray[np.float32]]: ...


class _Requests:
    """What runs a session: each request is used by one thread at a time, as it holds tensors."""

    def __init__(self, session: _Session) -> None:
        self._session = session
        self._lock = threading.Lock()
        self._idle: list[_Request] = []

    def infer(self, names: Sequence[str], feeds: Feeds) -> list[NDArray[np.float32]]:
        with self._lock:
            request = self._idle.pop() if self._idle else None
        request = request or self._session.request()
        outputs = request.infer(names, feeds)  # one that failed is not used again
        with self._lock:
            self._idle.append(request)
        return outputs


class OpenVinoEncoder(BatchedEncoder):
    """An image encoder on OpenVINO; see `EncoderBackend` for the methods' contract.

    Args:
        compile_for: compiles the encoder for so many inferences at a time, which share the threads.
        parts: as `BatchedEncoder`; a window alone, which then would get a part of the threads, is run by another
            compiled form, made when it is needed first.
    """

    def __init__(
        self,
        compile_for: Callable[[int], _Session],
        bundle: Bundle,
        spec: EncoderSpec,
        info: BackendInfo,
        batch: int,
        *,
        parts: int = 1,
    ) -> None:
        super().__init__(bundle, spec, info, batch, parts=parts)
        self._compile_for = compile_for
        self._requests = _Requests(compile_for(parts))
        self._alone = self._requests if parts == 1 else None
        self._lock = threading.Lock()

    def infer(self, names: Sequence[str], feeds: Feeds) -> list[NDArray[np.float32]]:
        """One inference; see `BatchedEncoder.infer`."""
        return self._infer(self._requests, names, feeds)

    def infer_alone(self, names: Sequence[str], feeds: Feeds) -> list[NDArray[np.float32]]:
        """One inference on all threads."""
        with self._lock:
            if self._alone is None:
                self._alone = _Requests(self._compile_for(1))
        return self._infer(self._alone, names, feeds)

    def _infer(self, requests: _Requests, names: Sequence[str], feeds: Feeds) -> list[NDArray[np.float32]]:
        try:
            return requests.infer(names, feeds)
        except RuntimeError as error:  # all that OpenVINO raises
            raise inference_error("OpenVINO", self._spec.file, feeds, error) from error


def open_encoder(bundle: Bundle, request: EncoderRequest) -> OpenVinoEncoder:
    """Load an image encoder; errors as `scclip_rt.backends.open_backend`."""
    openvino = load_openvino()
    precision = _check_request(request)
    file_precision = "int8" if precision == "int8" else "fp32"
    spec = choose_encoder(bundle, precisions=(file_precision,), kind="cpu", grid=request.grid)
    threads = request.threads or default_threads()
    compile_for = _open(openvino, bundle, spec, precision, threads)
    batch = batch_size(spec, request.batch, "cpu")
    info = BackendInfo(
        backend="openvino",
        version=str(openvino.__version__).partition("-")[0],
        provider="CPU",
        device="cpu",
        precision=precision,
        grid=str(spec.grid),
        encoder=spec.file,
        threads=threads,
        batch=batch,
        reason=request.reason,
    )
    # Operators on int8 are short, and each waits for the other threads. Wider ones gain nothing.
    halves = precision == "int8" and spec.grid.kind == "window" and threads % 2 == 0
    return OpenVinoEncoder(compile_for, bundle, spec, info, batch, parts=2 if halves else 1)


def _check_request(request: EncoderRequest) -> str:
    """The precision to run; what this backend can't do is refused."""
    if request.ort_provider is not None:
        raise BackendError(
            f"--ort-provider {request.ort_provider} is ONNX Runtime's; leave it out with --backend openvino",
            field="ort_provider",
        )
    if request.device not in ("auto", "cpu"):
        raise BackendError(
            f"backend 'openvino' runs on the CPU here; got device {request.device!r}. Use --device cpu, or "
            "--backend onnxruntime for a GPU",
            field="device",
        )
    precision = "fp32" if request.precision == "auto" else request.precision
    if precision not in PRECISIONS:
        raise BackendError(
            f"backend 'openvino' has no precision {precision!r}; it has: {', '.join(PRECISIONS)} "
            "(bf16 from the fp32 file, int8 if the bundle was exported with --int8)",
            field="precision",
        )
    if precision == "bf16" and not processor_flags() & BF16_FLAGS:
        raise BackendError(
            "precision 'bf16' needs a processor with bf16 arithmetic "
            f"({', '.join(sorted(BF16_FLAGS))}); this one has none of it, so bf16 would be less accurate and not "
            "faster. Use --precision fp32, or int8 if the bundle has it",
            field="precision",
        )
    return precision


def _open(
    openvino: Any, bundle: Bundle, spec: EncoderSpec, precision: str, threads: int
) -> Callable[[int], _Session]:
    """Read and check the graph; what is returned compiles it for so many inferences at a time."""
    core = openvino.Core()
    bf16 = precision == "bf16" or _bf16_beside(precision, spec)

    def compile_for(streams: int) -> _Session:
        with _load_errors(bundle, spec):
            if split is not None:
                return _open_split(core, split, spec, precision, threads, streams)
            # Said outright: where the processor has bf16, the plugin takes it by default.
            whole = _compile(core, model, threads, "bf16" if bf16 and not selects else "f32", streams)
            if precision == "bf16" and not selects:
                _check_taken(whole, spec)
            return _WholeSession(whole)

    with _load_errors(bundle, spec), bundle.graph_without_links(spec.file) as path:
        model = core.read_model(os.fspath(path))
        _check_model(spec, model)
        # Without it nothing is selected by distance: calibration `maskclip` or `none`.
        selects = any(node.get_type_name() == "TopK" for node in model.get_ops())
        split = split_encoder(model) if bf16 and selects else None
    if precision == "bf16" and selects and split is None:
        raise BackendError(
            f"{spec.file}: its anomaly stage has a form that this version doesn't know, so it can't be kept in "
            "float32 under bf16; use --precision fp32, or export the bundle again with this version"
        )
    return compile_for


def _bf16_beside(precision: str, spec: EncoderSpec) -> bool:
    """Whether what is not int8 in an int8 file computes in bf16."""
    gains = bool(gaining_bf16(processor_flags(), processor_vendor()))
    return precision == "int8" and spec.grid.kind != "window" and gains


@contextmanager
def _load_errors(bundle: Bundle, spec: EncoderSpec) -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:  # all that OpenVINO raises
        reason = " ".join(str(error).split())[:300]
        raise BundleError(
            f"{bundle.path / spec.file}: OpenVINO can't load it: {reason}", field=spec.file
        ) from error


def _open_split(
    core: Any, split: Split, spec: EncoderSpec, precision: str, threads: int, streams: int
) -> _Session:
    """bf16 but for the anomaly stage; what was compiled is read back."""
    precisions = ((split.trunk, "bf16"), (split.stage, "f32"), (split.tail, "bf16"))
    parts = [_compile(core, part, threads, wanted, streams) for part, wanted in precisions]
    trunk, stage, _ = parts
    if precision == "bf16":  # beside int8, what the plugin takes instead is as good
        _check_taken(trunk, spec)
    narrow = narrow_nodes(stage)
    if narrow:
        raise BackendError(
            f"{spec.file}: OpenVINO would not compute the anomaly distances in float32 ({'; '.join(narrow[:3])}); "
            "use --precision fp32"
        )
    return _SplitSession(parts)


def _check_taken(compiled: Any, spec: EncoderSpec) -> None:
    taken = compiled.get_property("INFERENCE_PRECISION_HINT").to_string()
    if taken != "bf16":
        raise BackendError(
            f"{spec.file}: asked OpenVINO for bf16, it took {taken} on this processor; use --precision fp32"
        )


def _compile(core: Any, model: Any, threads: int, precision: str, streams: int = 1) -> Any:
    options = {
        "INFERENCE_PRECISION_HINT": precision,
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": str(streams),  # inferences at a time, which share the threads
        "INFERENCE_NUM_THREADS": threads,
        # Pinned threads sit on cores that decoding and other processes use too.
        "ENABLE_CPU_PINNING": False,
    }
    return core.compile_model(model, "CPU", options)


def _check_model(spec: EncoderSpec, model: Any) -> None:
    def tensors(ports: Any) -> GraphTensors:
        return {
            name: (_DTYPES.get(kind := port.element_type.to_string(), kind), _lengths(port.partial_shape))
            for port in ports
            for name in port.names
            if name in wanted or len(port.names) == 1
        }

    wanted = {tensor.name for tensor in (*spec.inputs, *spec.outputs)}
    check_graph(spec, tensors(model.inputs), tensors(model.outputs))


def _lengths(shape: Any) -> tuple[int | str, ...]:
    return tuple("?" if length.is_dynamic else int(length.get_length()) for length in shape)


class _WholeSession:
    """The encoder as one compiled model."""

    def __init__(self, compiled: Any) -> None:
        self._compiled = compiled

    def request(self) -> "_Request":
        return _WholeRequest(self._compiled.create_infer_request())


class _WholeRequest:
    def __init__(self, request: Any) -> None:
        self._request = request

    def infer(self, names: Sequence[str], feeds: Feeds) -> list[NDArray[np.float32]]:
        self._request.infer(
            {key: np.ascontiguousarray(value) for key, value in feeds.items()}, share_inputs=True
        )
        return _outputs(self._request, names)


class _SplitSession:
    """The encoder as the three parts of `Split`, compiled, in their order."""

    def __init__(self, parts: Sequence[Any]) -> None:
        self._parts = parts

    def request(self) -> "_Request":
        return _SplitRequest(self._parts)


class _SplitRequest:
    """One request per part; a part's outputs are the next parts' inputs, without a copy."""

    def __init__(self, parts: Sequence[Any]) -> None:
        self._requests = [part.create_infer_request() for part in parts]
        names = [({n for port in part.inputs for n in port.names}, part.outputs) for part in parts]
        self._links = [
            [
                (source, name, target)
                for source in range(target)
                for port in names[source][1]
                for name in sorted(port.names & names[target][0])[:1]
            ]
            for target in range(len(parts))
        ]

    def infer(self, names: Sequence[str], feeds: Feeds) -> list[NDArray[np.float32]]:
        import openvino

        given = {key: openvino.Tensor(np.ascontiguousarray(value)) for key, value in feeds.items()}
        trunk, _, tail = self._requests
        trunk.set_tensor("windows", given["windows"])
        tail.set_tensor("text", given["text"])
        for request, links in zip(self._requests, self._links, strict=True):
            for source, name, _ in links:
                request.set_tensor(name, self._requests[source].get_tensor(name))
            request.infer()
        return _outputs(tail, names)


def _outputs(request: Any, names: Sequence[str]) -> list[NDArray[np.float32]]:
    # Copied: the tensor is the request's, which writes into it the next time.
    return [np.array(request.get_tensor(name).data, np.float32) for name in names]
