"""The precisions of an encoder: one table, a row each, for the exporter, parity, `scclip bench` and benchmarks.

How a precision is written stands in `scclip_export.writers`, which dtype each stage computes in, in
`scclip_export.model.dtypes`; docs/precision.md says where the limits are from.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True, slots=True, kw_only=True)
class PrecisionSpec:
    """What a precision is, where it runs, and how good it must be beside float32.

    Attributes:
        multiplies: what its matrix products multiply.
        runs_on: kinds of device that run its file well: `cpu`, `cuda`, or `tensorrt` for files to build engines from.
        help: of the flag of `scclip-export`; empty for fp32, which every bundle has.
        mean_abs: most that the elements of a window's unit features differ by in the mean.
        labels: least share of patches whose best of 150 random queries is float32's. Random queries are the hardest
            labels there are: a real vocabulary's classes lie further apart.
        outliers: least share of float32's outliers that are found.
        pixels: least share of pixels with float32's label, 150 random queries, after decoding.
        max_abs: most that one element of a feature, or a cosine, differs by where no decision is tied; None: narrow
            arithmetic flips decisions by itself, so that a largest difference says nothing.
    """

    multiplies: str
    runs_on: tuple[str, ...]
    help: str
    mean_abs: float
    labels: float
    outliers: float = 0.0
    pixels: float
    max_abs: float | None = None


PRECISIONS: Mapping[str, PrecisionSpec] = MappingProxyType(
    {
        "fp32": PrecisionSpec(
            multiplies="float32",
            runs_on=("cpu", "cuda"),
            help="",
            max_abs=2e-5,
            mean_abs=1e-3,
            labels=0.99,
            outliers=1.0,
            pixels=0.999,
        ),
        "fp16": PrecisionSpec(
            multiplies="float16",
            runs_on=("cuda",),
            help="float16 products and weights, float32 norms, softmax, similarities and anomaly detection; for GPUs",
            mean_abs=2e-3,
            labels=0.97,
            outliers=0.95,
            pixels=0.97,
        ),
        "bf16": PrecisionSpec(
            multiplies="bfloat16",
            runs_on=("cuda",),
            help="the same with bfloat16, whose range is float32's",
            mean_abs=1e-2,
            labels=0.85,
            outliers=0.8,
            pixels=0.9,
        ),
        "int8": PrecisionSpec(
            multiplies="int8",
            runs_on=("cpu",),
            help="8-bit integer products on CPUs, calibrated on images (docs/quantisation.md)",
            mean_abs=1e-2,
            labels=0.85,
            pixels=0.85,
        ),
        # Three bits of mantissa: of these labels 24 blocks of synthetic weights keep 76 %, 12 blocks 90 %.
        "fp8": PrecisionSpec(
            multiplies="float8 (e4m3)",
            runs_on=("tensorrt",),
            help="with --fp16: 8-bit float products (e4m3), to build TensorRT engines from for compute capability 8.9 "
            "and later; used only where --precision fp8 is asked for (docs/precision.md)",
            mean_abs=1e-2,
            labels=0.7,
            outliers=0.8,
            pixels=0.6,
        ),
    }
)
