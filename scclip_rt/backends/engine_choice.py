"""Whether an engine of the bundle fits the GPU that is here: what `auto` prefers to ONNX Runtime."""

import importlib.util
import re
from dataclasses import dataclass

from scclip_rt.backends.base import GridChoice
from scclip_rt.backends.cuda import Device, load_driver
from scclip_rt.backends.gpu import Gpu
from scclip_rt.backends.selection import grid_encoders
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
from scclip_rt.errors import BackendError

ENGINE_BACKENDS: tuple[Library, ...] = ("tensorrt", "tensorrt-rtx")
"""Backends that run engines, the preferred first: TensorRT's are tuned on the GPU they run on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineChoice:
    """A backend with a fitting engine and that engine's precision, or None and `auto`, and the reason in words."""

    backend: Library | None
    reason: str
    precision: str = "auto"


def machine_with(library: Library, gpu: Gpu) -> Machine:
    """What would load an engine: the installed library on a GPU.

    Raises:
        BackendError: the library can't be imported.
    """
    return Machine.with_gpu(library, str(library_module(library).__version__), gpu)


def choose_for_grids(bundle: Bundle, machine: Machine, *, precision: str, grid: GridChoice) -> Engine:
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


def fitting_engine(bundle: Bundle, *, device: str, precision: str, grid: GridChoice) -> EngineChoice:
    """Look for an engine that would run here; what is missing is a reason, not an error.

    Args:
        bundle: an open bundle.
        device: `auto`, `cuda` or `cuda:N`.
        precision: a name, `auto` or `fast`; the last two take what comes first in
            `scclip_rt.bundle.engine_fit.PREFERENCE`.
        grid: `window` or `whole`.
    """
    held = {engine.library for engine in read_engines(bundle) if isinstance(engine, Engine)}
    if not held:
        return EngineChoice(backend=None, reason="the bundle holds no engine")
    reasons = []
    for library in ENGINE_BACKENDS:
        if library not in held:
            continue
        if importlib.util.find_spec(MODULES[library]) is None:
            reasons.append(f"{library} is not installed")
            continue
        try:
            number = re.fullmatch(r"(?:auto|cuda)(?::(\d+))?", device)
            gpu = Device.open(int(number.group(1) or 0) if number else 0, load_driver())
            engine = choose_for_grids(bundle, machine_with(library, gpu), precision=precision, grid=grid)
        except BackendError as error:
            reasons.append(str(error))
            continue
        return EngineChoice(backend=library, reason=f"{engine.file} fits {gpu}", precision=engine.precision)
    return EngineChoice(backend=None, reason="; ".join(reasons))
