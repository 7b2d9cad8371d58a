"""`--bake` and `--to`: the runtime's `scclip bake` and `scclip convert`, after an export or on what exists."""

import argparse
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scclip_export.converters.targets import TARGETS, converter_to
from scclip_export.errors import ExportError
from scclip_rt.cli.parsers import Options

FIXED_BATCH = ("rknn", "litert", "executorch", "coreml")
"""Targets whose shapes are fixed: for them a file is baked with a batch of 1, unless told otherwise."""
OPTIONS = ("bake", "bake_output", "bake_options", "to", "to_options")


def add_bake_arguments(group: Options) -> None:
    """The options that `plan_from` reads."""
    group.text(
        "--bake",
        "CLASSES|FILE.safetensors",
        "also write one ONNX file with these classes inside, for other tools: class names or a file, or a "
        "vocabulary (docs/baking.md)",
    )
    group.file("--bake-output", "FILE.onnx", "that file (default: beside the bundle, its name)")
    group.text(
        "--bake-options",
        "OPTIONS",
        "further options of `scclip bake`, in one word: '--size 512 --result labels'",
        default="",
    )
    group.file("--baked", "FILE.onnx", "convert this file of an earlier --bake, with --to; no export")
    group.text(
        "--to",
        "TARGET",
        f"also write the baked file in another engine's format, beside it: {', '.join(TARGETS)}; may be repeated",
        action="append",
        default=[],
    )
    group.text(
        "--to-options",
        "OPTIONS",
        "further options of `scclip convert`, in one word: '--weights int8 --output small.tflite'",
        default="",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is baked and converted.

    Attributes:
        bake: words of `scclip bake` after the bundle; None for nothing.
        targets: engines' names.
        convert: words of `scclip convert` after the target.
    """

    bake: tuple[str, ...] | None
    targets: tuple[str, ...]
    convert: tuple[str, ...]

    def run(self, bundle: Path) -> None:
        """Bake a bundle, and convert what was baked."""
        if self.bake is None:
            return
        # The last --output holds: the given one, if there is one.
        args = _parsed(["bake", str(bundle), "--output", str(bundle.with_suffix(".onnx")), *self.bake])
        args.run(args)
        self.run_converters(args.output)

    def run_converters(self, baked: Path) -> None:
        """Convert a baked file to every target."""
        from scclip_rt.cli.convert import run_converter

        for target in self.targets:
            converter = converter_to(target)
            output = baked.with_suffix(converter.SUFFIXES[0])
            args = _parsed(["convert", str(baked), "--to", target, "--output", str(output), *self.convert])
            run_converter(args, converter)


def plan_from(args: argparse.Namespace) -> Plan:
    """What a command line asks for, checked before an export: words, targets, and whether their libraries are there.

    Raises:
        ExportError: options without the one that they go with.
        OptionError: no such target.
        BackendError: a target's library is not installed, or can't run here.
    """
    if args.bake is None and (args.bake_output is not None or args.bake_options):
        raise ExportError("--bake-output and --bake-options go with --bake CLASSES|FILE.safetensors")
    if args.to_options and not args.to:
        raise ExportError("--to-options goes with --to TARGET")
    if args.to and args.bake is None and args.baked is None:
        raise ExportError(
            "--to goes with --bake CLASSES|FILE.safetensors, or with --baked FILE.onnx of an earlier one"
        )
    if args.baked is not None and not args.to:
        raise ExportError("--baked goes with --to TARGET")
    force = ["--force"] if args.force else []
    convert = [*shlex.split(args.to_options), *force]
    for target in args.to:
        converter_to(target).version()
        if "--output" in convert and len(args.to) > 1:
            raise ExportError("--to-options with --output goes with one --to")
        _parsed(["convert", "FILE.onnx", "--to", target, "--output", "FILE", *convert])
    bake = None
    if args.bake is not None:
        source = "--vocabulary" if args.bake.endswith(".safetensors") else "--classes"
        fixed = ["--batch", "1"] if set(args.to) & set(FIXED_BATCH) else []
        bake = [source, args.bake, *fixed, *shlex.split(args.bake_options), *force]
        if args.bake_output is not None:
            bake += ["--output", str(args.bake_output)]
        _parsed(["bake", "BUNDLE", "--output", "FILE.onnx", *bake])
    return Plan(bake=None if bake is None else tuple(bake), targets=tuple(args.to), convert=tuple(convert))


def _parsed(words: list[str]) -> Any:
    from scclip_rt.cli import build_parser

    return build_parser().parse_args(words)
