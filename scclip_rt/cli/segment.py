"""`scclip segment`: images, videos and rasters in, label maps and overlays out."""

import argparse
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scclip_rt.cli import segment_raster, segment_video
from scclip_rt.cli.inputs import InputImage, find_images, output_names
from scclip_rt.cli.options import (
    add_backend_options,
    add_class_options,
    add_image_options,
    add_label_options,
    add_output_options,
    check_json_target,
    segmenter_options,
    write_json,
)
from scclip_rt.errors import ImageError, OptionError, OutputError
from scclip_rt.files import atomic_path, check_replaceable
from scclip_rt.formats import FORMATS, ClassTable, FormatWriter, ImageName, open_writer
from scclip_rt.image.png import encode_png
from scclip_rt.stream import map_ahead

if TYPE_CHECKING:
    from scclip_rt.backends import BackendInfo
    from scclip_rt.segmentation import Segmentation
    from scclip_rt.segmenter import Segmenter
    from scclip_rt.stream import Outcome

_DESCRIPTION = """\
Segment images: every pixel gets the class whose name fits it best.

For each image this writes into the output folder
  STEM.labels.png      class numbers, from 0 in the order of the classes; the highest value
                       (255, or 65535 above 254 classes) means unlabelled
  STEM.overlay.png     the image under the classes' colours, with a legend
  STEM.confidence.png  with --confidence: the probability of each pixel's class, 0..255
Images of the same stem keep their suffix in the name (STEM.jpg.labels.png), so that none is
overwritten. Folders are searched through. Outputs that exist stop the command before any work,
unless --force is given.

--format writes labels for other tools instead: docs/formats.md. Videos, cameras (docs/video.md) and
georeferenced rasters of any size (docs/rasters.md) are taken, too.
"""

_EPILOG = """\
examples:
  scclip segment vitb16.scclip photo.jpg --classes "sky; grass, lawn; dog, puppy" --output out
  scclip segment vitb16.scclip photos/ --classes voc.txt --output out --json=out/report.json
  scclip segment vitb16.scclip photos/ --vocabulary voc.safetensors --output out --keep-going
  scclip segment vitb16.scclip photo.jpg --classes voc.txt --output out --refine pamr --confidence
  scclip segment vitb16.scclip photos/ --classes voc.txt --output out --format coco
  scclip segment vitb16.scclip film.mp4 --classes voc.txt --output film.masks.mkv --overlay show.mp4
  scclip segment vitb16.scclip big.tif --classes voc.txt --output out --polygons out/big.gpkg
"""


def add_parser(subparsers: "argparse._SubParsersAction[Any]") -> None:
    """Register the command."""
    parser = subparsers.add_parser(
        "segment",
        help="segment images, videos and rasters",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("bundle", metavar="BUNDLE", help="bundle directory, or demo for the packaged one")
    parser.add_argument(
        "images", metavar="IMAGE", nargs="+", help="image files, and folders of them; or a video, or rasters"
    )
    parser.add_argument(
        "--output",
        metavar="DIR",
        type=Path,
        required=True,
        help="folder for the results, made if missing; for a video also a file, NAME.mkv",
    )
    add_class_options(parser, vocabulary=True)
    _add_image_options(parser)
    _add_label_options(parser)
    segment_video.add_options(parser)
    segment_raster.add_options(parser)
    add_backend_options(parser)
    add_output_options(parser, force=True)
    parser.set_defaults(run=run)


def _add_image_options(parser: argparse.ArgumentParser) -> None:
    group = add_image_options(parser)
    group.add_argument(
        "--mode",
        choices=["auto", "latency", "throughput"],
        default="auto",
        help="latency: one image after the other, each on all threads; throughput: batches filled across images, while "
        "others are read and decoded (default: auto, throughput for several images)",
    )
    group.add_argument(
        "--keep-going",
        action="store_true",
        help="go on after an image that can't be read; the exit code is 2 all the same",
    )


def _add_label_options(parser: argparse.ArgumentParser) -> None:
    group = add_label_options(parser)
    group.add_argument("--confidence", action="store_true", help="also write STEM.confidence.png")
    group.add_argument(
        "--format",
        metavar="FORMAT",
        choices=list(FORMATS),
        default="png",
        help=f"what to write: {', '.join(FORMATS)} (docs/formats.md; default: png, with an overlay)",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One image and the files it is to become; `labels` holds all images in some formats."""

    image: InputImage
    name: str
    labels: Path
    overlay: Path | None
    confidence: Path | None

    @property
    def outputs(self) -> tuple[Path, ...]:
        """Every file that will be written."""
        return tuple(path for path in (self.labels, self.overlay, self.confidence) if path is not None)


def run(args: argparse.Namespace) -> int:
    """Segment what the command line names."""
    other = next((kind for kind in (segment_video, segment_raster) if kind.wanted(args)), None)
    if other is not None:
        other.check(args)
        check_json_target(args.json, force=args.force)
        segmenter = _segmenter(args)
        return _tell(segmenter, other.run(args, segmenter), args)
    tasks = plan(args)
    segmenter = _segmenter(args)
    rows: list[dict[str, Any]] = []
    pairs = zip(tasks, _outcomes(segmenter, tasks, args), strict=True)
    with _progress(len(tasks)) as advance, _format_writer(segmenter, args) as writer:
        # Overlays of large photos take as long as their labels: painted and written while the next ones are segmented.
        # Formats that hold all images in one file take them in order.
        def finish(pair: "tuple[Task, Outcome[Any, Segmentation]]") -> dict[str, Any]:
            return _finish(*pair, args, writer)

        checked = _checked(pairs, args)
        for row in map(finish, checked) if writer else map_ahead(finish, checked):
            rows.append(row)
            advance()
    return _tell(segmenter, rows, args)


@contextmanager
def _format_writer(segmenter: "Segmenter", args: argparse.Namespace) -> "Iterator[FormatWriter | None]":
    """What writes the labels in another format than PNG with an overlay."""
    if args.format == "png":
        yield None
        return
    vocabulary = segmenter.vocabulary
    table = ClassTable(names=vocabulary.classes, background=vocabulary.background)
    with open_writer(args.format, args.output, table, force=args.force) as writer:
        yield writer


def _tell(segmenter: "Segmenter", rows: list[dict[str, Any]], args: argparse.Namespace) -> int:
    """Write the report and say what was done; the exit code."""
    if len(rows) == 1 and "error" not in rows[0] and args.json != "-":
        _print_one(rows[0])
    failed = sum("error" in row for row in rows)
    if args.json is not None:
        write_json(_report(segmenter, rows), args.json, force=args.force)
    if args.json != "-":
        if len(rows) > 1:
            print(f"{len(rows) - failed} of {len(rows)} images written to {args.output}")
        print(_encoded_by(segmenter.backend.describe()))
    return 2 if failed else 0


def plan(args: argparse.Namespace) -> list[Task]:
    """Which files will be written, all checked before any work is done.

    Raises:
        ImageError: an input does not exist.
        OutputError: an output exists and there is no --force.
    """
    if args.confidence and args.format not in ("png", "npz"):
        raise OptionError(f"--confidence goes with --format png or npz, not {args.format}")
    images, kind = find_images(args.images), FORMATS[args.format]
    alone = args.format == "png"
    tasks = []
    for image, name in zip(images, output_names(images), strict=True):
        task = Task(
            image=image,
            name=name,
            labels=args.output / (*kind.image_files, *kind.run_files)[0].format(stem=name),
            overlay=args.output / f"{name}.overlay.png" if alone else None,
            confidence=args.output / f"{name}.confidence.png" if alone and args.confidence else None,
        )
        tasks.append(task)
    for file in kind.run_files:
        check_replaceable(args.output / file, force=args.force)
    if args.output.exists() and not args.output.is_dir():
        raise OutputError(f"{args.output} is a file; --output names a folder")
    for task in tasks:
        for path in task.outputs:
            check_replaceable(path, force=args.force)
    check_json_target(args.json, force=args.force)
    return tasks


def _segmenter(args: argparse.Namespace) -> "Segmenter":
    from scclip_rt.bundle.bundle import Bundle
    from scclip_rt.segmenter import Segmenter

    bundle = Bundle.open(args.bundle)
    if args.classes is None and args.vocabulary is None and not bundle.manifest.vocabularies:
        raise OptionError(
            "no classes: pass --classes FILE|NAMES or --vocabulary FILE "
            f"({bundle.path} carries no vocabulary of its own)"
        )
    return Segmenter(
        bundle,
        classes=args.classes,
        vocabulary=args.vocabulary,
        templates=args.templates,
        background=args.background,
        **segmenter_options(args),
        cache=not args.no_cache,
        progress=True,
    )


def _outcomes(
    segmenter: "Segmenter", tasks: Sequence[Task], args: argparse.Namespace
) -> "Iterator[Outcome[Any, Segmentation]]":
    paths = [task.image.path for task in tasks]
    if args.mode == "throughput" or (args.mode == "auto" and len(paths) > 1):
        return segmenter.outcomes(paths, confidence=args.confidence)
    return (segmenter.outcome(path, confidence=args.confidence) for path in paths)


@contextmanager
def _progress(total: int) -> "Iterator[Callable[[], object]]":
    """A bar for several images; what is given advances it."""
    if total == 1:
        yield lambda: None
        return
    from tqdm import tqdm

    with tqdm(total=total, unit="image", desc="segmenting", file=sys.stderr) as bar:
        yield bar.update


def _checked(
    pairs: "Iterable[tuple[Task, Outcome[Any, Segmentation]]]", args: argparse.Namespace
) -> "Iterator[tuple[Task, Outcome[Any, Segmentation]]]":
    """Stop at an error that is not to be passed over: nothing after it is written."""
    for task, outcome in pairs:
        if not (args.keep_going and isinstance(outcome.error, ImageError)):
            outcome.unwrap()
        yield task, outcome


def _finish(
    task: Task, outcome: "Outcome[Any, Segmentation]", args: argparse.Namespace, writer: FormatWriter | None
) -> dict[str, Any]:
    """Write an image's results; a row of the report."""
    if outcome.result is None:
        print(f"scclip: error: {outcome.error}", file=sys.stderr)
        return {"input": str(task.image.path), "error": str(outcome.error)}
    start = time.perf_counter()
    result = outcome.result
    if writer is None:
        _save(result, task, force=args.force)
    else:
        relative = task.image.relative.as_posix()
        writer.add(result, ImageName(stem=task.name, file=relative, path=task.image.path.absolute()))
    seconds = {
        "prepare": outcome.timings.prepare,
        "encode": outcome.timings.encode,
        "decode": outcome.timings.decode,
        "write": time.perf_counter() - start,
    }
    return {
        "input": str(task.image.path),
        "labels": str(task.labels),
        "overlay": None if task.overlay is None else str(task.overlay),
        "confidence": None if task.confidence is None else str(task.confidence),
        "height": result.labels.shape[0],
        "width": result.labels.shape[1],
        "shares": {name: round(share, 6) for name, share in result.shares().items()},
        "seconds": {stage: round(value, 6) for stage, value in seconds.items()},
    }


def _print_one(row: dict[str, Any]) -> None:
    for path in map(row.get, ("labels", "overlay", "confidence", "polygons")):
        if path is not None:
            print(path)
    for name, share in row.get("shares", {}).items():
        print(f"  {100 * share:5.1f} %  {name}")


def _encoded_by(info: "BackendInfo") -> str:
    threads = f"{info['threads']} thread{'s' if info['threads'] != 1 else ''}"
    device = info["device"] if info["device"] != "cpu" else f"the CPU, {threads}"
    return f"encoded by {info['backend']} {info['version']} in {info['precision']} on {device} ({info['reason']})"


def _save(result: "Segmentation", task: Task, *, force: bool) -> None:
    """All of an image's files or none."""
    folder, stem = task.labels.parent, task.name
    if task.confidence is None or result.confidence is None:
        result.save(folder, stem, force=force)
        return
    with atomic_path(task.confidence, force=force) as temporary:
        grey = (result.confidence * 255 + 0.5).astype("uint8")
        temporary.write_bytes(encode_png(grey))
        result.save(folder, stem, force=force)


def _report(segmenter: "Segmenter", rows: list[dict[str, Any]]) -> dict[str, Any]:
    from dataclasses import asdict

    bundle, vocabulary = segmenter.bundle, segmenter.vocabulary
    return {
        "schema": "scclip-segment/1",
        "bundle": {
            "path": str(bundle.path),
            "name": bundle.name,
            "checkpoint": bundle.model.checkpoint_sha256,
        },
        "backend": segmenter.backend.describe(),
        "options": asdict(segmenter.options),
        "classes": list(vocabulary.classes),
        "background": vocabulary.background,
        "images": rows,
    }
