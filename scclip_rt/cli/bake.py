"""`scclip bake`: a bundle and its classes as one ONNX file for other tools."""

import argparse
from dataclasses import asdict
from typing import Any

from scclip_rt.cli.notes import tell_names_that_demo_does_not_know
from scclip_rt.cli.options import (
    add_class_options,
    add_image_options,
    add_label_options,
    add_output_options,
    check_json_target,
    class_settings,
    image_settings,
    tell,
)
from scclip_rt.cli.parsers import Options, add_bundle, add_command, size
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
    parser = add_command(
        subparsers, "bake", run, "write one ONNX file, classes inside, for other tools", _DESCRIPTION, _EPILOG
    )
    add_bundle(parser)
    options = Options(parser)
    options.file("--output -o", "FILE.onnx", "the file to write", required=True)
    add_bake_options(parser)
    options.text(
        "--precision",
        "NAME",
        "fp32, fp16, int8, as the bundle has them; fp16 is compared with fp32 (default: auto, the most accurate "
        "for the CPU)",
        default="auto",
    )
    options.number("--threads", "N", "CPU threads of the check")
    add_class_options(parser, vocabulary=True)
    add_image_options(parser)
    add_label_options(parser)
    add_output_options(parser, force=True)


def add_bake_options(parser: argparse.ArgumentParser) -> None:
    """The form of the file; `bake_options` reads them."""
    group = Options(parser, "the file")
    group.text(
        "--size",
        "N|HxW",
        "pixels of the image that it takes (default: a square of the short side, which needs no resizing)",
        type=size(square=True),
    )
    group.choice(
        "--pixels",
        ["unit", "byte", "uint8"],
        "unit: float (B, 3, H, W) from 0 to 1; byte: the same from 0 to 255; uint8: (B, H, W, 3) (default: unit)",
        default="unit",
    )
    group.choice(
        "--result",
        ["probabilities", "logits", "labels"],
        "probabilities or logits (B, classes, H, W), or labels (B, H, W) (default: probabilities)",
        default="probabilities",
    )
    group.number("--batch", "N", "images at once (default: any number)")
    group.number("--opset", "N", "ONNX opset, 17 or more (default: 17)", limit="baked_opset", default=17)
    group.number("--ir", "N", "IR version; old runtimes refuse newer ones (default: 8)", default=8)
    group.choice(
        "--weights",
        ["inside", "beside"],
        "inside the file, or beside it in FILE.onnx.data (default: inside)",
        default="inside",
    )
    group.number(
        "--resolution", "CM", "centimetres per pixel, which QGIS's Deepness reads", limit="baked_resolution"
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
    tell_names_that_demo_does_not_know(bundle, segmenter.vocabulary)
    report = bake(segmenter, args.output, options, force=args.force)
    document = asdict(report) | {"schema": "scclip-bake/1", "files": [str(file) for file in report.files]}
    shape = ", ".join(str(length or "batch") for length in report.input)
    text = (
        f"{args.output}: image ({shape}) to {report.result} of {report.classes} classes, {report.windows} windows, "
        f"{report.bytes / 1e6:.0f} MB; {report.labels_agreement:.2%} of labels as scclip segment"
    )
    tell(document, text, args.json, force=args.force)
    return 0
