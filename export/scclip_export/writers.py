"""The encoders' files, one writer per precision: what `pipeline` calls for every grid."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from scclip_export.config import CalibrationConfig, Geometry
from scclip_export.encoder import CalibratedEncoder
from scclip_export.graph import onnx_from_encoder
from scclip_export.options import ExportConfig, Progress
from scclip_export.parity import Runner, onnx_runner
from scclip_export.source import LoadedModel


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
        encoder: the float32 torch model of this grid, in eval mode, which parity is measured against.
        directory: the bundle in the making. The grid's fp32 file is there before any other precision is written.
    """

    config: ExportConfig
    model: LoadedModel
    calibration: CalibrationConfig
    geometry: Geometry
    grid: GridPlan
    encoder: CalibratedEncoder
    directory: Path

    def path(self, precision: str) -> Path:
        """Return where the file of a precision goes; its weights are beside it, in `NAME.data`."""
        return self.directory / f"encoder.{precision}{self.grid.name}.onnx"


@dataclass(frozen=True, slots=True, kw_only=True)
class Precision:
    """How a precision is written and checked.

    Attributes:
        runs_on: kinds of device that run it well, for bundle.json.
        write: writes `job.path(NAME)` and its `.data`; raises ExportError.
        open: returns a function that runs the written file on this machine's CPU, for parity.
    """

    runs_on: tuple[str, ...]
    write: Callable[[EncoderJob, Progress], None]
    open: Callable[[Path], Runner] = onnx_runner


def _write_fp32(job: EncoderJob, _: Progress) -> None:
    onnx_from_encoder(
        job.encoder, job.path("fp32"), opset=job.config.opset, example_grid=job.grid.examples[0]
    )


# A precision has a line here, its limits in `parity.THRESHOLDS`, and its flag in `cli.PRECISION_FLAGS`.
PRECISIONS: Mapping[str, Precision] = {
    "fp32": Precision(runs_on=("cpu", "cuda"), write=_write_fp32),
}
