"""`scclip eval`: mIoU of a bundle on benchmarks, the demo scenes or a user's own masks; two bundles compared."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scclip_rt.cli.options import (
    add_backend_options,
    add_image_options,
    add_label_options,
    add_output_options,
    add_prompt_options,
    backend_settings,
    check_json_target,
    class_source,
    image_settings,
    tell,
    template_source,
    text_precision,
)
from scclip_rt.cli.parsers import Options, add_bundle, add_command
from scclip_rt.errors import OptionError
from scclip_rt.files import atomic_path, check_replaceable

if TYPE_CHECKING:
    from scclip_rt.evaluation import Dataset, Evaluation
    from scclip_rt.segmenter import Segmenter

_DESCRIPTION = """\
Measure segmentation: mIoU, accuracies and IoU per class, as mmsegmentation defines them.

datasets
  voc21 voc20          PASCAL VOC 2012, with and without background
  context60 context59  PASCAL Context, with and without background
  coco-object          the 80 things of COCO and background (see `scclip convert-coco-object`)
  coco-stuff           COCO-Stuff 164k, 171 classes
  cityscapes           19 classes
  ade20k               150 classes
  demo                 300 rendered scenes that the demo model was not trained on (extra opencv)
  folder               your own: --images DIR --masks DIR --classes FILE

Benchmarks are read from the folders that mmsegmentation documents, --root being any level of them, and run
with the published settings (short side, scale, thresholds); what you give here goes first. docs/evaluation.md
has the layouts, the settings and the definitions.
"""

_EPILOG = """\
examples:
  scclip eval demo --dataset demo --limit 50
  scclip eval vitb16.scclip --dataset voc21 --root data --resume voc21.state --json voc21.json
  scclip eval vitb16.scclip --dataset folder --images photos --masks masks --classes classes.txt
  scclip eval --compare vitb16.scclip@fp32 vitb16.scclip@int8 --dataset voc21 --root data --sheet int8.html
"""


def add_parser(subparsers: "argparse._SubParsersAction[Any]") -> None:
    """Register the command."""
    parser = add_command(
        subparsers, "eval", run, "measure mIoU, or compare two bundles", _DESCRIPTION, _EPILOG
    )
    add_bundle(parser, nargs="?")
    add_dataset_options(parser)
    _add_run_options(parser)
    add_image_options(parser, default="the benchmark's, else the bundle's")
    add_label_options(parser, default="the benchmark's, else the bundle's")
    add_backend_options(parser)
    add_output_options(parser, force=True)


def add_dataset_options(parser: argparse.ArgumentParser) -> None:
    """Which images and masks, and how many."""
    group = Options(parser, "dataset")
    group.text("--dataset", "NAME", "one of those above", required=True)
    group.file("--root", "DIR", "where a benchmark's files are")
    group.file(
        "--list",
        "FILE",
        "images to use instead of the validation split: a name per line, or JSON (a list, or COCO's images)",
    )
    group.number("--limit", "N", "only the first N images")
    group.file("--images", "DIR", "folder: the images")
    group.file("--masks", "DIR", "folder: a mask of the same name for each, grey or palette")
    group.number(
        "--ignore-label",
        "N",
        "folder: the label that does not count (default: 255, or 65535 above 255 classes)",
    )
    group.text(
        "--mask-values",
        "V,V,…",
        "folder: the masks' value of each class in turn, such as 0,255 (default: 0,1,2,…)",
        type=_values,
    )
    group.flag("--reduce-zero-label", "folder: label 0 does not count, 1 is the first class")
    group.text(
        "--classes",
        "FILE|NAMES",
        "classes in the order of the labels, synonyms after commas; benchmarks have lists of their own",
    )
    group.file("--classes-file", "FILE", "a file of them, whatever its name")
    group.text(
        "--background", "NAME", 'folder: the background class (default: "background", if there is one)'
    )
    add_prompt_options(group)
    group.flag("--no-cache", "neither read nor keep class embeddings on disk")


def _values(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"expected whole numbers with commas, such as 0,255; got {text!r}"
        ) from None


def _add_run_options(parser: argparse.ArgumentParser) -> None:
    group = Options(parser, "run")
    group.file(
        "--resume",
        "FILE",
        "keep what is counted in FILE, and go on from it if it exists: Ctrl-C costs nothing",
    )
    group.file("--plot", "FILE", "write a bar chart of IoU per class (PNG)")
    group.text(
        "--compare",
        ("A", "B"),
        "evaluate two bundles side by side; NAME.scclip@PRECISION picks a precision",
        nargs=2,
    )
    group.file("--sheet", "FILE", "with --compare: the images that differ most, as one HTML file")
    group.number("--worst", "N", "with --compare: images in the sheet (default: 12)")


def run(args: argparse.Namespace) -> int:
    """Evaluate or compare, as the command line says."""
    _check(args)
    dataset = open_from(args)
    return _evaluate(args, dataset) if args.compare is None else _compare(args, dataset)


def open_from(args: argparse.Namespace) -> "Dataset":
    """The data set that `add_dataset_options` describe."""
    from scclip_rt.evaluation import open_dataset

    return open_dataset(
        args.dataset,
        root=args.root,
        classes=class_source(args),
        names=args.list,
        images=args.images,
        masks=args.masks,
        ignore=args.ignore_label,
        values=args.mask_values,
        reduce_zero_label=args.reduce_zero_label,
        background=args.background,
    )


def _check(args: argparse.Namespace) -> None:
    """Refuse what does not go together, before any work.

    Raises:
        OptionError: says which options.
        OutputError: an output exists and there is no --force.
    """
    if (args.bundle is None) == (args.compare is None):
        raise OptionError("name one bundle, or two with --compare A B")
    if args.compare is None:
        for option, value in (("--sheet", args.sheet), ("--worst", args.worst)):
            if value is not None:
                raise OptionError(f"{option} goes with --compare A B")
    if args.compare is not None:
        for option, value in (("--resume", args.resume), ("--plot", args.plot)):
            if value is not None:
                raise OptionError(f"{option} goes with one bundle, not with --compare")
    if args.plot is not None:
        from scclip_rt.evaluation.chart import check_chart

        check_chart()
    check_json_target(args.json, force=args.force)
    for path in (args.plot, args.sheet):
        if path is not None:
            check_replaceable(path, force=args.force)


def _evaluate(args: argparse.Namespace, dataset: "Dataset") -> int:
    from scclip_rt.evaluation import evaluate, report

    segmenter = _segmenter(args, dataset, args.bundle, args.precision)
    result = evaluate(segmenter, dataset, limit=args.limit, resume=args.resume, progress=True)
    tell(report.document(result), report.table(result), args.json, force=args.force)
    if args.plot is not None:
        _plot(result, args.plot, force=args.force)
    return 0


def _compare(args: argparse.Namespace, dataset: "Dataset") -> int:
    from scclip_rt.evaluation import compare, report, sheet
    from scclip_rt.evaluation.compare import WORST

    pair = [_bundle_and_precision(name, args.precision) for name in args.compare]
    first, second = (_segmenter(args, dataset, bundle, precision) for bundle, precision in pair)
    worst = WORST if args.worst is None else args.worst
    result = compare(first, second, dataset, limit=args.limit, worst=worst, progress=True)
    names = (args.compare[0], args.compare[1])
    document = report.comparison_document(result)
    tell(document, report.comparison_table(result, names), args.json, force=args.force)
    if args.sheet is not None:
        with atomic_path(args.sheet, force=args.force) as temporary:
            temporary.write_text(sheet.sheet(result, names), "utf-8")
    return 0


def _segmenter(args: argparse.Namespace, dataset: "Dataset", bundle: str, precision: str) -> "Segmenter":
    from scclip_rt.evaluation import open_segmenter

    return open_segmenter(
        bundle,
        dataset,
        templates=template_source(args),
        **backend_settings(args) | {"precision": precision},
        **image_settings(args),
        text_precision=text_precision(args),
        cache=not args.no_cache,
        progress=True,
    )


def _bundle_and_precision(name: str, default: str) -> tuple[str, str]:
    """`NAME@PRECISION` to its parts, unless a bundle has just that name."""
    bundle, separator, precision = name.rpartition("@")
    if not separator or Path(name).exists():
        return name, default
    return bundle, precision


def _plot(result: "Evaluation", path: Path, *, force: bool) -> None:
    from scclip_rt.evaluation.chart import bar_chart

    scores = result.scores
    title = f"IoU per class, percent: {result.setup['bundle']['name']} on {result.dataset.title}"
    with atomic_path(path, force=force) as temporary:
        bar_chart(temporary, result.dataset.classes, scores.iou, scores.miou, title)
