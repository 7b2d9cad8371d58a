"""Compiled GPU kernels for a bundle: the decode and its companions, for the GPUs that the bundle's engines are for."""

import importlib.util
import json
import shutil
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

from scclip_export.engines.request import EngineRequest, Progress
from scclip_export.engines.store import check_writable, locked, write_manifest
from scclip_export.errors import ExportError
from scclip_rt.bundle.bundle import MANIFEST_FILE, Bundle
from scclip_rt.bundle.engine_fit import Engine, read_engines, supports
from scclip_rt.errors import install
from scclip_rt.files import atomic_path, sha256_file

# Code for 8.0 runs on every 8.x; from 9.0 on it runs on its own target alone. 8.9 adds nothing that these kernels use.
_PORTABLE = ("8.0", "9.0", "10.0", "12.0")


def check_kernels() -> None:
    """Refuse before any long work where the compiler is missing.

    Raises:
        ExportError: Triton or torch is not installed.
    """
    missing = [name for name in ("triton", "torch") if importlib.util.find_spec(name) is None]
    if missing:
        raise ExportError(f"--gpu-kernels needs {' and '.join(missing)}; install: {install('export,triton')}")


def wants_kernels(asked: bool | None, engines: Sequence[EngineRequest], progress: Progress) -> bool:
    """Whether to compile the decode kernels: as asked, else with an engine where the compiler is installed.

    Args:
        asked: by `--gpu-kernels` or `--no-gpu-kernels`; None for neither.
        engines: that are to be built.
        progress: is told if they are left out because something is missing.

    Raises:
        ExportError: they were asked for, and something is missing.
    """
    if asked or (asked is None and engines):
        try:
            check_kernels()
        except ExportError as error:
            if asked:
                raise
            progress(f"no decode kernels, so labels will be decoded on the host: {error}")
            return False
        return True
    return False


def kernel_targets(capabilities: Iterable[str]) -> tuple[int, ...]:
    """The targets to compile for, such as 80 for compute capability 8.0.

    Args:
        capabilities: of engines, `8.9` or `8.0+`; none means every target there is.
    """
    wanted = tuple(capabilities) or ("8.0+",)
    if any(capability.endswith("+") for capability in wanted):
        # What goes to later GPUs gets code for all from its lowest on: ONNX Runtime uses it where no engine runs.
        wanted = (min(wanted, key=lambda capability: float(capability.rstrip("+"))).rstrip("+") + "+",)
    targets = [capability for capability in _PORTABLE if supports(wanted, capability)]
    targets += [
        capability for capability in wanted if not capability.endswith("+") and capability not in targets
    ]
    if any(capability.startswith("8.") for capability in wanted) and "8.0" not in targets:
        targets.append("8.0")
    chosen = {int(capability.replace(".", "")) for capability in targets}
    return tuple(sorted(target for target in chosen if target == 80 or not 80 < target < 90))


def add_kernels(root: Path, progress: Progress = lambda _: None) -> list[str]:
    """Compile the runtime's kernels and put them into a bundle, in the place of those that were there.

    Args:
        root: the bundle.
        progress: is told before and after.

    Returns:
        The files in the bundle, the list of kernels last.

    Raises:
        ExportError: the compiler is missing, or a kernel does not fit a target.
        OutputError: the bundle can't be written.
    """
    check_kernels()
    from scclip_kernels.aot.compile import CompileError, write_kernels

    bundle = Bundle.open(root)
    check_writable(bundle.path)
    engines = [engine for engine in read_engines(bundle) if isinstance(engine, Engine)]
    targets = kernel_targets({capability for engine in engines for capability in engine.compute_capabilities})
    progress(f"compiling kernels for sm_{', sm_'.join(str(target) for target in targets)}")
    with tempfile.TemporaryDirectory(prefix="scclip-kernels-") as folder:
        try:
            names = write_kernels(Path(folder), targets)
        except CompileError as error:
            raise ExportError(f"--gpu-kernels: {error}") from error
        with locked(bundle.path):
            _replace(bundle.path, Path(folder), names)
    progress(f"{len(names) - 1} kernels compiled")
    return names


def _replace(root: Path, folder: Path, names: list[str]) -> None:
    manifest = json.loads((root / MANIFEST_FILE).read_text("utf-8"))
    old = [name for name in manifest["files"] if name.startswith("kernels/") and name not in names]
    for name in names:
        with atomic_path(root / name, force=True) as path:
            shutil.copyfile(folder / name, path)
        manifest["files"][name] = {"sha256": sha256_file(root / name), "bytes": (root / name).stat().st_size}
    manifest["files"] = {name: entry for name, entry in sorted(manifest["files"].items()) if name not in old}
    write_manifest(root, manifest)
    for name in old:
        (root / name).unlink(missing_ok=True)
