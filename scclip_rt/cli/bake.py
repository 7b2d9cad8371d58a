"""`scclip bake`: a bundle and its classes as one ONNX file for other tools."""

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import Any

from scclip_rt.cli.image_options import image_settings, number
from scclip_rt.cli.options import (
    add_class_options,
    add_image_options,
    add_label_options,
    add_output_options,
    check_json_target,
    class_settings,
    write_json,
)
from scclip_rt.files import check_replaceable

_DESCRIPTION = """\
Write one ONNX file with the classes inside: an image goes in, a map per class or the labels come
out. Resizing, windows, text and decoding are in the graph, so that QGIS's Deepness, geoai, model
servers and converters need nothing else. Its labels are those of `scclip segment` on the same
pixels; that is checked in ONNX Runtime before the file gets its name. Needs onnx (extra `bake`).
"""

_EPILOG = """\
examples:
  scclip bake vitb16.scclip --classes "roof; tree; road" --size 512 -o roofs.onnx
  scclip bake vitb16.scclip --classes voc.txt --result labels --pixels uint8 -o labels.onnx
  scclip bake vitb16.scclip --vocabulary voc.safetensors --precision int8 --batch 1 -o small.onnx
"""


def add_parser(subparsers: "argparse._SubParsersAction[Any]") -> None:
    """Register the command."""
    parser = subparsers.add_parser(
        "bake",
        help="write one ONNX file, classes inside, for other tools",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("bundle", metavar="BUNDLE", help="bundle directory, or demo for the packaged one")
    parser.add_argument(
        "--output", "-o", metavar="FILE.onnx", type=Path, required=True, help="the file to write"
    )
    add_bake_options(parser)
    parser.add_argument(
        "--precision",
        metavar="NAME",
        default="auto",
        help="fp32, fp16, int8, as the bundle has them; fp16 is compared with fp32 (default: auto, the most accurate "
        "for the CPU)",
    )
    parser.add_argument("--threads", metavar="N", type=number("threads"), help="CPU threads of the check")
    add_class_options(parser, vocabulary=True)
    add_image_options(parser)
    add_label_options(parser)
    add_output_options(parser, force=True)
    parser.set_defaults(run=run)


def add_bake_options(parser: argparse.ArgumentParser) -> None:
    """The form of the file; `bake_options` reads them."""
    group = parser.add_argument_group("the file")
    group.add_argument(
        "--size",
        metavar="N|HxW",
        type=_size,
        help="pixels of the image that it takes (default: a square of the short side, which needs no resizing)",
    )
    group.add_argument(
        "--pixels",
        choices=["unit", "byte", "uint8"],
        default="unit",
        help="unit: float (B, 3, H, W) from 0 to 1; byte: the same from 0 to 255; uint8: (B, H, W, 3) (default: unit)",
    )
    group.add_argument(
        "--result",
        choices=["probabilities", "logits", "labels"],
        default="probabilities",
        help="probabilities or logits (B, classes, H, W), or labels (B, H, W) (default: probabilities)",
    )
    group.add_argument(
        "--batch", metavar="N", type=number("batch"), help="images at once (default: any number)"
    )
    group.add_argument(
        "--opset",
        metavar="N",
        type=number("baked_opset"),
        default=17,
        help="ONNX opset, 17 or more (default: 17)",
    )
    group.add_argument(
        "--ir",
        metavar="N",
        type=number("ir"),
        default=8,
        help="IR version; old runtimes refuse newer ones (default: 8)",
    )
    group.add_argument(
        "--weights",
        choices=["inside", "beside"],
        default="inside",
        help="inside the file, or beside it in FILE.onnx.data (default: inside)",
    )
    group.add_argument(
        "--resolution",
        metavar="CM",
        type=number("resolution"),
        help="centimetres per pixel, which QGIS's Deepness reads",
    )


def run(args: argparse.Namespace) -> int:
    """Bake what the command line names."""
    from scclip_rt.baking.options import BakeOptions

    options = BakeOptions(
        size=args.size,
        pixels=args.pixels,
        result=args.result,
        batch=args.batch,
        opset=args.opset,
        ir=args.ir,
        weights=args.weights,
        resolution=args.resolution,
        precision="fp16" if args.precision == "fp16" else None,
    )
    check_replaceable(args.output, force=args.force)
    check_json_target(args.json, force=args.force)

    from scclip_rt.baking.bake import bake
    from scclip_rt.bundle.bundle import Bundle
    from scclip_rt.segmenter import Segmenter

    bundle = Bundle.open(args.bundle)
    segmenter = Segmenter(
        bundle,
        backend="onnxruntime",
        device="cpu",
        precision="fp32" if args.precision == "fp16" else args.precision,
        threads=args.threads,
        progress=True,
        **class_settings(args, bundle),
        **image_settings(args),
    )
    report = bake(segmenter, args.output, options, force=args.force)
    document = asdict(report) | {"schema": "scclip-bake/1", "files": [str(file) for file in report.files]}
    if args.json is not None:
        write_json(document, args.json, force=args.force)
    if args.json != "-":
        shape = ", ".join(str(length or "batch") for length in report.input)
        print(
            f"{args.output}: image ({shape}) to {report.result} of {report.classes} classes, {report.windows} "
            f"windows, {report.bytes / 1e6:.0f} MB; {report.labels_agreement:.2%} of labels as scclip segment"
        )
    return 0


def _size(text: str) -> tuple[int, int]:
    try:
        sides = [int(part) for part in text.lower().split("x")]
        height, width = sides if len(sides) > 1 else sides * 2
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected N or HxW in pixels, such as 512; got {text!r}") from None
    return height, width
