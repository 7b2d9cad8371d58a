"""TensorRT 10 and 11 and TensorRT-RTX behind one small interface: what differs between them stands here.

TensorRT needs a GPU to build, and builds for that GPU. TensorRT-RTX builds ahead of time on any machine. Facts about
TensorRT-RTX 1.7.1 found by trying (no GPU): it refuses compute capabilities 8.7, 9.0, 10.0 and 10.3 ("invalid or not
supported"); fp32 matrix products do not build for 7.5; VERSION_COMPATIBLE asks for a library it does not ship; timing
caches are no-ops; deserialising, and so the engine inspector, needs a GPU.
"""

import json
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from scclip_export.engines.precisions import logged_layers
from scclip_export.engines.request import EngineRequest
from scclip_export.errors import ExportError
from scclip_rt.backends.cuda.device import find_gpu
from scclip_rt.bundle.engine_fit import RTX_CAPABILITIES, Library, library_module, supports
from scclip_rt.errors import BackendError
from scclip_rt.files import atomic_path, cache_for_libraries


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What engines of a request can run on, in the words of the sidecar; `device` was tuned for."""

    compute_capabilities: tuple[str, ...]
    device: str | None = None


# The least compute capability that multiplies float8.
FP8_CAPABILITY = "8.9"


def narrowed(target: Target, precision: str, library: Library) -> Target:
    """Return what an engine of a precision can run on, of a request's target.

    TensorRT-RTX's portable engine leaves out GPUs that lack a type of its network, such as float8 (NVIDIA, support
    matrix of TensorRT-RTX).

    Raises:
        ExportError: fp8, for a GPU without it.
    """
    if precision != "fp8":
        return target
    lacking = [name for name in target.compute_capabilities if not supports((f"{FP8_CAPABILITY}+",), name)]
    if target.compute_capabilities == RTX_CAPABILITIES:
        kept = tuple(name for name in RTX_CAPABILITIES if name not in lacking)
        return replace(target, compute_capabilities=kept)
    if lacking:
        mend = "leave it out of --compute-capability" if library == "tensorrt-rtx" else "build on another GPU"
        if target.compute_capabilities == ("8.0+",):
            mend = "leave out --hardware-compatible"
        raise ExportError(
            f"an fp8 engine needs compute capability {FP8_CAPABILITY} or later; {', '.join(lacking)} was asked for: "
            f"{mend}, or take another precision (--engine-precision fp16)"
        )
    return target


class EngineLibrary(Protocol):
    """A library that makes engines from ONNX files. `trt` is its Python module."""

    name: Library
    trt: Any

    def target(self, request: EngineRequest) -> Target:
        """Check that the request can be built here; ExportError if not."""
        ...

    def create_network(self, builder: Any) -> Any:
        """An empty, strongly typed network."""
        ...

    def configure(self, config: Any, request: EngineRequest) -> None:
        """Set what only this library has."""
        ...

    def finish(self, config: Any, request: EngineRequest) -> None:
        """Keep what a build has learnt for the next."""
        ...

    def inspect(self, plan: Any, logger: Any, *, host_code: bool) -> dict[str, Any] | None:
        """The engine inspector's JSON for a built engine, or as much of it as is known; None where nothing is."""
        ...


def open_library(name: Library) -> EngineLibrary:
    """Import a library.

    Raises:
        ExportError: not installed, or older than TensorRT 10.
    """
    try:
        module = library_module(name)
    except BackendError as error:
        raise ExportError(f"--{name}: {error}") from error
    if name == "tensorrt-rtx":
        return TensorrtRtx(trt=module)
    if int(str(module.__version__).partition(".")[0]) < 10:
        raise ExportError(
            f"--tensorrt needs TensorRT 10 or later; {module.__version__} is installed. "
            "Run `pip install -U tensorrt`"
        )
    return Tensorrt(trt=module)


def parse_compute_capability(text: str) -> str:
    """`8.9` or `89` as `8.9`.

    Raises:
        ValueError: something else.
    """
    digits = text.strip().lower().removeprefix("sm").removeprefix("_").replace(".", "")
    if not digits.isdecimal() or not 2 <= len(digits) <= 3:
        raise ValueError(f"{text!r} is no compute capability such as 8.9 or 89")
    return f"{digits[:-1]}.{digits[-1]}"


@dataclass(slots=True)
class TensorrtRtx:
    """TensorRT for RTX: engines for one or several compute capabilities, built without a GPU."""

    trt: Any
    name: Library = "tensorrt-rtx"
    capabilities: tuple[str, ...] = ()

    def target(self, request: EngineRequest) -> Target:
        """Refuse compute capabilities the library has no target for; none named means its portable engine."""
        known = self._known()
        for capability in request.compute_capabilities:
            if capability == "7.5":
                raise ExportError(
                    "--compute-capability 7.5: TensorRT-RTX has no fp32 matrix products for Turing, and the "
                    "calibration needs them; use --tensorrt on such a machine"
                )
            if capability not in known:
                raise ExportError(
                    f"--compute-capability {capability}: TensorRT-RTX {self.trt.__version__} builds for "
                    f"{', '.join(known)}; leave the option out for an engine that runs on "
                    f"{', '.join(RTX_CAPABILITIES[:-1])} and 12.0 or later, or use --tensorrt on that machine"
                )
        self.capabilities = request.compute_capabilities or RTX_CAPABILITIES
        return Target(compute_capabilities=self.capabilities)

    def _known(self) -> list[str]:
        names = [name for name in self.trt.ComputeCapability.__members__ if name.startswith("SM")]
        return [parse_compute_capability(name) for name in names if name != "SM75"]

    def create_network(self, builder: Any) -> Any:
        """TensorRT-RTX knows strongly typed networks alone."""
        return builder.create_network(0)

    def configure(self, config: Any, request: EngineRequest) -> None:
        """Name the targets."""
        # Without it an engine may allocate while it runs, which a CUDA graph's capture forbids (since 1.2).
        own_memory = getattr(self.trt.BuilderFlag, "REQUIRE_USER_ALLOCATION", None)
        if own_memory is not None:
            config.set_flag(own_memory)
        # The builder's log then tells the layers, which the inspector could only do where a GPU is.
        config.profiling_verbosity = self.trt.ProfilingVerbosity.DETAILED
        config.num_compute_capabilities = len(request.compute_capabilities)
        for index, capability in enumerate(request.compute_capabilities):
            member = getattr(self.trt.ComputeCapability, "SM" + capability.replace(".", ""))
            if not config.set_compute_capability(member, index):
                raise ExportError(
                    f"TensorRT-RTX {self.trt.__version__} refuses compute capability {capability}"
                )

    def finish(self, config: Any, request: EngineRequest) -> None:
        """Nothing: timing caches are no-ops since TensorRT-RTX 1.2."""

    def inspect(self, plan: Any, logger: Any, *, host_code: bool) -> dict[str, Any] | None:  # noqa: ARG002
        """The inspector where there is a GPU that loads the engine; elsewhere what the builder logged."""
        try:
            loads = supports(self.capabilities, find_gpu().capability)
        except BackendError:
            loads = False
        if not loads:
            return logged_layers(logger.layers) if logger.layers else None
        return _inspector_json(self.trt, self.trt.Runtime(logger).deserialize_cuda_engine(plan))


@dataclass(slots=True)
class Tensorrt:
    """TensorRT proper, 10.x or 11.x: an engine for the GPU of this machine."""

    trt: Any
    name: Library = "tensorrt"
    gpu: str | None = None
    capability: str = ""

    def target(self, request: EngineRequest) -> Target:
        """Find the GPU; what the engine can run on follows from it and the compatibility asked for."""
        try:
            gpu = find_gpu()
        except BackendError as error:
            raise ExportError(
                f"--tensorrt builds for the GPU of the machine it runs on: {error}. Run "
                "`scclip-export --bundle … --tensorrt` there, or use --tensorrt-rtx, which needs none"
            ) from error
        self.gpu, self.capability = gpu.name, gpu.capability
        capabilities = ("8.0+",) if request.hardware_compatible == "ampere+" else (gpu.capability,)
        return Target(compute_capabilities=capabilities, device=gpu.name)

    def create_network(self, builder: Any) -> Any:
        """Strongly typed: a flag in TensorRT 10, the only kind in 11."""
        if int(str(self.trt.__version__).partition(".")[0]) >= 11:
            return builder.create_network(0)
        return builder.create_network(1 << int(self.trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))

    def configure(self, config: Any, request: EngineRequest) -> None:
        """Compatibility, layer details for the inspector, and the timing cache."""
        config.profiling_verbosity = self.trt.ProfilingVerbosity.DETAILED
        if request.version_compatible:
            config.set_flag(self.trt.BuilderFlag.VERSION_COMPATIBLE)
        if request.hardware_compatible:
            levels = self.trt.HardwareCompatibilityLevel
            config.hardware_compatibility_level = (
                levels.AMPERE_PLUS
                if request.hardware_compatible == "ampere+"
                else levels.SAME_COMPUTE_CAPABILITY
            )
        path = self._timing_cache(request)
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            content = b""
        cache = config.create_timing_cache(content)
        if cache is None or not config.set_timing_cache(cache, ignore_mismatch=False):
            raise ExportError(
                f"{path} is no timing cache of this TensorRT and GPU; delete it or name another"
            )

    def finish(self, config: Any, request: EngineRequest) -> None:
        """Keep the timing cache."""
        cache = config.get_timing_cache()
        if cache is not None:
            with atomic_path(self._timing_cache(request), force=True) as path:
                path.write_bytes(bytes(cache.serialize()))

    def _timing_cache(self, request: EngineRequest) -> Path:
        if request.timing_cache is not None:
            return request.timing_cache
        # TensorRT refuses the measurements of another GPU, also of one with the same compute capability.
        gpu = re.sub(r"[^a-z0-9]+", "-", (self.gpu or "").lower()).strip("-")
        name = f"{self.trt.__version__}-sm{self.capability.replace('.', '')}-{gpu}.timing"
        return cache_for_libraries() / "tensorrt" / name

    def inspect(self, plan: Any, logger: Any, *, host_code: bool) -> dict[str, Any] | None:
        """Load the engine, which also proves that it loads, and ask the inspector."""
        runtime = self.trt.Runtime(logger)
        if host_code:
            runtime.engine_host_code_allowed = True  # version-compatible plans carry their own runtime
        return _inspector_json(self.trt, runtime.deserialize_cuda_engine(plan))


def _inspector_json(trt: Any, engine: Any) -> dict[str, Any]:
    if engine is None:
        raise ExportError("the engine was built but does not load on this machine's GPU; nothing was kept")
    text = engine.create_engine_inspector().get_engine_information(trt.LayerInformationFormat.JSON)
    document = json.loads(text)
    return document if isinstance(document, dict) else {}
