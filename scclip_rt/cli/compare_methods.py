"""`scclip compare-methods`: one checkpoint exported by each method, each evaluated, one table."""

import argparse
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scclip_rt.cli.eval import add_dataset_options, open_from
from scclip_rt.cli.options import (
    add_backend_options,
    add_output_options,
    backend_settings,
    check_json_target,
    tell,
    template_source,
    text_precision,
)
from scclip_rt.cli.parsers import Options, add_command
from scclip_rt.errors import OptionError, ScclipError, printable
from scclip_rt.files import atomic_path, check_replaceable

if TYPE_CHECKING:
    from scclip_rt.evaluation import Dataset
    from scclip_rt.segmenter import Segmenter

METHODS = (
    "scclip", "sfp", "naclip", "clearclip", "sclip", "segearth", "resclip", "maskclip", "none", "surgery", "gem",
)  # fmt: skip

_OURS = ("--calibration", "--checkpoint", "--output", "-o", "--bundle", "--baked")
"""Options of scclip-export that are not for --export: another one would change what a row stands for."""
_ROWS = 4

_DESCRIPTION = """\
Export a CLIP checkpoint by several methods into a scratch folder, evaluate each on a data set with the method's own
settings for it, and print one table: mIoU, pixel accuracy, time and windows per image. Needs the extra `export`.
A method that can't be exported or run is told at the end, after the table of the others, and the exit code is 2.
After Ctrl-C the table has the methods that are done.

With --refine none, methods that refine by default don't. Times are of one image after the other on this machine, images
already read; they are told after the first image, which warms up.
"""

_EPILOG = """\
examples:
  scclip compare-methods clip.safetensors --dataset voc21 --root data --limit 200 --sheet methods.png
  scclip compare-methods vitb16 --dataset demo --methods scclip,naclip,none --export "--window 224 --stride 112"
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What one method did.

    Attributes:
        method: its name.
        miou, accuracy: percent.
        milliseconds: mean time per image, encoded and decoded; None of a single image, which warms up.
        windows: mean number per image.
    """

    method: str
    miou: float
    accuracy: float
    milliseconds: float | None
    windows: float


def add_parser(subparsers: "argparse._SubParsersAction[Any]") -> None:
    """Register the command."""
    parser = add_command(
        subparsers, "compare-methods", run, "mIoU of several methods on one checkpoint", _DESCRIPTION, _EPILOG
    )
    options = Options(parser)
    options.text(
        "checkpoint", "CHECKPOINT", "a checkpoint file, or a name that scclip-export --backbone knows"
    )
    options.text(
        "--export",
        "'OPTIONS'",
        "further options of scclip-export for every method, in quotes (--export='--int8')",
        default="",
    )
    options.text(
        "--methods",
        "NAME,NAME,…",
        f"values of --calibration (default: {','.join(METHODS)})",
        default=",".join(METHODS),
    )
    add_dataset_options(parser)
    options.choice("--refine", ["pamr", "none"], "of every method (default: each method's own)")
    options.file("--sheet", "FILE.png", "a picture: images, truth and every method's labels")
    options.number("--rows", "N", f"images in the sheet (default: {_ROWS})", limit="worst")
    add_backend_options(parser)
    add_output_options(parser, force=True)


def run(args: argparse.Namespace) -> int:
    """Export, evaluate and tell."""
    check_json_target(args.json, force=args.force)
    if args.sheet is not None:
        check_replaceable(args.sheet, force=args.force)
    elif args.rows is not None:
        raise OptionError("--rows goes with --sheet FILE.png", field="rows")
    methods = [name.strip() for name in args.methods.split(",") if name.strip()]
    unknown = [name for name in methods if name not in METHODS]
    if unknown or not methods:
        raise OptionError(
            f"--methods: unknown {', '.join(unknown) or 'empty list'}; known: {', '.join(METHODS)}",
            field="methods",
        )
    _words(args.export)
    if Path(args.checkpoint).suffix and not Path(args.checkpoint).exists():
        raise OptionError(f"{args.checkpoint}: no such checkpoint", field="checkpoint")
    dataset = open_from(args)
    rows: list[Row] = []
    columns: list[list[Any]] = []
    failures: dict[str, str] = {}
    try:
        with tempfile.TemporaryDirectory(prefix="scclip-methods-") as scratch:
            for method in methods:
                try:
                    row, labels = _export_and_measure(method, Path(scratch), dataset, args)
                except ScclipError as error:  # of one method: hours of the others are not lost
                    failures[method] = str(error)
                    print(f"{method}: {printable(str(error))}", file=sys.stderr, flush=True)
                    continue
                rows.append(row)
                columns.append(labels)
    finally:  # also after Ctrl-C or a full disk
        if rows:
            document = _document(rows, failures, dataset, args.limit)
            tell(document, _table(rows, dataset), args.json, force=args.force)
    if rows and args.sheet is not None:
        _sheet([row.method for row in rows], columns, dataset, args)
    if failures:
        raise OptionError(_joined(failures))
    return 0


def _joined(failures: dict[str, str]) -> str:
    """Every reason once, after the methods that it is of."""
    methods: dict[str, list[str]] = {}
    for method, reason in failures.items():
        methods.setdefault(reason, []).append(method)
    return "; ".join(f"{', '.join(names)}: {reason}" for reason, names in methods.items())


def _export_and_measure(
    method: str, scratch: Path, dataset: "Dataset", args: argparse.Namespace
) -> tuple[Row, list[Any]]:
    """One method, from the checkpoint to its row; its bundle is removed again."""
    bundle = scratch / f"{method}.scclip"
    try:
        _export(method, bundle, args)
        return _measure(method, bundle, dataset, args)
    finally:
        shutil.rmtree(bundle, ignore_errors=True)


def _export(method: str, bundle: Path, args: argparse.Namespace) -> None:
    is_file = Path(args.checkpoint).suffix or Path(args.checkpoint).exists()
    command = [sys.executable, "-m", "scclip_export.cli.main", "--calibration", method]
    command += ["--checkpoint" if is_file else "--backbone", args.checkpoint]
    command += ["--output", str(bundle), *_words(args.export)]
    print(f"exporting {method}", file=sys.stderr, flush=True)
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode != 0:
        last = done.stdout.strip().splitlines()[-1:] or ["no message"]
        raise OptionError(f"scclip-export failed: {last[0].removeprefix('scclip-export: error: ')}")


def _words(options: str) -> list[str]:
    """The options of --export, as a shell would split them."""
    try:
        words = shlex.split(options)
    except ValueError as error:
        raise OptionError(f"--export {options!r}: {error}", field="export") from error
    for word in words:
        if word.partition("=")[0] in _OURS:
            raise OptionError(
                f"--export {options!r}: {word} is not for it; this command names the checkpoint, each of --methods and "
                "the bundles itself",
                field="export",
            )
    return words


def _measure(
    method: str, bundle: Path, dataset: "Dataset", args: argparse.Namespace
) -> tuple[Row, list[Any]]:
    """Evaluate a bundle; the labels of the sheet's images come along."""
    from scclip_rt.evaluation import open_segmenter
    from scclip_rt.evaluation.evaluate import checked_limit, new_matrix

    segmenter: Segmenter = open_segmenter(
        bundle,
        dataset,
        templates=template_source(args),
        **backend_settings(args),
        text_precision=text_precision(args),
        refine=args.refine,
        cache=not args.no_cache,
        progress=True,
    )
    matrix, total = new_matrix(dataset), checked_limit(dataset, args.limit)
    seconds, windows, kept = 0.0, 0, []
    for index in range(total):
        sample = dataset.samples[index]
        started = time.perf_counter()
        encoded = segmenter.encode(sample.image)
        result = segmenter.decode(encoded)
        if index > 0:
            seconds += time.perf_counter() - started
        windows += len(encoded.tiling)
        truth = sample.truth_for(result.labels.shape)
        matrix.update(truth, result.labels, unlabelled=result.unlabelled)
        if args.sheet is not None and index < (_ROWS if args.rows is None else args.rows):
            kept.append(result.labels)
    scores = matrix.scores()
    row = Row(
        method=method,
        miou=float(scores.miou),
        accuracy=float(scores.aacc),
        milliseconds=1000 * seconds / (total - 1) if total > 1 else None,
        windows=windows / total,
    )
    print(f"{method}: mIoU {row.miou:.2f}", file=sys.stderr, flush=True)
    return row, kept


def _table(rows: list[Row], dataset: "Dataset") -> str:
    lines = [f"{dataset.title}", f"{'method':<12} {'mIoU':>7} {'accuracy':>9} {'ms/image':>9} {'windows':>8}"]
    for row in rows:
        taken = "–" if row.milliseconds is None else f"{row.milliseconds:.1f}"
        lines.append(f"{row.method:<12} {row.miou:7.2f} {row.accuracy:9.2f} {taken:>9} {row.windows:8.1f}")
    return "\n".join(lines)


def _document(
    rows: list[Row], failures: dict[str, str], dataset: "Dataset", limit: int | None
) -> dict[str, Any]:
    from scclip_rt.bench.environment import environment

    return {
        "schema": "scclip-compare-methods/1",
        "dataset": dataset.name,
        "images": min(limit or len(dataset), len(dataset)),
        "environment": environment(),
        "methods": [asdict(row) for row in rows],
        "failures": failures,
    }


def _sheet(
    methods: list[str], columns: list[list[Any]], dataset: "Dataset", args: argparse.Namespace
) -> None:
    """A picture: a row per image; the image, the truth, then each method's labels over it."""
    import numpy as np
    from PIL import Image, ImageDraw

    from scclip_rt.decode.plan import label_type
    from scclip_rt.evaluation.datasets.masks import IGNORED
    from scclip_rt.image.load import load_image
    from scclip_rt.overlay import class_colours, paint

    side, head = 220, 18
    names = ["image", "truth", *methods]
    rows: list[list[Any]] = []
    for index in range(len(columns[0])):
        sample = dataset.samples[index]
        image = load_image(sample.image)
        truth = sample.truth_for(image.shape[:2])
        unlabelled = label_type(len(dataset.classes))[1]
        shown = np.where(truth == IGNORED, unlabelled, truth).astype(columns[0][index].dtype)
        pictures = [image]
        for layer in (shown, *(labels[index] for labels in columns)):
            present = np.unique(layer).tolist()
            colours = class_colours(present, background=None, unlabelled=unlabelled)
            pictures.append(paint(image, layer, present, colours, 0.75))
        tiles = [Image.fromarray(np.asarray(picture, np.uint8)) for picture in pictures]
        for tile in tiles:
            tile.thumbnail((side - 4, side - 4))
        rows.append(tiles)
    heights = [max(tile.height for tile in tiles) + 4 for tiles in rows]
    page = Image.new("RGB", (side * len(names), head + sum(heights)), "white")
    draw = ImageDraw.Draw(page)
    for column, name in enumerate(names):
        draw.text((column * side + 4, 3), name, fill="black")
    for place, tiles in enumerate(rows):
        for column, tile in enumerate(tiles):
            page.paste(tile, (column * side, head + sum(heights[:place])))
    with atomic_path(args.sheet, force=args.force) as temporary:
        page.save(temporary, format="PNG")
