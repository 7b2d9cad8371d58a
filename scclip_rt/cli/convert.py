"""`scclip convert`: a baked file in another engine's format."""

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import Any

from scclip_rt.cli.options import add_output_options, check_json_target, write_json
from scclip_rt.files import check_replaceable

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
    parser = subparsers.add_parser(
        "convert",
        help="write a baked file in another engine's format",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "file", metavar="FILE.onnx", type=Path, help="what `scclip bake` wrote, weights inside"
    )
    parser.add_argument(
        "--to", metavar="TARGET", required=True, help="openvino (.xml and .bin) or mnn (.mnn)"
    )
    parser.add_argument("--output", "-o", metavar="FILE", type=Path, required=True, help="the file to write")
    parser.add_argument(
        "--weights",
        choices=["fp32", "fp16", "int8"],
        help="how weights are kept; int8 with mnn only, fp16 alone with rknn (default: fp32, of rknn fp16)",
    )
    parser.add_argument(
        "--chip", metavar="NAME", help="with rknn: the chip that the file is for (default: rk3588)"
    )
    add_output_options(parser, force=True)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Convert what the command line names."""
    check_replaceable(args.output, force=args.force)
    check_json_target(args.json, force=args.force)

    from scclip_rt.baking.converters.convert import convert

    report = convert(
        args.file, args.output, to=args.to, weights=args.weights, chip=args.chip, force=args.force
    )
    if args.json is not None:
        write_json(asdict(report) | {"schema": "scclip-convert/1"}, args.json, force=args.force)
    if args.json != "-":
        print(
            f"{args.output}: {report.target} {report.version}, {report.weights} weights, {report.bytes / 1e6:.1f} MB; "
            f"{report.labels_agreement:.3%} of labels as in ONNX Runtime"
        )
    return 0
