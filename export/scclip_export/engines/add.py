"""Engines for a bundle: what to build from what, and the sidecar that says it."""

import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from scclip_export.engines.build import BuildError, engine_from_onnx
from scclip_export.engines.libraries import EngineLibrary, Target, narrowed, open_library
from scclip_export.engines.plugins.build import check_plugins, has_plugins, plugin_graph, table_prefers
from scclip_export.engines.request import (
    ENGINE_PRECISIONS,
    EngineRequest,
    Profile,
    Progress,
    rebuild_command,
)
from scclip_export.engines.store import check_writable, store_engine
from scclip_export.errors import ExportError
from scclip_rt.bundle.bundle import DEMO_NAME, Bundle
from scclip_rt.bundle.engine_fit import source_sha256
from scclip_rt.bundle.manifest import EncoderSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineReport:
    """One engine that was built: the names in the bundle, its size, how long it took, what it took the place of."""

    sidecar: str
    bytes: int
    seconds: float
    dropped: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Job:
    """One engine to build. `sources` are encoders of one grid and precision, the best first."""

    bundle: Bundle
    request: EngineRequest
    library: EngineLibrary
    target: Target
    grid: str
    profile: Profile
    sources: tuple[EncoderSpec, ...]


def check_requests(
    requests: Sequence[EngineRequest], *, precisions: Sequence[str], grids: Sequence[str]
) -> None:
    """Refuse what can't be built on this machine from a planned export, before any long work.

    Args:
        requests: what is asked for.
        precisions: of the encoders that the bundle will hold.
        grids: that it will hold, as `--engine-grid` names them.

    Raises:
        ExportError: a library is missing, there is no GPU for it, a target is unknown to it, or the export makes no
            such encoder.
    """
    for request in requests:
        library = open_library(request.library)
        target = library.target(request)
        for precision in request.precisions:
            narrowed(target, precision, request.library)
        if request.plugins:
            check_plugins(library.trt)
        for precision in request.precisions:
            if precision not in precisions:
                raise ExportError(
                    f"--engine-precision {precision}: this export makes {', '.join(precisions)}; add --{precision}"
                )
        for grid in request.grids:
            if grid not in grids:
                raise ExportError(
                    f"--engine-grid {grid}: this export makes {', '.join(grids)}; add --image-size HxW"
                )


def add_engines(
    root: Path, requests: Sequence[EngineRequest], progress: Progress = lambda _: None
) -> list[EngineReport]:
    """Build engines and store each in the bundle as soon as it is ready.

    Args:
        root: the bundle.
        requests: one for each library.
        progress: is told of each step, one line at a time.

    Returns:
        What was built, in order.

    Raises:
        BundleError: no sound bundle.
        ExportError: something asked for is not there or can't be built. Engines stored before that remain.
        OutputError: the bundle can't be written.
    """
    bundle = Bundle.open(root)
    if str(root) == DEMO_NAME:
        raise ExportError(
            f"the packaged demo stays as it is; copy it first: cp -r {bundle.path} my-{DEMO_NAME}.scclip"
        )
    check_writable(bundle.path)
    jobs = [job for request in requests for job in _jobs(bundle, request)]
    return [_build(job, progress) for job in jobs]


def grid_name(bundle: Bundle, encoder: EncoderSpec) -> str:
    """A grid as `--engine-grid` names it: `window`, `HxW` in pixels, or `dynamic`."""
    grid, patch = encoder.grid, bundle.model.patch_size
    if grid.kind != "fixed" or grid.rows is None or grid.columns is None:
        return grid.kind
    return f"{grid.rows * patch}x{grid.columns * patch}"


def _jobs(bundle: Bundle, request: EngineRequest) -> list[_Job]:
    """One job for each grid and precision asked for."""
    library = open_library(request.library)
    target = library.target(request)
    offered = [encoder for encoder in bundle.encoders if encoder.precision in ENGINE_PRECISIONS]
    held = [name for name in ENGINE_PRECISIONS if any(encoder.precision == name for encoder in offered)]
    for precision in request.precisions:
        if precision not in held:
            raise ExportError(
                f"--engine-precision {precision}: {bundle.path} holds {', '.join(held)}; "
                f"export it again with --{precision}"
            )
    jobs = []
    for grid in _grids(bundle, offered, request):
        for precision in request.precisions or held[:1]:
            same = [e for e in offered if e.precision == precision and grid_name(bundle, e) == grid]
            if not same:
                raise ExportError(f"{bundle.path} has no {precision} encoder for {grid}; export it again")
            same = _with_or_without_plugins(bundle, same, request)
            jobs.append(
                _Job(
                    bundle=bundle,
                    request=request,
                    library=library,
                    target=narrowed(target, precision, request.library),
                    grid=grid,
                    profile=request.profile(same[0].grid),
                    # Opset 23 has attention as one node, which TensorRT plans as a whole.
                    sources=tuple(sorted(same, key=lambda encoder: -encoder.opset)),
                )
            )
    return jobs


def _with_or_without_plugins(
    bundle: Bundle, same: list[EncoderSpec], request: EngineRequest
) -> list[EncoderSpec]:
    """Of a grid's encoders in one precision those with plug-in nodes if they are wanted, else those without."""
    plain = [encoder for encoder in same if not has_plugins(encoder)]
    offered = [encoder for encoder in same if has_plugins(encoder)]
    wanted = request.plugins
    if wanted is None and offered and request.library == "tensorrt" and not request.version_compatible:
        grid, windows = offered[0].grid, request.profile(offered[0].grid)["batch"][1]
        patches = (grid.rows or 0) * (grid.columns or 0)
        wanted = table_prefers(offered[0].precision, patches=patches, windows=windows)
    if not wanted:
        return plain
    if not offered:
        raise ExportError(
            f"--tensorrt-plugins: {bundle.path} has no {same[0].precision} encoder with plug-in nodes for "
            f"{grid_name(bundle, same[0])}; export it again with --tensorrt-plugins, or leave it out"
        )
    return offered


def _grids(bundle: Bundle, offered: list[EncoderSpec], request: EngineRequest) -> list[str]:
    held = list(dict.fromkeys(grid_name(bundle, e) for e in offered if e.grid.kind != "dynamic"))
    for grid in request.grids:
        if grid not in held:
            raise ExportError(
                f"--engine-grid {grid}: {bundle.path} has encoders for {', '.join(held)}; add another size with "
                "`scclip-export … --image-size HxW` (an engine needs its size: the dynamic encoder gets none)"
            )
    return list(request.grids) or held


def _build(job: _Job, progress: Progress) -> EngineReport:
    started = time.monotonic()
    for encoder, other in zip(job.sources, job.sources[1:], strict=False):
        try:
            return _build_from(job, encoder, started, progress)
        except BuildError as error:
            progress(f"{error}; trying {other.file}")
    return _build_from(job, job.sources[-1], started, progress)


def _build_from(job: _Job, encoder: EncoderSpec, started: float, progress: Progress) -> EngineReport:
    library, version = job.library, str(job.library.trt.__version__)
    progress(
        f"building an engine from {encoder.file} with {library.name} {version} "
        f"for compute capability {', '.join(job.target.compute_capabilities)}"
    )
    with contextlib.ExitStack() as stack:
        graph, plugins = job.bundle.checked_graph(encoder.file), 0
        if has_plugins(encoder):
            progress("compiling plug-ins")
            graph, plugins = stack.enter_context(
                plugin_graph(
                    library.trt,
                    graph,
                    precision=encoder.precision,
                    capabilities=job.target.compute_capabilities,
                )
            )
        built = engine_from_onnx(
            library,
            graph,
            encoder,
            profile=job.profile,
            request=job.request,
            progress=progress,
            plugins=plugins,
        )
    stored, dropped = store_engine(job.bundle.path, _name(job, encoder), built, _sidecar(job, encoder))
    seconds, size = time.monotonic() - started, memoryview(built.plan).nbytes
    progress(f"{stored.removesuffix('.json')}: {size / 1e6:.0f} MB in {seconds:.1f} s")
    for name in dropped:
        progress(f"dropped {name}: {_why_dropped(name, encoder)}")
    return EngineReport(sidecar=stored, bytes=size, seconds=seconds, dropped=tuple(dropped))


def _why_dropped(name: str, encoder: EncoderSpec) -> str:
    if (".plugins." in name) != has_plugins(encoder):
        return "of two that differ in plug-ins alone a bundle keeps the one built last"
    return "the new one is in its place, or its encoder is no longer the bundle's"


def _sidecar(job: _Job, encoder: EncoderSpec) -> dict[str, object]:
    request, grid = job.request, encoder.grid
    return {
        "source": encoder.file,
        "source_sha256": source_sha256(job.bundle, encoder.file),
        "library": job.library.name,
        "library_version": str(job.library.trt.__version__),
        "compute_capabilities": list(job.target.compute_capabilities),
        "device": job.target.device,
        "precision": encoder.precision,
        "grid": {"kind": grid.kind, "rows": grid.rows, "columns": grid.columns},
        "profile": {axis: list(span) for axis, span in job.profile.items()},
        "options": {
            "strongly_typed": True,
            "tf32": False,
            "version_compatible": request.version_compatible,
            "hardware_compatible": request.hardware_compatible,
            "builder_level": request.builder_level,
            "workspace_mib": request.workspace,
            "plugins": has_plugins(encoder),
        },
        "command": rebuild_command(
            request,
            precision=encoder.precision,
            grid=job.grid,
            profile=job.profile,
            plugins=has_plugins(encoder),
        ),
    }


def _name(job: _Job, encoder: EncoderSpec) -> str:
    """What an engine is, readable in its file name."""
    capabilities = "-".join(
        "sm" + capability.replace(".", "").replace("+", "plus")
        for capability in job.target.compute_capabilities
    )
    batch, queries = job.profile["batch"], job.profile["queries"]
    return (
        f"{job.library.name}-{job.library.trt.__version__}.{encoder.precision}.{job.grid}.{capabilities}"
        f".b{batch[0]}-{batch[2]}.q{queries[2]}{'.plugins' if has_plugins(encoder) else ''}"
    )
