"""`scclip eval`: mIoU of a bundle on benchmarks, the demo scenes or a user's own masks; two bundles compared."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scclip_rt.cli.image_options import add_image_options, add_label_options, image_settings, number
from scclip_rt.cli.options import (
    add_backend_options,
    add_output_options,
    check_json_target,
    class_source,
    template_source,
    write_json,
)
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
  demo                 300 rendered scenes that the demo model was not trained on; needs no files
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
    parser = subparsers.add_parser(
        "eval",
        help="measure mIoU, or compare two bundles",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "bundle", metavar="BUNDLE", nargs="?", help="bundle directory, or demo for the packaged one"
    )
    add_dataset_options(parser)
    _add_run_options(parser)
    add_image_options(parser, default="the benchmark's, else the bundle's")
    add_label_options(parser, default="the benchmark's, else the bundle's")
    add_backend_options(parser)
    add_output_options(parser, force=True)
    parser.set_defaults(run=run)


def add_dataset_options(parser: argparse.ArgumentParser) -> None:
    """Which images and masks, and how many."""
    group = parser.add_argument_group("dataset")
    group.add_argument("--dataset", metavar="NAME", required=True, help="one of those above")
    group.add_argument("--root", metavar="DIR", type=Path, help="where a benchmark's files are")
    group.add_argument(
        "--list",
        metavar="FILE",
        type=Path,
        help="images to use instead of the validation split: a name per line, or JSON (a list, or COCO's images)",
    )
    group.add_argument("--limit", metavar="N", type=number("limit"), help="only the first N images")
    group.add_argument("--images", metavar="DIR", type=Path, help="folder: the images")
    group.add_argument(
        "--masks", metavar="DIR", type=Path, help="folder: a mask of the same name for each, grey or palette"
    )
    group.add_argument(
        "--ignore-label",
        metavar="N",
        type=number("ignore_label"),
        help="folder: the label that does not count (default: 255, or 65535 above 255 classes)",
    )
    group.add_argument(
        "--mask-values",
        metavar="V,V,…",
        type=_values,
        help="folder: the masks' value of each class in turn, such as 0,255 (default: 0,1,2,…)",
    )
    group.add_argument(
        "--reduce-zero-label",
        action="store_true",
        help="folder: label 0 does not count, 1 is the first class",
    )
    group.add_argument(
        "--classes",
        metavar="FILE|NAMES",
        help="classes in the order of the labels, synonyms after commas; benchmarks have lists of their own",
    )
    group.add_argument("--classes-file", metavar="FILE", type=Path, help="a file of them, whatever its name")
    group.add_argument(
        "--background",
        metavar="NAME",
        help='folder: the background class (default: "background", if there is one)',
    )
    group.add_argument(
        "--templates",
        metavar="NAME|FILE",
        help="prompts around each name (default: imagenet)",
    )
    group.add_argument(
        "--no-cache", action="store_true", help="neither read nor keep class embeddings on disk"
    )


def _values(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"expected whole numbers with commas, such as 0,255; got {text!r}"
        ) from None


def _add_run_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("run")
    group.add_argument(
        "--resume",
        metavar="FILE",
        type=Path,
        help="keep what is counted in FILE, and go on from it if it exists: Ctrl-C costs nothing",
    )
    group.add_argument("--plot", metavar="FILE", type=Path, help="write a bar chart of IoU per class (PNG)")
    group.add_argument(
        "--compare",
        metavar=("A", "B"),
        nargs=2,
        help="evaluate two bundles side by side; NAME.scclip@PRECISION picks a precision",
    )
    group.add_argument(
        "--sheet",
        metavar="FILE",
        type=Path,
        help="with --compare: the images that differ most, as one HTML file",
    )
    group.add_argument(
        "--worst",
        metavar="N",
        type=number("worst"),
        default=12,
        help="images in the sheet (default: %(default)s)",
    )


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
    if args.compare is None and args.sheet is not None:
        raise OptionError("--sheet goes with --compare A B")
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
    if args.json is not None:
        write_json(report.document(result), args.json, force=args.force)
    if args.plot is not None:
        _plot(result, args.plot, force=args.force)
    if args.json != "-":
        print(report.table(result))
    return 0


def _compare(args: argparse.Namespace, dataset: "Dataset") -> int:
    from scclip_rt.evaluation import compare, report, sheet

    pair = [_bundle_and_precision(name, args.precision) for name in args.compare]
    first, second = (_segmenter(args, dataset, bundle, precision) for bundle, precision in pair)
    result = compare(first, second, dataset, limit=args.limit, worst=args.worst, progress=True)
    if args.json is not None:
        write_json(report.comparison_document(result), args.json, force=args.force)
    if args.sheet is not None:
        _write_text(sheet.sheet(result, (args.compare[0], args.compare[1])), args.sheet, force=args.force)
    if args.json != "-":
        print(report.comparison_table(result, (args.compare[0], args.compare[1])))
    return 0


def _segmenter(args: argparse.Namespace, dataset: "Dataset", bundle: str, precision: str) -> "Segmenter":
    from scclip_rt.evaluation import open_segmenter

    return open_segmenter(
        bundle,
        dataset,
        templates=template_source(args),
        backend=args.backend,
        device=args.device,
        precision=precision,
        ort_provider=args.ort_provider,
        threads=args.threads,
        batch=args.batch,
        **image_settings(args),
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


def _write_text(text: str, path: Path, *, force: bool) -> None:
    with atomic_path(path, force=force) as temporary:
        temporary.write_text(text, "utf-8")
