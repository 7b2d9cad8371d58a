"""TensorRT engines of a bundle: choosing the one that fits a machine, refusing the others with the reason.

Nothing here needs TensorRT or a GPU: what is known about an engine stands in its sidecar, what is known about the
machine comes in as a `Machine`.
"""

import importlib
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from scclip_rt.bundle.bundle import Bundle
from scclip_rt.bundle.engine_sidecar import (
    Engine,
    Library,
    UnreadableEngine,
    bundle_message,
    read_engines,
    source_sha256,
)
from scclip_rt.bundle.manifest import EncoderSpec, GridSpec, Precision
from scclip_rt.errors import BackendError, BundleError, install

__all__ = [
    "RTX_CAPABILITIES",
    "Engine",
    "Library",
    "Machine",
    "UnreadableEngine",
    "Wanted",
    "choose_engine",
    "damage",
    "encoder_of",
    "engine_path",
    "library_module",
    "misfit",
    "read_engines",
    "rebuild_command",
    "source_sha256",
    "supports",
]

MODULES: Mapping[Library, str] = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}
# What comes first among engines of several precisions. fp16 is what SC-CLIP itself computes in on a GPU, and it moves
# under 1 % of the labels; bf16 moved up to 6 % (docs/precision.md), so only `fast` puts it before fp32. fp8 is
# in neither: it moves as much, and no measurement has shown it to be faster. Only who names it gets it.
PREFERENCE: Mapping[str, tuple[Precision, ...]] = {
    "auto": ("fp16", "fp32", "bf16", "int8"),
    "fast": ("fp16", "bf16", "int8", "fp32"),
}
# What TensorRT-RTX's portable engine runs on: its 1.7.1 refuses an H100 (9.0), and names these.
RTX_CAPABILITIES = ("8.0", "8.6", "8.9", "12.0+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What would load an engine: a library in a version, on a GPU of a compute capability such as `8.9`."""

    library: Library
    version: str
    compute_capability: str
    device: str | None = None

    def __str__(self) -> str:
        gpu = f"{self.device}, " if self.device else ""
        return f"{gpu}compute capability {self.compute_capability}, {self.library} {self.version}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What an engine is to do: which grid, which precision, how many windows and queries at once.

    `auto` and `fast` take the precisions of `PREFERENCE`, in its order; a count of None asks for nothing.
    """

    grid: GridSpec | None = None
    precision: str = "auto"
    batch: int | None = None
    queries: int | None = None


def library_module(library: Library) -> Any:
    """Import TensorRT or TensorRT-RTX.

    Returns:
        The module.

    Raises:
        BackendError: it is not installed, or its libraries can't be loaded.
    """
    try:
        return importlib.import_module(MODULES[library])
    except ImportError as error:
        raise BackendError(
            f"{library} can't be imported ({' '.join(str(error).split())[:160]}); "
            f"install it with: {install(library)}"
        ) from error


def choose_engine(bundle: Bundle, machine: Machine, wanted: Wanted | None = None) -> Engine:
    """The engine for this machine: right library, source, version, GPU, grid, precision and profile, file intact.

    Among several: the precision that comes first in `PREFERENCE`, then one made for exactly this GPU, then the profile
    tuned closest to the batch wanted.

    Raises:
        BackendError: none fits; the message says why each does not, and the command that builds one.
    """
    wanted = wanted or Wanted()
    fitting: list[Engine] = []
    refused: list[tuple[str, str]] = []
    for engine in read_engines(bundle):
        reason = (
            engine.reason if isinstance(engine, UnreadableEngine) else misfit(bundle, engine, machine, wanted)
        )
        if reason is not None:
            refused.append((engine.sidecar, reason))
        elif isinstance(engine, Engine):
            fitting.append(engine)
    for engine in sorted(fitting, key=lambda engine: _rank(engine, machine, wanted)):
        problem = damage(bundle, engine)
        if problem is None:
            return engine
        refused.append((engine.sidecar, problem))
    raise BackendError(_refusal(bundle, machine, wanted, refused), field="engines")


def misfit(
    bundle: Bundle, engine: Engine, machine: Machine | None, wanted: Wanted | None = None
) -> str | None:
    """Why an engine can't serve, or None if it can.

    Args:
        bundle: that holds it.
        engine: one of `read_engines`.
        machine: what would load it; None checks the engine against the bundle alone.
        wanted: what it is to do; None asks for nothing.

    Returns:
        One reason, the most basic first. The file's content is not looked at: `damage` does that.
    """
    if machine is not None and engine.library != machine.library:
        return f"is for {engine.library}"
    stale = _stale(bundle, engine)
    if stale is not None:
        return stale
    if machine is not None:
        reason = _version_misfit(engine, machine.version) or _gpu_misfit(engine, machine)
        if reason is not None:
            return reason
    return None if wanted is None else _task_misfit(engine, wanted)


def damage(bundle: Bundle, engine: Engine) -> str | None:
    """What is wrong with an engine's file: missing, or another content than bundle.json and the sidecar say."""
    try:
        bundle.checked_path(engine.file)
    except BundleError as error:
        return bundle_message(bundle, error)
    return None


def rebuild_command(bundle: Bundle, engine: Engine) -> str:
    """The line that builds an engine like this one into its bundle.

    Made from what the sidecar says about the engine. The sidecar's own `command` is text from whoever made the bundle,
    and nobody should be advised to run that.
    """
    line = f"scclip-export --bundle {shlex.quote(str(bundle.path))} --{engine.library}"
    if engine.precision != "fp16":
        line += f" --engine-precision {engine.precision}"
    if engine.library == "tensorrt-rtx" and all(
        re.fullmatch(r"\d+\.\d+", c) for c in engine.compute_capabilities
    ):
        line += f" --compute-capability {','.join(engine.compute_capabilities)}"
    for axis, default in (("batch", 16), ("queries", 1024)):
        most = engine.profile[axis][2]
        line += f" --max-{axis} {most}" if most != default else ""
    return line


def supports(capabilities: tuple[str, ...], capability: str) -> bool:
    """Whether a GPU of `capability` can load what was built for `capabilities`."""
    own = version_numbers(capability)
    return any(
        own >= version_numbers(entry[:-1]) if entry.endswith("+") else own == version_numbers(entry)
        for entry in capabilities
    )


def _stale(bundle: Bundle, engine: Engine) -> str | None:
    if engine.source not in bundle.manifest.files:
        return f"was built from {engine.source}, which this bundle does not hold"
    try:
        expected = source_sha256(bundle, engine.source)
    except BundleError as error:
        return f"was built from {engine.source}, whose weights can't be told: {error}"
    if engine.source_sha256 != expected:
        return (
            f"was built from another {engine.source} "
            f"({engine.source_sha256[:12]}…, the bundle's is {expected[:12]}…)"
        )
    return None


def _version_misfit(engine: Engine, version: str) -> str | None:
    """TensorRT loads its own version's engines; version-compatible ones (TensorRT alone) load in later ones too.

    Source: NVIDIA's pages "Engine Compatibility" of TensorRT 11 and TensorRT-RTX 1.7.
    """
    if version == engine.library_version:
        return None
    if engine.options.get("version_compatible") and version_numbers(version) > version_numbers(
        engine.library_version
    ):
        return None
    return f"was built by {engine.library} {engine.library_version}; {version} is installed"


def _gpu_misfit(engine: Engine, machine: Machine) -> str | None:
    if supports(engine.compute_capabilities, machine.compute_capability):
        return None
    return (
        f"is for compute capability {', '.join(engine.compute_capabilities)}; "
        f"this GPU has {machine.compute_capability}"
    )


def _task_misfit(engine: Engine, wanted: Wanted) -> str | None:
    if wanted.grid is not None and engine.grid != wanted.grid:
        return f"is for the grid {engine.grid}, not {wanted.grid}"
    if wanted.precision not in (*PREFERENCE, engine.precision):
        return f"is {engine.precision}, not {wanted.precision}"
    if engine.precision not in PREFERENCE.get(wanted.precision, (wanted.precision,)):
        return f"is {engine.precision}, which only --precision {engine.precision} takes"
    for axis, count in (("batch", wanted.batch), ("queries", wanted.queries)):
        low, _, high = engine.profile[axis]
        if count is not None and not low <= count <= high:
            return f"takes {axis} {low} to {high}; {count} wanted"
    return None


def _rank(engine: Engine, machine: Machine, wanted: Wanted) -> tuple[int, bool, bool, int, int, str]:
    optimum = engine.profile["batch"][1]
    order = PREFERENCE.get(wanted.precision, (engine.precision,))
    return (
        order.index(engine.precision),
        machine.compute_capability not in engine.compute_capabilities,
        engine.device not in (None, machine.device),
        abs(optimum - wanted.batch) if wanted.batch is not None else 0,
        len(engine.compute_capabilities),
        engine.file,
    )


def _refusal(bundle: Bundle, machine: Machine, wanted: Wanted, refused: list[tuple[str, str]]) -> str:
    if not refused:
        found = "the bundle holds no engine"
    else:
        found = "; ".join(f"{sidecar} {reason}" for sidecar, reason in refused)
    return (
        f"no engine in {bundle.path} fits ({machine}): {found}. "
        f"{_mend(bundle, machine, wanted)}, or use --backend onnxruntime"
    )


def _mend(bundle: Bundle, machine: Machine, wanted: Wanted) -> str:
    if machine.library == "tensorrt-rtx" and not supports(RTX_CAPABILITIES, machine.compute_capability):
        build = _build_command(bundle, replace(machine, library="tensorrt"), wanted)
        return f"TensorRT-RTX does not run on such a GPU: build one with `{build}`"
    return f"Build one with `{_build_command(bundle, machine, wanted)}`"


def _build_command(bundle: Bundle, machine: Machine, wanted: Wanted) -> str:
    """The line that rebuilds the closest engine of this library for this machine, else one that builds a first."""
    close = [
        engine
        for engine in read_engines(bundle)
        if isinstance(engine, Engine)
        and engine.library == machine.library
        and supports(engine.compute_capabilities, machine.compute_capability)
        and _task_misfit(engine, wanted) is None
    ]
    if close:
        return rebuild_command(bundle, min(close, key=lambda engine: _rank(engine, machine, wanted)))
    line = f"scclip-export --bundle {shlex.quote(str(bundle.path))} --{machine.library}"
    if wanted.precision not in PREFERENCE:
        line += f" --engine-precision {wanted.precision}"
    if wanted.batch is not None:
        line += f" --max-batch {max(wanted.batch, 16)}"
    if wanted.queries is not None:
        line += f" --max-queries {max(wanted.queries, 1024)}"
    return line


def encoder_of(bundle: Bundle, engine: Engine) -> EncoderSpec:
    """The encoder that an engine was built from: its tensors, axes and parity are the engine's.

    Raises:
        BundleError: the bundle has no such encoder.
    """
    for encoder in bundle.encoders:
        if encoder.file == engine.source:
            return encoder
    raise BundleError(
        f"{bundle.path}: {engine.file} was built from {engine.source}, which is no encoder of it"
    )


def version_numbers(version: str) -> tuple[int, ...]:
    """The whole numbers in a version, to compare by."""
    return tuple(int(part) for part in cast("list[str]", re.findall(r"\d+", version)))


def engine_path(bundle: Bundle, engine: Engine) -> Path:
    """The path of an engine's file, its SHA-256 checked.

    Raises:
        BackendError: missing or damaged, with the command that builds it again.
    """
    problem = damage(bundle, engine)
    if problem is not None:
        raise BackendError(f"{problem}. Build it again with `{rebuild_command(bundle, engine)}`")
    return bundle.path / engine.file
