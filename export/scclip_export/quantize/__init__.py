"""8-bit encoders: calibrated, static, with QuantizeLinear and DequantizeLinear around the big matrix products.

Int8 for CPUs: `quantize_encoder` and `quantize_text_encoder`, and `write_int8` for further graphs of the same weights.
Float8 for GPUs: `plan_fp8` and `write_fp8`.
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from scclip_export.quantize.fp8 import Fp8Plan, plan_fp8, write_fp8
from scclip_export.quantize.images import CALIBRATION_OPTION, calibration_windows
from scclip_export.quantize.observe import window_runs
from scclip_export.quantize.options import Int8Options, Progress
from scclip_export.quantize.plan import Plan, make_plan
from scclip_export.quantize.rewrite import write_int8
from scclip_export.quantize.sensitivity import measure_sensitivity, sensitivity_table
from scclip_export.quantize.text import quantize_text_encoder, text_prompts

__all__ = [
    "CALIBRATION_OPTION",
    "Fp8Plan",
    "Int8Options",
    "Plan",
    "calibration_windows",
    "measure_sensitivity",
    "plan_fp8",
    "quantize_encoder",
    "quantize_text_encoder",
    "sensitivity_table",
    "text_prompts",
    "write_fp8",
    "write_int8",
]


def quantize_encoder(
    source: Path,
    target: Path,
    windows: NDArray[np.uint8],
    options: Int8Options | None = None,
    *,
    images: str = "the windows given",
    progress: Progress = lambda _: None,
) -> Plan:
    """Quantise a window encoder.

    Args:
        source: float32 encoder of windows, as `graph.onnx_from_encoder` writes it.
        target: the int8 file; its weights go beside it.
        windows: calibration windows, uint8 (W, H, W, 3), W ≥ 1.
        options: None takes the defaults.
        images: where the windows are from, for the record.
        progress: is told of long steps.

    Returns:
        The plan, which `write_int8` applies to the same model's encoders of other grids.

    Raises:
        ExportError: nothing can be quantised, or an option fits nothing.
    """
    options = options or Int8Options()
    progress(f"calibrating {target.name} on {len(windows)} windows of {images}")
    plan = make_plan(
        source,
        window_runs(source, windows),
        options,
        calibration={"calibration_images": images, "calibration_windows": len(windows)},
        progress=progress,
    )
    if options.sensitivity:
        measured = measure_sensitivity(source, plan, windows, progress)
        progress(f"sensitivity to int8\n{sensitivity_table(plan, measured)}")
    elif plan.float_layers:
        progress(f"float32 stay: {', '.join(plan.float_layers)}")
    write_int8(source, plan, target)
    return plan
