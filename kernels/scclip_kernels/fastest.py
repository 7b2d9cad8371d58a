"""Which kernels the torch model runs: plain torch, Triton, or what was measured to be faster.

`fastest.json` is the table that `benchmarks/gpu` wrote on an H100; on another GPU it is the best guess there is. Its
times are of single calls, launches from Python included. A table without a measurement (`measured_on` null) means plain
torch.
"""

import json
import math
from functools import cache
from importlib.resources import files
from importlib.util import find_spec
from typing import Any, Literal

import torch

Kernels = Literal["reference", "triton", "auto"]
CALIBRATION = frozenset({"anomaly", "outlier_repair", "aggregate", "attention"})
TRUNK = frozenset({"add_layer_norm", "linear_quick_gelu"})


def check_kernels(kernels: str) -> None:
    """Refuse an unknown choice, and Triton where it isn't installed.

    Raises:
        ValueError: says which, and what to do.
    """
    if kernels not in ("reference", "triton", "auto"):
        raise ValueError(f"kernels must be 'reference', 'triton' or 'auto'; got {kernels!r}")
    if kernels == "triton" and find_spec("triton") is None:
        raise ValueError(
            "kernels='triton' needs Triton, which is not installed. pip install triton, "
            "or use kernels='reference'"
        )


def use_triton(
    kernels: Kernels,
    *,
    operations: frozenset[str],
    device: torch.device,
    dtype: torch.dtype,
    num_patches: int,
    num_windows: int,
) -> bool:
    """Whether to run operations in Triton.

    Args:
        kernels: what was asked for; `auto` goes by the table, and never leaves plain torch off a GPU.
        operations: those that it is about, by the table's names: `CALIBRATION` or `TRUNK`.
        device: of the tokens.
        dtype: of the operations' products.
        num_patches: N.
        num_windows: B.
    """
    if kernels != "auto":
        return kernels == "triton"
    if device.type != "cuda" or find_spec("triton") is None:
        return False
    precision = {torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16"}.get(dtype, "")
    return faster_in_triton(measured(), operations, precision, num_patches, num_windows)


@cache
def measured() -> dict[str, Any]:
    """The table that ships: `fastest.json`."""
    table: dict[str, Any] = json.loads(files("scclip_kernels").joinpath("fastest.json").read_text("utf-8"))
    return table


def faster_in_triton(
    table: dict[str, Any], operations: frozenset[str], precision: str, num_patches: int, num_windows: int
) -> bool:
    """Whether operations together took less time in Triton, at the measured size that is nearest.

    Nearest in N first, then in B, both as ratios. A table without a measurement, one that lacks an operation at that
    size, and one with an operation whose numbers were wrong all mean plain torch.
    """
    rows = [row for row in table["choices"] if row["precision"] == precision]
    if table["measured_on"] is None or operations & set(table["unsound"]) or not rows:
        return False

    def distance(row: dict[str, Any]) -> tuple[float, float]:
        patches, windows = row["patches"] / num_patches, row["windows"] / num_windows
        return abs(math.log(patches)), abs(math.log(windows))

    nearest = min(map(distance, rows))
    times: dict[str, dict[str, float]] = {
        row["kernel"]: row["milliseconds"] for row in rows if distance(row) == nearest
    }
    if not times.keys() >= operations:
        return False
    return sum(times[name]["triton"] for name in operations) < sum(
        times[name]["reference"] for name in operations
    )
