"""The precision options of `scclip-export`; needs neither torch nor onnx until they are used."""

import argparse
from typing import Any

from scclip_export.errors import ExportError
from scclip_rt.cli.parsers import Options
from scclip_rt.precisions import PRECISIONS

PRECISION_FLAGS = {name: spec.help for name, spec in PRECISIONS.items() if name != "fp32"}
"""Precisions beside fp32, in the order of bundle.json: name in `writers.WRITERS`, help of the flag."""
# Options of int8 that have a flag: name in Int8Options → destination of the flag.
_INT8 = {
    "images": "calibration_images",
    "windows": "calibration_windows",
    "keep_float": "int8_keep_float",
    "float_share": "int8_float_share",
    "sensitivity": "int8_sensitivity",
}
# Of those, what fp8 takes as well.
_CALIBRATION = frozenset(("images", "windows"))


def add_precision_arguments(parser: argparse.ArgumentParser) -> None:
    """Register the options."""
    group = Options(parser, "precisions beside fp32, one more file per grid each")
    for name, text in PRECISION_FLAGS.items():
        group.flag(f"--{name}", text)
    group.either(
        "--opset23",
        "with --fp16: also the same encoder with ONNX's Attention operator, for TensorRT engines and for ONNX Runtime "
        "1.31 and later on a GPU (default: with --fp16 and an engine)",
    )
    group.flag(
        "--int8-text",
        "also the text encoder with 8-bit integer products on CPUs; used only where --text-precision int8 is asked for "
        "(docs/quantisation.md)",
    )
    _add_int8(group)


def _add_int8(group: Options) -> None:
    group.file(
        "--calibration-images",
        "DIR",
        "with --int8 or --fp8: photos of the kind that will be segmented (default: rendered scenes, which do less "
        "well)",
    )
    group.number("--calibration-windows", "N", "with --int8 or --fp8: windows to calibrate on (48)")
    group.text(
        "--int8-keep-float",
        "PATTERN",
        "layers that stay float32, such as 'blocks.11.*'; may be repeated",
        action="append",
    )
    group.number(
        "--int8-float-share",
        "X",
        "most work that layers with a large error may keep in float32 (0.1 of the multiplications)",
    )
    group.flag(
        "--int8-sensitivity",
        "with --int8: measure and print what each layer costs when only it is int8",
        default=None,
    )


def precisions_from(args: argparse.Namespace) -> tuple[str, ...]:
    """The encoders asked for beside fp32, by their keys in `writers.WRITERS`.

    Raises:
        ExportError: a form of the float16 encoder without it.
    """
    names = [name for name in PRECISION_FLAGS if getattr(args, name)]
    if args.opset23 and "fp16" not in names:
        raise ExportError("--opset23 is a second form of the float16 encoder; pass --fp16 as well")
    if args.fp8 and not args.fp16:
        raise ExportError("--fp8 is made from the float16 encoder; pass --fp16 as well")
    with_engine = args.tensorrt or args.tensorrt_rtx
    if "fp16" in names and (with_engine if args.opset23 is None else args.opset23):
        names.insert(names.index("fp16") + 1, "fp16.opset23")
    return tuple(names)


def int8_from(args: argparse.Namespace) -> Any:
    """The `Int8Options` that a command line asks for; fp8 reads how to calibrate from them too.

    Raises:
        ExportError: options without the precision they are for, or out of range.
    """
    from scclip_export.quantize import Int8Options

    given = {field: value for field, flag in _INT8.items() if (value := getattr(args, flag)) is not None}
    idle = [field for field in given if not (args.int8 or (args.fp8 and field in _CALIBRATION))]
    if idle:
        flags = ", ".join("--" + _INT8[field].replace("_", "-") for field in idle)
        either = " or --fp8" if _CALIBRATION.issuperset(idle) else ""
        raise ExportError(f"{flags} needs --int8{either}")
    if "keep_float" in given:
        given["keep_float"] = tuple(given["keep_float"])
    return Int8Options(**given)
