"""What `auto` means: backend and precision, from what is installed, the processor and what the bundle holds.

Accuracy first: `auto` runs fp32 on a CPU, whose labels are the reference, even where the bundle holds int8. Whoever
wants speed for a stated loss says so: `fast` takes the narrowest arithmetic that this machine gains from, and that the
bundle's owner has exported (int8; its parity figures are in bundle.json) or that costs next to nothing (bf16).

On a GPU `auto` takes an engine that was built for it before anything else, and fp16 before fp32: SC-CLIP itself
computes in fp16 there. bf16 comes after fp32 under `auto`, before it under `fast`
(`scclip_rt.bundle.engine_fit.PREFERENCE`).
"""

import importlib.util
from collections.abc import Iterable
from dataclasses import dataclass

from scclip_rt.backends.base import GridChoice
from scclip_rt.backends.engine_choice import ENGINE_BACKENDS, fitting_engine
from scclip_rt.backends.processor import BF16_FLAGS, INT8_FLAGS, processor_flags
from scclip_rt.backends.selection import grid_encoders
from scclip_rt.bundle.bundle import Bundle


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What a choice depends on beside the bundle: the kernel's names of instruction sets, installed packages."""

    flags: frozenset[str]
    packages: frozenset[str]

    @property
    def openvino(self) -> bool:
        """Whether OpenVINO is installed."""
        return "openvino" in self.packages


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """Backend and precision to open, and the reason in words."""

    backend: str
    precision: str
    reason: str


def this_machine() -> Machine:
    """The machine we run on; packages are looked for, not imported."""
    packages = {name for name in ("openvino",) if importlib.util.find_spec(name) is not None}
    return Machine(flags=processor_flags(), packages=frozenset(packages))


def choose(
    bundle: Bundle,
    *,
    backend: str = "auto",
    device: str = "auto",
    precision: str = "auto",
    ort_provider: str | None = None,
    grid: GridChoice = "window",
    machine: Machine | None = None,
) -> Choice:
    """Settle `auto` and `fast`; what is named stays as it is, for the backend to take or refuse.

    Args:
        bundle: an open bundle.
        backend: a name or `auto`.
        device: `cpu`, `cuda:N` or `auto`.
        precision: a name, `auto` (see the module) or `fast`.
        ort_provider: ONNX Runtime's provider or None; naming one names the backend.
        grid: `window` or `whole`.
        machine: default: this one.

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
        engine = fitting_engine(bundle, device=device, precision=precision, grid=grid)
        if engine.backend is not None:
            return Choice(backend=engine.backend, precision=engine.precision, reason=engine.reason)
    machine = machine or this_machine()
    if backend == "auto" and ort_provider is not None:
        backend = "onnxruntime"
    held: set[str] = {spec.precision for spec in grid_encoders(bundle, grid) if "cpu" in spec.runs_on}
    chosen, why_precision = _cpu_precision(precision, backend, held, machine)
    name, why_backend = _cpu_backend(backend, chosen, machine)
    return Choice(backend=name, precision=chosen, reason=f"{why_precision}; {why_backend}")


def _ort_precision(precision: str) -> str:
    # ONNX Runtime's GPU providers take fp16 before fp32 and nothing else unasked.
    return "auto" if precision == "fast" else precision


def _on_gpu(
    bundle: Bundle, backend: str, device: str, precision: str, ort_provider: str | None, grid: GridChoice
) -> Choice:
    if backend != "auto":
        named = precision if backend in ENGINE_BACKENDS else _ort_precision(precision)
        return Choice(backend=backend, precision=named, reason=f"{backend} was asked for")
    if ort_provider is not None:
        reason = f"ONNX Runtime's provider {ort_provider} was asked for"
        return Choice(backend="onnxruntime", precision=_ort_precision(precision), reason=reason)
    engine = fitting_engine(bundle, device=device, precision=precision, grid=grid)
    reason = f"a GPU was asked for; {engine.reason}"
    if engine.backend is None:
        return Choice(backend="onnxruntime", precision=_ort_precision(precision), reason=reason)
    return Choice(backend=engine.backend, precision=engine.precision, reason=reason)


def _cpu_precision(precision: str, backend: str, held: set[str], machine: Machine) -> tuple[str, str]:
    if precision not in ("auto", "fast"):
        return precision, f"{precision} was asked for"
    if precision == "fast":
        if "int8" in held:
            return "int8", "int8 is the fastest that the bundle holds"
        if "fp32" in held and machine.openvino and machine.flags & BF16_FLAGS and backend != "onnxruntime":
            return (
                "bf16",
                f"bf16: the bundle has no int8, the processor has {_first(machine.flags & BF16_FLAGS)}",
            )
        return "fp32", f"fp32: {_why_not_narrower(machine)}"
    if "fp32" not in held and "int8" in held:
        return "int8", "int8 is all that the bundle holds for a CPU"
    faster = " (the bundle holds int8 too: --precision fast)" if "int8" in held else ""
    return "fp32", f"fp32 is the most accurate{faster}"


def _why_not_narrower(machine: Machine) -> str:
    if machine.flags & BF16_FLAGS:
        return "the bundle has no int8, and bf16 needs OpenVINO"
    return "the bundle has no int8, the processor no bf16"


def _cpu_backend(backend: str, precision: str, machine: Machine) -> tuple[str, str]:
    if backend != "auto":
        return backend, f"{backend} was asked for"
    if precision == "bf16":
        return "openvino", "only openvino has bf16 on a CPU"
    if precision != "int8":
        return "onnxruntime", "onnxruntime: openvino is no faster at it"
    # One QDQ file on both: a plain B/16, one image, AVX512-VNNI: OpenVINO 84 ms, ONNX Runtime 132. Six calibrated
    # B/16 windows, AVX2 alone: 2.1 s and 1.0 (docs/backends.md).
    if not machine.flags & INT8_FLAGS:
        return "onnxruntime", "onnxruntime is the faster at int8 without VNNI"
    if not machine.openvino:
        return "onnxruntime", "openvino, the faster at int8 here, is not installed"
    return "openvino", f"openvino is the faster at int8 with {_first(machine.flags & INT8_FLAGS)}"


def _first(flags: Iterable[str]) -> str:
    return min(flags)
