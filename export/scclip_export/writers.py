"""The encoders' files, one writer per precision: what `pipeline` calls for every grid."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from scclip_export.checkpoint.load_model import LoadedModel
from scclip_export.engines.libraries import FP8_CAPABILITY
from scclip_export.engines.plugins import nodes as plugin_nodes
from scclip_export.engines.plugins.functions import add_functions
from scclip_export.errors import ExportError
from scclip_export.model.blocks import attention_operator
from scclip_export.model.dtypes import FLOAT32, POLICIES, DtypePolicy
from scclip_export.model.encoder import CalibratedEncoder, Parts
from scclip_export.model.geometry import Geometry
from scclip_export.onnx.runners import Runner, float16_runner, onnx_runner, rounding_runner
from scclip_export.onnx.shared_weights import share_weights
from scclip_export.onnx.trace import check_dtypes, onnx_from_encoder
from scclip_export.options import ExportConfig, Progress
from scclip_export.quantize import (
    Fp8Plan,
    Plan,
    calibration_windows,
    plan_fp8,
    quantize_encoder,
    write_fp8,
    write_int8,
)
from scclip_kernels import Attention, scaled_attention
from scclip_kernels.operations import Operations
from scclip_rt.precisions import PRECISIONS


@dataclass(frozen=True, slots=True, kw_only=True)
class GridPlan:
    """A patch grid the bundle gets encoders for (docs/bundle.md, `grid`).

    Attributes:
        kind: of bundle.json.
        fixed: (rows, columns) fixed in the graph; None for a dynamic grid.
        examples: grids to verify with; the first is the one that is traced.
        name: stands between precision and `.onnx` in the file name.
    """

    kind: Literal["window", "fixed", "dynamic"]
    fixed: tuple[int, int] | None
    examples: tuple[tuple[int, int], ...]
    name: str = ""

    def to_json(self) -> dict[str, object]:
        """Return `grid` of bundle.json."""
        if self.fixed is None:
            return {"kind": self.kind}
        return {"kind": self.kind, "rows": self.fixed[0], "columns": self.fixed[1]}


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderJob:
    """One grid of one export: what a writer works from.

    Attributes:
        directory: the bundle in the making. The grid's fp32 file is there before any other precision is written.
        kept: what a writer keeps from one grid to the next, by precision, and the torch model; windows come first.
    """

    config: ExportConfig
    model: LoadedModel
    parts: Parts
    geometry: Geometry
    grid: GridPlan
    directory: Path
    kept: dict[str, Any] = field(default_factory=dict)

    def encoder(
        self,
        policy: DtypePolicy = FLOAT32,
        attend: Attention = scaled_attention,
        operations: Operations | None = None,
    ) -> CalibratedEncoder:
        """Return the torch model of this grid, in eval mode; the plain one is built once for all grids."""
        plain = (policy, attend, operations) == (FLOAT32, scaled_attention, None)
        if plain and "torch" in self.kept:
            known: CalibratedEncoder = self.kept["torch"]
            return known.on_grid(self.grid.fixed)
        made = CalibratedEncoder(
            self.model.clip.visual,
            self.parts,
            grid=self.grid.fixed,
            mean=self.model.mean,
            std=self.model.std,
            debug_outputs=self.config.debug_outputs,
            policy=policy,
            attend=attend,
            operations=operations,
        ).eval()
        if plain:
            self.kept["torch"] = made
        return made

    @property
    def example_size(self) -> tuple[int, int]:
        """(height, width) in pixels of the windows that are traced."""
        return self.size(self.grid.examples[0])

    def size(self, grid: tuple[int, int]) -> tuple[int, int]:
        """(height, width) in pixels of a window of so many patches, less what the graph pads itself."""
        if self.grid.kind == "window":
            return self.geometry.window, self.geometry.window
        patch = self.model.architecture.patch_size
        missing = (
            self.parts.pads and self.grid.fixed is None
        )  # a side that is no multiple is what has to work
        return grid[0] * patch - 3 * missing, grid[1] * patch - 5 * missing

    def path(self, name: str) -> Path:
        """Return where the file of a key of `WRITERS` goes; its weights are beside it, in `NAME.data`."""
        return self.directory / f"encoder.{name}{self.grid.name}.onnx"

    def windows_path(self, name: str) -> Path:
        """Return where the windows' file of that key is."""
        return self.directory / f"encoder.{name}.onnx"


@dataclass(frozen=True, slots=True, kw_only=True)
class PrecisionWriter:
    """How a precision is written and checked.

    Attributes:
        runs_on: kinds of device that run it well, for bundle.json.
        write: writes `job.path(NAME)` and its `.data`; raises ExportError.
        open: returns a function that runs the written file on this machine's CPU, for parity.
        facts: more members of the encoder's entry in bundle.json, once it is written.
    """

    runs_on: tuple[str, ...]
    write: Callable[[EncoderJob, Progress], None]
    open: Callable[[Path], Runner] = onnx_runner
    facts: Callable[[EncoderJob], Mapping[str, object]] = lambda _: {}


def _write_traced(name: str, job: EncoderJob) -> None:
    """Trace the torch model with the casts of `precision.POLICIES[name]`."""
    path, policy = job.path(name), POLICIES[name]
    onnx_from_encoder(
        job.encoder(policy),
        path,
        opset=job.config.opset,
        example_size=job.example_size,
        base=None if job.grid.kind == "window" else job.windows_path(name),
    )
    check_dtypes(path, policy)


def _write_attention_operator(job: EncoderJob, _: Progress) -> None:
    """The float16 encoder with ONNX's Attention, for TensorRT and ONNX Runtime's CUDA provider."""
    name, policy = "fp16.opset23", POLICIES["fp16"]
    encoder = job.encoder(policy, attention_operator)
    onnx_from_encoder(encoder, job.path(name), opset=23, example_size=job.example_size)
    check_dtypes(job.path(name), policy)
    share_weights(job.path(name), job.path("fp16"))


def _write_plugins(precision: str, job: EncoderJob) -> None:
    """An encoder whose calibration is nodes for TensorRT's plug-ins, and functions for every other runtime."""
    path, policy = job.path(f"{precision}.plugins"), POLICIES[precision]
    if job.grid.fixed is None:
        raise ExportError("plug-ins need a fixed grid")
    operator = f"{precision}.opset23" in job.config.precisions
    encoder = job.encoder(policy, attention_operator if operator else scaled_attention, plugin_nodes)
    opset = 23 if operator else job.config.opset
    onnx_from_encoder(encoder, path, opset=opset, example_size=job.example_size)
    rows, columns = job.grid.fixed
    add_functions(path, patches=rows * columns, narrow=policy.attention)
    check_dtypes(path, policy)
    share_weights(path, job.path(precision))


def _plugins(precision: str, runner: Callable[[Path], Runner]) -> PrecisionWriter:
    """Only to build engines from, with the plug-ins registered."""
    return PrecisionWriter(
        runs_on=("tensorrt",), write=lambda job, _: _write_plugins(precision, job), open=runner
    )


def _write_int8(job: EncoderJob, progress: Progress) -> None:
    """Calibrate on windows, and quantise every grid by the same plan: so their weights are the same bytes."""
    if job.grid.kind == "window":
        options = job.config.int8
        windows, images = calibration_windows(options.images, job.geometry, count=options.windows)
        job.kept["int8"] = quantize_encoder(
            job.path("fp32"), job.path("int8"), windows, options, images=images, progress=progress
        )
    else:
        write_int8(job.path("fp32"), _int8_plan(job), job.path("int8"))


def _int8_plan(job: EncoderJob) -> Plan:
    plan: Plan = job.kept["int8"]
    return plan


def _write_fp8(job: EncoderJob, progress: Progress) -> None:
    """Calibrate on the float32 windows file, and write every grid's float16 graph by the same plan."""
    if job.grid.kind == "window":
        options = job.config.int8
        windows, images = calibration_windows(options.images, job.geometry, count=options.windows)
        job.kept["fp8"] = plan_fp8(job.path("fp32"), windows, images=images, progress=progress)
    write_fp8(job.path("fp16"), _fp8_plan(job), job.path("fp8"))
    check_dtypes(job.path("fp8"), POLICIES["fp16"])
    share_weights(job.path("fp8"), job.path("fp16"))


def _fp8_plan(job: EncoderJob) -> Fp8Plan:
    plan: Fp8Plan = job.kept["fp8"]
    return plan


# A precision has a line here and a row in `scclip_rt.precisions`; some have a second form, for engines alone.
WRITERS: Mapping[str, PrecisionWriter] = {
    "fp32": PrecisionWriter(
        runs_on=PRECISIONS["fp32"].runs_on, write=lambda job, _: _write_traced("fp32", job)
    ),
    "fp16": PrecisionWriter(
        runs_on=PRECISIONS["fp16"].runs_on,
        write=lambda job, _: _write_traced("fp16", job),
        open=float16_runner,
    ),
    # To build engines from. Marked for nothing else, so that runtimes that don't know better leave it alone: the others
    # give it to ONNX Runtime's CUDA provider where that has the operator.
    "fp16.opset23": PrecisionWriter(
        runs_on=("tensorrt",), write=_write_attention_operator, open=float16_runner
    ),
    "bf16": PrecisionWriter(
        runs_on=PRECISIONS["bf16"].runs_on,
        write=lambda job, _: _write_traced("bf16", job),
        open=rounding_runner,
    ),
    "fp32.plugins": _plugins("fp32", onnx_runner),
    "fp16.plugins": _plugins("fp16", float16_runner),
    "bf16.plugins": _plugins("bf16", rounding_runner),
    "int8": PrecisionWriter(
        runs_on=PRECISIONS["int8"].runs_on,
        write=_write_int8,
        facts=lambda job: {"quantization": _int8_plan(job).to_json()},
    ),
    # Only to build engines from: nothing else multiplies in float8.
    "fp8": PrecisionWriter(
        runs_on=PRECISIONS["fp8"].runs_on,
        write=_write_fp8,
        open=float16_runner,
        facts=lambda job: {
            "least_compute_capability": FP8_CAPABILITY,
            "quantization": _fp8_plan(job).to_json(),
        },
    ),
}
