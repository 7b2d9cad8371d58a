"""What an engine build is asked for, checked before any work, and the command line that asks for it again."""

import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from scclip_export.errors import ExportError
from scclip_rt.bundle.engine_fit import Library
from scclip_rt.bundle.manifest import GridSpec
from scclip_rt.limits import in_range

Progress = Callable[[str], None]
HardwareCompatibility = Literal["ampere+", "same-compute-capability"]
Profile = dict[str, tuple[int, int, int]]

# TensorRT takes weights of these types in a strongly typed network; int8 encoders are QDQ graphs for CPUs. The first
# that a bundle holds is built by default: fp8, the last, is built where it is named.
ENGINE_PRECISIONS = ("fp16", "bf16", "fp32", "fp8")
# A 375×500 photo has six windows; a whole image goes through alone.
_OPT_BATCH = {"window": 6, "fixed": 1}
_OPT_QUERIES = 150


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineRequest:
    """One library's engines for a bundle.

    Attributes:
        library: which of the two builds.
        precisions: of the encoders to build from; empty: the first of fp16, bf16 and fp32 that the bundle holds.
        grids: `window` or `HxW` in pixels; empty: the windows and every fixed size.
        compute_capabilities: `8.9`, …, for TensorRT-RTX; empty: its portable engine, for
            `scclip_rt.bundle.engine_fit.RTX_CAPABILITIES`.
        opt_batch: the batch to tune for; None: six windows, one whole image.
        opt_queries: the number of queries to tune for; None: 150.
        workspace: most device memory that a layer may use while it runs, in MiB; None: the library's own limit.
        builder_level: 0 (builds fast) to 5 (tries most); None: the library's own.
        timing_cache: TensorRT's measurements, kept between builds; None: a file in the cache folder.
        log: where the library's messages of level INFO and above go.
        plugins: our kernels as plug-ins of TensorRT; None goes by the measured table.
    """

    library: Library
    precisions: tuple[str, ...] = ()
    grids: tuple[str, ...] = ()
    compute_capabilities: tuple[str, ...] = ()
    min_batch: int = 1
    opt_batch: int | None = None
    max_batch: int = 16
    opt_queries: int | None = None
    max_queries: int = 1024
    workspace: int | None = None
    builder_level: int | None = None
    version_compatible: bool = False
    hardware_compatible: HardwareCompatibility | None = None
    timing_cache: Path | None = None
    log: Path | None = None
    plugins: bool | None = None

    def __post_init__(self) -> None:
        self._check_profile()
        for precision in self.precisions:
            if precision not in ENGINE_PRECISIONS:
                raise ExportError(
                    f"--engine-precision takes {', '.join(ENGINE_PRECISIONS)}; got {precision!r}"
                )
        for name in ("builder_level", "workspace", "max_queries"):
            if getattr(self, name) is not None:
                in_range(name, getattr(self, name))
        self._check_library()

    def _check_profile(self) -> None:
        if not 1 <= self.min_batch <= self.max_batch:
            raise ExportError(
                f"--min-batch must be in 1..--max-batch; got {self.min_batch} and {self.max_batch}"
            )
        if self.opt_batch is not None and not self.min_batch <= self.opt_batch <= self.max_batch:
            raise ExportError(
                f"--opt-batch must be in {self.min_batch}..{self.max_batch}, between --min-batch and --max-batch; "
                f"got {self.opt_batch}"
            )
        if self.opt_queries is not None and not 1 <= self.opt_queries <= self.max_queries:
            raise ExportError(f"--opt-queries must be in 1..{self.max_queries}; got {self.opt_queries}")

    def _check_library(self) -> None:
        if self.library == "tensorrt-rtx" and self.version_compatible:
            raise ExportError(
                "--version-compatible is for --tensorrt: TensorRT-RTX engines load in the version that built them only"
            )
        if self.library == "tensorrt-rtx" and self.hardware_compatible:
            raise ExportError(
                "--hardware-compatible is for --tensorrt; for TensorRT-RTX name several with --compute-capability"
            )
        if self.library == "tensorrt-rtx" and self.plugins:
            raise ExportError("--tensorrt-plugins is for --tensorrt: TensorRT-RTX takes no such plug-ins")
        if self.version_compatible and self.plugins:
            raise ExportError(
                "--tensorrt-plugins with --version-compatible: a version-compatible engine brings its plug-ins as "
                "shared libraries, and ours are code inside the engine; leave one of the two out"
            )
        if self.library == "tensorrt" and self.compute_capabilities:
            raise ExportError(
                "--compute-capability is for --tensorrt-rtx: TensorRT builds for the GPU of the machine it runs on"
            )

    def profile(self, grid: GridSpec) -> Profile:
        """(min, opt, max) of each dynamic axis of an encoder of this grid."""
        opt_batch = self.opt_batch or min(max(_OPT_BATCH[grid.kind], self.min_batch), self.max_batch)
        opt_queries = self.opt_queries or min(_OPT_QUERIES, self.max_queries)
        return {
            "batch": (self.min_batch, opt_batch, self.max_batch),
            "queries": (1, opt_queries, self.max_queries),
        }


def rebuild_command(
    request: EngineRequest, *, precision: str, grid: str, profile: Profile, plugins: bool = False
) -> str:
    """The command that builds one engine of a request again; BUNDLE stands for the bundle's path."""
    batch, queries = profile["batch"], profile["queries"]
    words = ["scclip-export", "--bundle", "BUNDLE", f"--{request.library}"]
    if request.compute_capabilities:
        words += ["--compute-capability", ",".join(request.compute_capabilities)]
    words += ["--engine-precision", precision, "--engine-grid", grid]
    words += ["--min-batch", str(batch[0]), "--opt-batch", str(batch[1]), "--max-batch", str(batch[2])]
    words += ["--opt-queries", str(queries[1]), "--max-queries", str(queries[2])]
    for name, value in (("--workspace", request.workspace), ("--builder-level", request.builder_level)):
        if value is not None:
            words += [name, str(value)]
    if plugins:
        words.append("--tensorrt-plugins")
    elif request.plugins is False:
        words.append("--no-tensorrt-plugins")
    if request.version_compatible:
        words.append("--version-compatible")
    if request.hardware_compatible:
        words.append(f"--hardware-compatible={request.hardware_compatible}")
    return shlex.join(words)
