"""What `auto` means: backend and precision, from what is installed, the processor and what the bundle holds.

Accuracy first: `auto` runs fp32 on a CPU, whose labels are the reference, even where the bundle holds int8. Whoever
wants speed for a stated loss says so: `fast` takes the narrowest arithmetic that this machine gains from, and that the
bundle's owner has exported (int8; its parity figures are in bundle.json) or that costs next to nothing (bf16).

On a GPU `auto` takes an engine that was built for it before anything else, and fp16 before fp32: SC-CLIP itself
computes in fp16 there. bf16 comes after fp32 under `auto`, before it under `fast`
(`scclip_rt.bundle.engine_fit.PREFERENCE`).

Where `scclip tune` has measured a bundle on this machine, that goes before the rules for CPUs: of the rows that
agree with all that was asked for, the fastest.
"""

import dataclasses
import importlib.util
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from scclip_rt.backends.base import GridChoice
from scclip_rt.backends.gpu import Gpu
from scclip_rt.backends.processor import (
    BF16_FLAGS,
    INT8_FLAGS,
    gaining_bf16,
    processor_flags,
    processor_vendor,
)
from scclip_rt.backends.tuned import CpuBackend, Tuned, read_tuned
from scclip_rt.bundle.bundle import Bundle
from scclip_rt.bundle.engine_fit import (
    MODULES,
    Engine,
    Library,
    Machine,
    Wanted,
    choose_engine,
    library_module,
    read_engines,
)
from scclip_rt.bundle.manifest import EncoderSpec
from scclip_rt.errors import BackendError

DeviceKind = Literal["cpu", "cuda"]

ENGINE_BACKENDS: tuple[Library, ...] = ("tensorrt", "tensorrt-rtx")
"""Backends that run engines, the preferred first: TensorRT's are tuned on the GPU they run on."""

# Patches per batch. On a CPU the matrix products are at full speed from a few windows on, and memory grows
# with every further one; a GPU wants more work at once.
_BATCH_PATCHES: dict[DeviceKind, int] = {"cpu": 8 * 196, "cuda": 32 * 196}


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """What a choice depends on beside the bundle: what the kernel says of the processor, installed packages."""

    flags: frozenset[str]
    packages: frozenset[str]
    vendor: str = ""

    @property
    def openvino(self) -> bool:
        """Whether OpenVINO is installed."""
        return "openvino" in self.packages

    @property
    def bf16(self) -> frozenset[str]:
        """The instruction sets that make bf16 faster than float32 here."""
        return gaining_bf16(self.flags, self.vendor)


@dataclass(frozen=True, slots=True, kw_only=True)
class BackendChoice:
    """Backend and precision to open, the reason in words, and the engine where one was found.

    Attributes:
        threads: what `scclip tune` found best; None: nothing was measured.
        batch: likewise.
    """

    backend: str
    precision: str
    reason: str
    engine: Engine | None = None
    threads: int | None = None
    batch: int | None = None


def this_host() -> Host:
    """The machine we run on; packages are looked for, not imported."""
    packages = {name for name in ("openvino",) if importlib.util.find_spec(name) is not None}
    return Host(flags=processor_flags(), vendor=processor_vendor(), packages=frozenset(packages))


def choose(
    bundle: Bundle,
    *,
    backend: str = "auto",
    device: str = "auto",
    precision: str = "auto",
    ort_provider: str | None = None,
    threads: int | None = None,
    batch: int | None = None,
    grid: GridChoice = "window",
    host: Host | None = None,
    tuned: Tuned | None = None,
) -> BackendChoice:
    """Settle `auto` and `fast`; what is named stays as it is, for the backend to take or refuse.

    Args:
        bundle: an open bundle.
        backend: a name or `auto`.
        device: `cpu`, `cuda:N` or `auto`.
        precision: a name, `auto` (see the module) or `fast`.
        ort_provider: ONNX Runtime's provider or None; naming one names the backend.
        threads: of one inference; None may be any.
        batch: most windows at once; None may be any.
        grid: `window` or `whole`.
        host: default: the machine we run on.
        tuned: what was measured; default: what is remembered of this machine, and nothing of another host.

    Raises:
        BackendError: whole images are wanted and the bundle has no encoder for them.
    """
    if (
        device.startswith("cuda")
        or ort_provider in ("cuda", "cuda-graphs", "tensorrt")
        or backend in ENGINE_BACKENDS
    ):
        return _on_gpu(bundle, backend, device, precision, ort_provider, grid)
    if (backend, device, ort_provider) == ("auto", "auto", None):
        engine, reason = fitting_engine(bundle, device=device, precision=precision, grid=grid)
        if engine is not None:
            return _take(engine, reason)
    held = cpu_precisions(bundle, grid)
    if tuned is None:
        tuned = read_tuned(bundle) if host is None else Tuned()
    host = host or this_host()
    if backend == "auto" and ort_provider is not None:
        backend = "onnxruntime"
    ways = cpu_ways(held, host)
    tuned = dataclasses.replace(
        tuned, rows=tuple(row for row in tuned.rows if (row.precision, row.backend) in ways)
    )
    named = None if backend == "auto" else backend
    # By the fastest row of all: few have other threads and windows, so that of those few the fastest may be a slow one.
    fastest = tuned.best(grid=grid, backend=named) if precision == "fast" else None
    if fastest is not None:
        chosen, why_precision = fastest.precision, f"{fastest.precision} is the fastest"
    else:
        chosen, why_precision = _cpu_precision(precision, backend, held, host)
    best = tuned.best(grid=grid, precision=chosen, backend=named, threads=threads, batch=batch)
    if best is not None:
        return BackendChoice(
            backend=best.backend,
            precision=best.precision,
            reason=f"{why_precision}; {best.backend}, as scclip tune measured: {best}",
            threads=best.threads,
            batch=best.batch,
        )
    name, why_backend = _cpu_backend(backend, chosen, host)
    reasons = [why_precision, why_backend, *([tuned.stale] if tuned.stale else [])]
    return BackendChoice(backend=name, precision=chosen, reason="; ".join(reasons))


def cpu_precisions(bundle: Bundle, grid: GridChoice) -> set[str]:
    """The precisions that the bundle has for a CPU.

    Raises:
        BackendError: whole images are wanted and the bundle has no encoder for them.
    """
    return {spec.precision for spec in grid_encoders(bundle, grid) if "cpu" in spec.runs_on}


def cpu_ways(held: set[str], host: Host) -> list[tuple[str, CpuBackend]]:
    """Precision and library of all that can run on a CPU, float32 on ONNX Runtime first.

    Args:
        held: `cpu_precisions` of a bundle.
        host: the processor and the libraries.
    """
    libraries: list[CpuBackend] = ["onnxruntime", "openvino"] if host.openvino else ["onnxruntime"]
    ways = [(precision, library) for precision in sorted(held & {"fp32", "int8"}) for library in libraries]
    if "fp32" in held and host.openvino and host.flags & BF16_FLAGS:
        ways.append(("bf16", "openvino"))
    return ways


def _ort_precision(precision: str) -> str:
    # ONNX Runtime's GPU providers take fp16 before fp32 and nothing else unasked.
    return "auto" if precision == "fast" else precision


def _on_gpu(
    bundle: Bundle, backend: str, device: str, precision: str, ort_provider: str | None, grid: GridChoice
) -> BackendChoice:
    if backend != "auto":
        named = precision if backend in ENGINE_BACKENDS else _ort_precision(precision)
        return BackendChoice(backend=backend, precision=named, reason=f"{backend} was asked for")
    if ort_provider is not None:
        reason = f"ONNX Runtime's provider {ort_provider} was asked for"
        return BackendChoice(backend="onnxruntime", precision=_ort_precision(precision), reason=reason)
    engine, found = fitting_engine(bundle, device=device, precision=precision, grid=grid)
    reason = f"a GPU was asked for; {found}"
    if engine is None:
        return BackendChoice(backend="onnxruntime", precision=_ort_precision(precision), reason=reason)
    return _take(engine, reason)


def _take(engine: Engine, reason: str) -> BackendChoice:
    return BackendChoice(backend=engine.library, precision=engine.precision, reason=reason, engine=engine)


def _cpu_precision(precision: str, backend: str, held: set[str], host: Host) -> tuple[str, str]:
    if precision not in ("auto", "fast"):
        return precision, f"{precision} was asked for"
    if precision == "fast":
        if "int8" in held:
            return "int8", "int8 is the fastest that the bundle holds"
        if "fp32" in held and host.openvino and host.bf16 and backend != "onnxruntime":
            return "bf16", f"bf16: the bundle has no int8, the processor has {_first(host.bf16)}"
        return "fp32", f"fp32: {_why_not_narrower(host)}"
    if "fp32" not in held and "int8" in held:
        return "int8", "int8 is all that the bundle holds for a CPU"
    faster = " (the bundle holds int8 too: --precision fast)" if "int8" in held else ""
    return "fp32", f"fp32 is the most accurate{faster}"


def _why_not_narrower(host: Host) -> str:
    if host.bf16:
        return "the bundle has no int8, and bf16 needs OpenVINO"
    if host.flags & BF16_FLAGS:
        return "the bundle has no int8, and bf16 is not known to be faster on this processor"
    return "the bundle has no int8, the processor no bf16"


def _cpu_backend(backend: str, precision: str, host: Host) -> tuple[str, str]:
    if backend != "auto":
        return backend, f"{backend} was asked for"
    if precision == "bf16":
        return "openvino", "only openvino has bf16 on a CPU"
    if precision != "int8":
        return "onnxruntime", "onnxruntime: openvino is no faster at it"
    # One QDQ file on both: a plain B/16, one image, AVX512-VNNI: OpenVINO 84 ms, ONNX Runtime 132. Six calibrated
    # B/16 windows, AVX2 alone: 2.1 s and 1.0 (docs/backends.md).
    if not host.flags & INT8_FLAGS:
        return "onnxruntime", "onnxruntime is the faster at int8 without VNNI"
    if not host.openvino:
        return "onnxruntime", "openvino, the faster at int8 here, is not installed"
    return "openvino", f"openvino is the faster at int8 with {_first(host.flags & INT8_FLAGS)}"


def _first(flags: Iterable[str]) -> str:
    return min(flags)


def grid_encoders(bundle: Bundle, grid: GridChoice) -> tuple[EncoderSpec, ...]:
    """The bundle's encoders for windows or for whole images, preferred first.

    Raises:
        BackendError: whole images are wanted and the bundle has no encoder for them.
    """
    if grid == "window":
        return bundle.encoders_for("window")
    # A dynamic grid keeps the image's ratio, so it goes before a fixed one.
    specs = bundle.encoders_for("dynamic") + bundle.encoders_for("fixed")
    if not specs:
        raise BackendError(
            f"{bundle.path}: no encoder for whole images; export the bundle with `--dynamic-grid` (any size) "
            "or `--image-size HxW` (one size), or leave out --whole-image",
            field="whole_image",
        )
    return specs


def choose_encoder(
    bundle: Bundle, *, precisions: Sequence[str], kind: DeviceKind, grid: GridChoice
) -> EncoderSpec:
    """The encoder in the first of `precisions` that the bundle has for this grid and kind of device.

    Raises:
        BackendError: the bundle has none; the message lists what it has.
    """
    wanted = grid_encoders(bundle, grid)
    for precision in precisions:
        for spec in wanted:
            if spec.precision == precision and kind in spec.runs_on:
                return spec
    have = ", ".join(f"{spec.precision} for {'/'.join(spec.runs_on)}" for spec in wanted) or "none"
    asked = " or ".join(repr(precision) for precision in precisions)
    raise BackendError(
        f"{bundle.path}: no {grid} encoder in precision {asked} for {kind}; the bundle has: {have}. "
        "Choose one with --precision, or export the bundle again with the one you need",
        field="precision",
    )


def attention_form(bundle: Bundle, spec: EncoderSpec) -> EncoderSpec | None:
    """The same encoder with ONNX's Attention, if the bundle has it, for ONNX Runtime's CUDA provider.

    None for a dynamic grid: ONNX Runtime computes its shapes on the CPU, so that nothing tells whether the attention
    is there too.
    """
    if spec.grid.kind == "dynamic":
        return None
    same = (e for e in bundle.encoders if (e.precision, e.grid) == (spec.precision, spec.grid) and e != spec)
    return next((encoder for encoder in same if encoder.has_attention), None)


def batch_size(spec: EncoderSpec, asked: int | None, kind: DeviceKind) -> int:
    """Windows at once: what was asked for or suits the device, within what the encoder takes."""
    shape = next(tensor for tensor in spec.inputs if tensor.name == "windows").shape
    most = spec.axis(shape[0]).max if isinstance(shape[0], str) else shape[0]
    if asked is None:
        patches = (spec.grid.rows or 0) * (spec.grid.columns or 0)
        # A dynamic grid can have thousands of patches, whose attention alone fills the memory: one at a time.
        asked = max(1, _BATCH_PATCHES[kind] // patches) if patches else 1
    return asked if most is None else min(asked, most)


def engine_machine(library: Library, gpu: Gpu | None = None) -> Machine:
    """What would load an engine: the installed library on a GPU.

    Args:
        library: which of the two.
        gpu: None takes cuda:0.

    Raises:
        BackendError: the library can't be imported, or there is no GPU.
    """
    from scclip_rt.backends.cuda.device import find_gpu  # not before a GPU is looked for

    version = str(library_module(library).__version__)
    gpu = gpu or find_gpu()
    return Machine(library=library, version=version, compute_capability=gpu.capability, device=gpu.name)


def engine_for_grids(bundle: Bundle, machine: Machine, *, precision: str, grid: GridChoice) -> Engine:
    """The fitting engine of the first of the wanted grids that has one.

    Raises:
        BackendError: none has; the first grid's reasons.
    """
    failure: BackendError | None = None
    for spec_grid in dict.fromkeys(spec.grid for spec in grid_encoders(bundle, grid)):
        try:
            return choose_engine(bundle, machine, Wanted(grid=spec_grid, precision=precision))
        except BackendError as error:
            failure = failure or error
    raise failure or BackendError(f"{bundle.path}: no {grid} encoder")


def fitting_engine(
    bundle: Bundle, *, device: str, precision: str, grid: GridChoice
) -> tuple[Engine | None, str]:
    """Look for an engine that would run here; what is missing is a reason, not an error.

    Args:
        bundle: an open bundle.
        device: `auto`, `cuda` or `cuda:N`.
        precision: a name, `auto` or `fast`; the last two take what comes first in
            `scclip_rt.bundle.engine_fit.PREFERENCE`.
        grid: `window` or `whole`.

    Returns:
        The engine or None, and the reason in words.
    """
    held = {engine.library for engine in read_engines(bundle) if isinstance(engine, Engine)}
    if not held:
        return None, "the bundle holds no engine"
    from scclip_rt.backends.cuda.device import find_gpu

    reasons = []
    for library in ENGINE_BACKENDS:
        if library not in held:
            continue
        if importlib.util.find_spec(MODULES[library]) is None:
            reasons.append(f"{library} is not installed")
            continue
        try:
            number = re.fullmatch(r"(?:auto|cuda)(?::(\d+))?", device)
            gpu = find_gpu(int(number.group(1) or 0) if number else 0)
            engine = engine_for_grids(bundle, engine_machine(library, gpu), precision=precision, grid=grid)
        except BackendError as error:
            reasons.append(str(error))
            continue
        return engine, f"{engine.file} fits {gpu}"
    return None, "; ".join(reasons)
