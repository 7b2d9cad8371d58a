"""`scclip convert`: a baked file in another engine's format."""

import argparse
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from scclip_rt.cli.options import add_output_options, check_json_target, tell
from scclip_rt.cli.parsers import Options, add_command

if TYPE_CHECKING:
    from scclip_rt.baking.converters.base import Converter

_DESCRIPTION = """\
Write a file of `scclip bake` in the format of another engine. The result is run in that engine's own
runtime on this machine; it gets its name only if its labels are those of the baked file in ONNX
Runtime. What was compared, and with which version, is in FILE.json beside it.
"""

_EPILOG = """\
examples:
  scclip bake vitb16.scclip --classes "roof; tree; road" --size 512 --output roofs.onnx
  scclip convert roofs.onnx --to mnn --output roofs.mnn
  scclip convert roofs.onnx --to mnn --weights int8 --output small.mnn
  scclip convert roofs.onnx --to openvino --weights fp16 --output roofs.xml
  scclip convert roofs.onnx --to rknn --chip rk3576 --output roofs.rknn
"""


def add_parser(subparsers: "argparse._SubParsersAction[Any]") -> None:
    """Register the command."""
    parser = add_command(
        subparsers, "convert", run, "write a baked file in another engine's format", _DESCRIPTION, _EPILOG
    )
    options = Options(parser)
    options.file("file", "FILE.onnx", "what `scclip bake` wrote, weights inside")
    options.text(
        "--to",
        "TARGET",
        "openvino (.xml and .bin), mnn (.mnn) or rknn (.rknn); scclip-export --to has more",
        required=True,
    )
    options.file("--output -o", "FILE", "the file to write", required=True)
    options.choice(
        "--weights",
        ["fp32", "fp16", "int8"],
        "how weights are kept; int8 with mnn only, fp16 alone with rknn (default: fp32, of rknn fp16)",
    )
    options.text("--chip", "NAME", "with rknn: the chip that the file is for (default: rk3588)")
    add_output_options(parser, force=True)


def run(args: argparse.Namespace) -> int:
    """Convert what the command line names."""
    from scclip_rt.baking.converters.convert import converter_of

    return run_converter(args, converter_of(args.to))


def run_converter(args: argparse.Namespace, converter: "Converter") -> int:
    """The same with a converter that has been looked up."""
    check_json_target(args.json, force=args.force)

    from scclip_rt.baking.converters.convert import convert

    report = convert(
        args.file,
        args.output,
        to=args.to,
        weights=args.weights,
        chip=args.chip,
        force=args.force,
        converter=converter,
    )
    text = (
        f"{args.output}: {report.target} {report.version}, {report.weights} weights, {report.bytes / 1e6:.1f} MB; "
        f"{report.labels_agreement:.3%} of labels as in ONNX Runtime"
    )
    tell(asdict(report) | {"schema": "scclip-convert/1"}, text, args.json, force=args.force)
    return 0
