"""Options that several commands share, and where `--json` goes."""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from scclip_rt.errors import OptionError
from scclip_rt.files import atomic_path, check_replaceable


def add_class_options(parser: argparse.ArgumentParser, *, vocabulary: bool) -> None:
    """`--classes` (with `--vocabulary` as the alternative, if wanted) and how names are embedded."""
    group = parser.add_argument_group("classes")
    source = group.add_mutually_exclusive_group(required=not vocabulary)
    source.add_argument(
        "--classes",
        metavar="FILE|NAMES",
        help='a file with one class per line, synonyms after commas, or the names: "sky; grass, lawn; dog"',
    )
    if vocabulary:
        source.add_argument(
            "--vocabulary",
            metavar="FILE",
            type=Path,
            help="embedded classes, written by `scclip embed` "
            "(default without --classes: the bundle's own, if it carries one)",
        )
    group.add_argument(
        "--templates",
        metavar="NAME|FILE",
        default="imagenet",
        help="prompts around each name: imagenet (80 of them), none, or a file with one per line, {} for the "
        "name (default: imagenet)",
    )
    group.add_argument(
        "--background",
        metavar="NAME",
        help='the class that takes what no class claims, or "none" (default: the class called "background", '
        "if there is one)",
    )
    group.add_argument(
        "--no-cache", action="store_true", help="neither read nor keep class embeddings on disk"
    )


def add_backend_options(parser: argparse.ArgumentParser) -> None:
    """What runs the encoder, where and how."""
    group = parser.add_argument_group("inference")
    group.add_argument(
        "--backend",
        metavar="NAME",
        default="auto",
        help="onnxruntime, openvino, tensorrt, tensorrt-rtx, or auto: what suits the bundle and the machine "
        "(default: auto)",
    )
    group.add_argument(
        "--device",
        metavar="NAME",
        default="auto",
        help="auto, cpu or cuda:N (default: auto, the CPU, or the GPU that an engine of the bundle fits)",
    )
    group.add_argument(
        "--precision",
        metavar="NAME",
        default="auto",
        help="fp32, bf16, int8, … as the bundle and the backend have them; auto: the most accurate that suits the "
        "device; fast: the fastest there is, at the loss that the export measured (default: auto)",
    )
    group.add_argument(
        "--ort-provider",
        metavar="NAME",
        help="ONNX Runtime's provider: cpu, cuda, cuda-graphs or tensorrt (default: as --device). "
        "What is not available is an error, never replaced in silence",
    )
    group.add_argument(
        "--threads", metavar="N", type=int, help="CPU threads (default: the cores this process may use)"
    )
    group.add_argument(
        "--batch",
        metavar="N",
        type=int,
        help="most windows encoded at once (default: 8 of 14×14 patches on a CPU)",
    )


def add_image_options(parser: argparse.ArgumentParser) -> "argparse._ArgumentGroup":
    """How images are resized and cut, and which are too large."""
    group = parser.add_argument_group("images")
    group.add_argument(
        "--short-side",
        metavar="PIXELS",
        type=int,
        help="resize the short side to this (default: the bundle's)",
    )
    group.add_argument(
        "--stride", metavar="PIXELS", type=int, help="distance between windows (default: the bundle's)"
    )
    group.add_argument(
        "--whole-image",
        action="store_true",
        help="encode the image in one pass; the bundle must have been exported with --dynamic-grid or --image-size",
    )
    group.add_argument(
        "--max-pixels", metavar="N", type=int, help="refuse larger images (default: 128 million)"
    )
    group.add_argument(
        "--max-windows", metavar="N", type=int, help="refuse images of more windows (default: 1024)"
    )
    return group


def add_label_options(parser: argparse.ArgumentParser) -> "argparse._ArgumentGroup":
    """From cosines to labels."""
    group = parser.add_argument_group("labels")
    group.add_argument(
        "--logit-scale",
        metavar="X",
        type=float,
        help="factor on cosines before the softmax (default: the bundle's)",
    )
    group.add_argument(
        "--prob-threshold",
        metavar="P",
        type=float,
        help="pixels of lower probability become background, or unlabelled (default: the bundle's)",
    )
    group.add_argument(
        "--area-threshold",
        metavar="SHARE",
        type=float,
        help="drop classes of at most this share of the foreground; 0 is off (default: the bundle's)",
    )
    group.add_argument(
        "--refine",
        choices=["pamr"],
        help="follow the image's edges more closely, at some cost (default: off)",
    )
    return group


def segmenter_options(args: argparse.Namespace) -> dict[str, Any]:
    """What the groups of images, labels and inference say, as options of `Segmenter`."""
    from scclip_rt.image.geometry import MAX_PIXELS, MAX_WINDOWS

    names = (
        "backend", "device", "precision", "ort_provider", "threads", "batch", "short_side", "stride", "whole_image",
        "logit_scale", "prob_threshold", "area_threshold", "refine",
    )  # fmt: skip
    options = {name: getattr(args, name) for name in names}
    options["max_pixels"] = MAX_PIXELS if args.max_pixels is None else args.max_pixels
    options["max_windows"] = MAX_WINDOWS if args.max_windows is None else args.max_windows
    return options


def add_output_options(parser: argparse.ArgumentParser, *, force: bool) -> None:
    """`--json` and, for commands that write files, `--force`."""
    group = parser.add_argument_group("reports and files")
    if force:
        group.add_argument("--force", action="store_true", help="replace outputs that exist")
    group.add_argument(
        "--json",
        metavar="FILE",
        nargs="?",
        const="-",
        help="tell what was done as JSON, on standard output or in FILE (--json=FILE before a positional)",
    )


def check_json_target(target: str | None, *, force: bool) -> None:
    """Refuse a report file that exists, before any work.

    Raises:
        OutputError: it exists and `force` is not given.
        OptionError: it is an empty name.
    """
    if target == "":
        raise OptionError("--json= names no file; leave out the sign for standard output")
    if target not in (None, "-"):
        check_replaceable(Path(str(target)), force=force)


def write_json(document: dict[str, Any], target: str, *, force: bool) -> None:
    """Write a report to standard output (`-`) or a file, whole."""
    text = json.dumps(document, indent=2, ensure_ascii=False) + "\n"
    if target == "-":
        sys.stdout.write(text)
        return
    with atomic_path(target, force=force) as temporary:
        temporary.write_text(text, "utf-8")
