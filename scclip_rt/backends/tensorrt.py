"""TensorRT and TensorRT-RTX: the bundle's engines on an NVIDIA GPU.

Both libraries have one Python interface, so one module serves the two backends; what differs is said where it does.
Nothing is built here: an engine that does not fit is refused with the command that builds one.
"""

import contextlib
import re
from pathlib import Path
from typing import Any

from scclip_rt.backends.base import BackendInfo, EncoderRequest
from scclip_rt.backends.choose import batch_size, engine_for_grids, engine_machine
from scclip_rt.backends.cuda import Device, DeviceBuffer, Ledger, Stream, load_driver
from scclip_rt.backends.cuda.encoder import DeviceEncoder
from scclip_rt.bundle.bundle import Bundle
from scclip_rt.bundle.engine_fit import (
    Engine,
    Library,
    encoder_of,
    engine_path,
    library_module,
    rebuild_command,
)
from scclip_rt.cpus import default_threads
from scclip_rt.errors import BackendError, OutputError
from scclip_rt.files import atomic_path, cache_for_libraries

_TENSORS = {"windows": "UINT8", "text": "FLOAT", "features": "FLOAT", "logits": "FLOAT"}
_KEPT_MESSAGES = 4


def open_encoder(bundle: Bundle, request: EncoderRequest) -> DeviceEncoder:
    """Load the bundle's TensorRT engine for this GPU; see `BackendModule`."""
    return open_engine("tensorrt", bundle, request)


def open_engine(library: Library, bundle: Bundle, request: EncoderRequest) -> DeviceEncoder:
    """Load an engine of either library.

    Raises:
        BackendError: the library, the driver, the GPU or a fitting engine is missing; says what to do.
        BundleError: a file of the bundle is damaged.
    """
    number = device_number(library, request)
    module = library_module(library)
    device = Device.open(number, load_driver())
    machine = engine_machine(library, device)
    engine = request.engine or engine_for_grids(
        bundle, machine, precision=request.precision, grid=request.grid
    )
    ledger = Ledger(device)
    with device.current():
        graph = TensorRtGraph(module, bundle, engine, device, ledger)
    spec = encoder_of(bundle, engine)
    batch = min(batch_size(spec, request.batch, "cuda"), graph.batch[1])
    info = BackendInfo(
        backend=library,
        version=machine.version,
        provider="TensorRT-RTX" if library == "tensorrt-rtx" else "TensorRT",
        device=f"cuda:{number}",
        precision=engine.precision,
        grid=str(engine.grid),
        encoder=engine.file,
        threads=request.threads or default_threads(),
        batch=batch,
        reason=request.reason,
        details={"engine": str(engine), "engine_queries": list(graph.queries)},
    )
    return DeviceEncoder(bundle, spec, info, batch, device=device, graph=graph, ledger=ledger)


def device_number(backend: str, request: EncoderRequest) -> int:
    """The GPU that a request names, 0 for `auto`.

    Raises:
        BackendError: the CPU, a provider of ONNX Runtime, or no name of a device.
    """
    match = re.fullmatch(r"auto|cuda(?::(\d+))?", request.device)
    if match is None:
        raise BackendError(
            f"backend {backend!r} runs on an NVIDIA GPU, not on {request.device!r}; use --device cuda:0"
        )
    if request.ort_provider is not None:
        raise BackendError(
            f"--ort-provider {request.ort_provider} is for backend 'onnxruntime'; leave it out with {backend!r}"
        )
    return int(match.group(1) or 0)


class TensorRtGraph:
    """A deserialised engine; see `DeviceGraph`.

    Args:
        module: `tensorrt` or `tensorrt_rtx`.
        bundle: that holds the engine.
        engine: its sidecar.
        device: current in this thread.
        ledger: where its weights are counted.
    """

    def __init__(self, module: Any, bundle: Bundle, engine: Engine, device: Device, ledger: Ledger) -> None:
        self._module, self._device, self._ledger = module, device, ledger
        self._name = engine.file
        self._rebuild = rebuild_command(bundle, engine)
        self._log = make_log(module)
        self._runtime = module.Runtime(self._log)
        if engine.options.get("version_compatible"):
            self._runtime.engine_host_code_allowed = True  # such an engine brings code of its own version
        path = engine_path(bundle, engine)
        self._engine = self._runtime.deserialize_cuda_engine(path.read_bytes())
        if self._engine is None:
            raise self._failure(f"can't be loaded on {device}")
        self._check_tensors()
        self._windows = self._profile("windows")
        self.queries = (self._profile("text")[0][0], self._profile("text")[1][0])
        """Fewest and most queries."""
        self.batch = (self._windows[0][0], self._windows[1][0])
        """Fewest and most windows."""
        size = getattr(self._engine, "device_memory_size_v2", None)  # since TensorRT 10.1
        self.workspace_bytes = int(self._engine.device_memory_size if size is None else size)
        self._weights = self._weight_bytes(path)
        ledger.add(self._weights)
        self._config, self._cache = self._runtime_config()

    def session(self, stream: Stream) -> "TensorRtSession":
        """Scratch memory for one stream."""
        return TensorRtSession(self, stream)

    def close(self) -> None:
        """Free the engine: contexts are gone by now, and a context's library goes last."""
        if self._engine is not None:
            self._config = self._cache = self._engine = self._runtime = None
            self._ledger.add(-self._weights)

    def new_context(self, workspace: DeviceBuffer) -> Any:
        """An execution context that works in `workspace`."""
        strategy = self._module.ExecutionContextAllocationStrategy.USER_MANAGED
        context = self._engine.create_execution_context(self._config or strategy)
        if context is None:
            raise self._failure("gives no execution context")
        if hasattr(context, "set_device_memory"):
            context.set_device_memory(workspace.pointer, workspace.size)
        else:
            context.device_memory = workspace.pointer
        return context

    def workspace(self) -> DeviceBuffer:
        """Scratch memory that contexts used one after the other can share."""
        return DeviceBuffer(self._ledger, self.workspace_bytes, f"the workspace of {self._name}")

    def set_shapes(self, context: Any, *, batch: int, height: int, width: int, queries: int) -> None:
        """Give a context its input shapes.

        Raises:
            BackendError: outside the engine's profile.
        """
        shapes = {
            "windows": (batch, height, width, 3),
            "text": (queries, self._engine.get_tensor_shape("text")[1]),
        }
        for name, shape in shapes.items():
            if not context.set_input_shape(name, shape):
                low, high = self._profile(name)
                raise self._failure(f"takes {name} from {low} to {high}; got {shape}")

    def stream_capturable(self, context: Any, stream: Stream) -> bool:
        """Whether the context's runs may be captured.

        TensorRT-RTX says so itself (some engines allocate while running); TensorRT's may be where no loop and no
        data-dependent shape is in the graph, and there is none in ours.
        """
        ask = getattr(context, "is_stream_capturable", None)
        return True if ask is None else bool(ask(stream.address))

    def save_cache(self) -> None:
        """Keep what TensorRT-RTX compiled for this GPU, so that the next process starts at once."""
        if self._cache is None:
            return
        memory = self._cache.serialize()
        content = b"" if memory is None else bytes(memory)
        path = self._cache_path()
        if not content or (path.is_file() and path.stat().st_size == len(content)):
            return
        # A cache that can't be written costs the next start some seconds, no result.
        with contextlib.suppress(OutputError), atomic_path(path, force=True) as temporary:
            temporary.write_bytes(content)

    def _failure(self, what: str) -> BackendError:
        reason = self._log.take()
        words = f" ({reason})" if reason else ""
        return BackendError(f"{self._name} {what}{words}. Build it again with `{self._rebuild}`")

    failure = _failure

    def _check_tensors(self) -> None:
        engine, dtype = self._engine, self._module.DataType
        names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
        found = {name: engine.get_tensor_dtype(name) for name in names}
        wanted = {name: getattr(dtype, kind) for name, kind in _TENSORS.items()}
        if found != wanted:
            shown = ", ".join(f"{name} {getattr(kind, 'name', kind)}" for name, kind in found.items())
            needed = ", ".join(f"{name} {kind}" for name, kind in _TENSORS.items())
            raise BackendError(
                f"{self._name} has the tensors {shown}; needed: {needed}. Build it again with `{self._rebuild}`"
            )

    def _profile(self, name: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Smallest and largest shape of an input."""
        low, _, high = self._engine.get_tensor_profile_shape(name, 0)
        return tuple(int(length) for length in low), tuple(int(length) for length in high)

    def _weight_bytes(self, path: Path) -> int:
        """TensorRT's own count, else the size of the file, which is little more than its weights."""
        statistic = getattr(getattr(self._module, "EngineStat", None), "TOTAL_WEIGHTS_SIZE", None)
        count = -1 if statistic is None else int(self._engine.get_engine_stat(statistic))
        return count if count > 0 else path.stat().st_size

    def _runtime_config(self) -> tuple[Any, Any]:
        """TensorRT-RTX's run-time settings and its cache of compiled kernels; None and None for TensorRT."""
        if not hasattr(self._module, "DynamicShapesKernelSpecializationStrategy"):
            return None, None
        module, config = self._module, self._engine.create_runtime_config()
        config.set_execution_context_allocation_strategy(
            module.ExecutionContextAllocationStrategy.USER_MANAGED
        )
        # LAZY, the default, goes on with general kernels until the special ones are compiled: a CUDA graph captured in
        # between would keep the slow ones for good.
        config.dynamic_shapes_kernel_specialization_strategy = (
            module.DynamicShapesKernelSpecializationStrategy.EAGER
        )
        cache = config.create_runtime_cache()
        path = self._cache_path()
        if path.is_file():
            cache.deserialize(path.read_bytes())  # False for another GPU's or version's: it starts empty then
        config.set_runtime_cache(cache)
        return config, cache

    def _cache_path(self) -> Path:
        major, minor = self._device.compute_capability
        version = str(self._module.__version__)
        return (
            cache_for_libraries()
            / "tensorrt-rtx"
            / f"{version}-sm{major}{minor}-{Path(self._name).stem}.cache"
        )


class TensorRtSession:
    """The contexts of one stream, which share one workspace; see `GraphSession`."""

    def __init__(self, graph: TensorRtGraph, stream: Stream) -> None:
        self._graph, self._stream = graph, stream
        self._workspace = graph.workspace()
        self._new_shape = False

    def call(self, *, batch: int, height: int, width: int, queries: int) -> "TensorRtCall":
        """A context of its own for one shape: a captured graph stays tied to its context's state."""
        context = self._graph.new_context(self._workspace)
        self._graph.set_shapes(context, batch=batch, height=height, width=width, queries=queries)
        self._new_shape = True
        return TensorRtCall(self._graph, context, self._stream)

    def settled(self) -> None:
        """A run is complete: what a new shape had compiled can be kept."""
        if self._new_shape:
            self._new_shape = False
            self._graph.save_cache()

    def close(self) -> None:
        """Free the workspace."""
        self._workspace.close()


class TensorRtCall:
    """A context with its shapes; see `GraphCall`."""

    def __init__(self, graph: TensorRtGraph, context: Any, stream: Stream) -> None:
        self._graph, self._context, self._stream = graph, context, stream
        self.capturable = graph.stream_capturable(context, stream)
        """Whether runs may be captured."""

    def enqueue(self, *, windows: int, text: int, features: int, logits: int) -> None:
        """Queue one run; see `GraphCall`."""
        addresses = {"windows": windows, "text": text, "features": features, "logits": logits}
        for name, address in addresses.items():
            if not self._context.set_tensor_address(name, address):
                raise self._graph.failure(f"refuses the address of {name}")
        if not self._context.execute_async_v3(self._stream.address):
            raise self._graph.failure("failed to run")

    def close(self) -> None:
        """Let the context go."""
        self._context = None


def make_log(module: Any) -> Any:
    """A TensorRT logger that keeps the last errors for our messages instead of printing them."""

    class Log(module.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            module.ILogger.__init__(self)
            self.messages: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            errors = (module.ILogger.Severity.INTERNAL_ERROR, module.ILogger.Severity.ERROR)
            if severity in errors:
                self.messages = [*self.messages, " ".join(message.split())][-_KEPT_MESSAGES:]

        def take(self) -> str:
            """What was logged since the last time, in one line."""
            words, self.messages = "; ".join(self.messages)[:400], []
            return words

    return Log()
