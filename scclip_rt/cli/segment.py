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
from scclip_rt.cli.inputs import InputImage, find_inputs, output_names
from scclip_rt.cli.notes import tell_names_that_demo_does_not_know
from scclip_rt.cli.options import (
    add_backend_options,
    add_class_options,
    add_image_options,
    add_label_options,
    add_output_options,
    check_json_target,
    class_settings,
    segmenter_options,
    write_json,
)
from scclip_rt.cli.parsers import Options, add_bundle, add_command
from scclip_rt.errors import ImageError, OptionError, OutputError, printable
from scclip_rt.files import atomic_path, check_replaceable
from scclip_rt.formats import FORMATS, ClassTable, FormatWriter, ImageName, open_writer
from scclip_rt.image.files import skipped_words
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
  STEM.overlay.png     the image under the classes' colours, with a legend, at most 1600 pixels
                       on the long side (not with --no-overlay)
  STEM.confidence.png  with --confidence: the probability of each pixel's class, 0..255
Folders are searched through, and their sub-folders are kept in the output. Two images of one name
keep their suffix (STEM.jpg.labels.png). Outputs that exist stop the command before any work, unless
--force or --skip-existing is given. An image that can't be read does not stop the others; the exit
code is then 2.

--format writes labels for other tools instead: docs/formats.md. Videos, cameras (docs/video.md) and
georeferenced rasters of any size (docs/rasters.md) are taken, too.
"""

_EPILOG = """\
examples:
  scclip segment vitb16.scclip photo.jpg --classes "sky; grass, lawn; dog, puppy" --output out
  scclip segment vitb16.scclip photos/ --classes voc.txt --output out --json=out/report.json
  scclip segment vitb16.scclip photos/ --vocabulary voc.safetensors --output out --skip-existing
  scclip segment vitb16.scclip photo.jpg --classes voc.txt --output out --refine pamr --confidence
  scclip segment vitb16.scclip photos/ --classes voc.txt --output out --format coco
  camera-still | scclip segment demo - -o out
  scclip segment vitb16.scclip film.mp4 --classes voc.txt --output film.masks.mkv --overlay show.mp4
  scclip segment vitb16.scclip big.tif --classes voc.txt --output out --polygons out/big.gpkg
"""


def add_parser(subparsers: "argparse._SubParsersAction[Any]") -> None:
    """Register the command."""
    parser = add_command(
        subparsers, "segment", run, "segment images, videos and rasters", _DESCRIPTION, _EPILOG
    )
    add_bundle(parser)
    options = Options(parser)
    options.text(
        "images", "IMAGE", "image files, folders, - for standard input; or a video, or rasters", nargs="+"
    )
    options.file(
        "--output -o",
        "DIR",
        "folder for the results, made if missing; for a video also a file, NAME.mkv",
        required=True,
    )
    add_class_options(parser, vocabulary=True)
    _add_image_options(parser)
    _add_label_options(parser)
    segment_video.add_options(parser)
    segment_raster.add_options(parser)
    add_backend_options(parser)
    add_output_options(parser, force=True)


def _add_image_options(parser: argparse.ArgumentParser) -> None:
    group = add_image_options(parser)
    group.choice(
        "--mode",
        ["auto", "latency", "throughput"],
        "latency: one image after the other, each on all threads; throughput: batches filled across images, while "
        "others are read and decoded (default: auto, throughput for several images)",
        default="auto",
    )
    group.flag(
        "--skip-existing", "leave out images whose outputs are all there: goes on with an interrupted run"
    )
    group.flag("--fail-fast", "stop at the first image that can't be read")
    group.flag("--list-skipped", "name the files of a folder that were passed over")


def _add_label_options(parser: argparse.ArgumentParser) -> None:
    group = add_label_options(parser)
    group.flag("--confidence", "also write STEM.confidence.png")
    group.flag("--no-overlay", "leave out STEM.overlay.png, which takes most of the writing")
    group.text(
        "--format",
        "FORMAT",
        f"what to write: {', '.join(FORMATS)} (docs/formats.md; default: png, with an overlay)",
        choices=list(FORMATS),
        default="png",
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

    @property
    def is_done(self) -> bool:
        """Whether every file is there; each is written whole or not at all."""
        return all(path.is_file() for path in self.outputs)


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What a command line comes to: images to segment, images that are done, files that are no images."""

    tasks: list[Task]
    existing: list[Task]
    skipped: list[tuple[Path, str]]


def run(args: argparse.Namespace) -> int:
    """Segment what the command line names."""
    started = time.perf_counter()
    other = next((kind for kind in (segment_video, segment_raster) if kind.wanted(args)), None)
    if other is not None:
        other.check(args)
        check_json_target(args.json, force=args.force)
        segmenter = _segmenter(args)
        work = Work(tasks=[], existing=[], skipped=[])
        return _tell(segmenter, other.run(args, segmenter), work, args, time.perf_counter() - started)
    work = plan(args)
    segmenter = _segmenter(args)
    rows: list[dict[str, Any]] = []
    try:
        for row in _rows(segmenter, work.tasks, args):
            rows.append(row)  # noqa: PERF402 (what is done when the rest fails must be there)
    except BaseException:
        if rows and args.json is not None:
            write_json(_report(segmenter, rows, work), args.json, force=args.force)
        raise
    return _tell(segmenter, rows, work, args, time.perf_counter() - started)


def _rows(segmenter: "Segmenter", tasks: list[Task], args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Segment and write image by image; a row of the report for each."""
    pairs = zip(tasks, _outcomes(segmenter, tasks, args), strict=True)
    with _progress(len(tasks)) as advance, _format_writer(segmenter, args) as writer:
        # Overlays of large photos take as long as their labels: painted and written while the next ones are segmented.
        # Formats that hold all images in one file take them in order.
        def finish(pair: "tuple[Task, Outcome[Any, Segmentation]]") -> dict[str, Any]:
            return _finish(*pair, args, writer)

        checked = _checked(pairs, stop=args.fail_fast or len(tasks) == 1)
        for row in map(finish, checked) if writer else map_ahead(finish, checked):
            yield row
            advance()


@contextmanager
def _format_writer(segmenter: "Segmenter", args: argparse.Namespace) -> "Iterator[FormatWriter | None]":
    """What writes the labels in another format than PNG with an overlay."""
    if args.format == "png":
        yield None
        return
    vocabulary = segmenter.vocabulary
    table = ClassTable(names=vocabulary.classes, background=vocabulary.background)
    force = args.force or args.skip_existing
    with open_writer(args.format, args.output, table, force=force) as writer:
        yield writer


def _tell(
    segmenter: "Segmenter", rows: list[dict[str, Any]], work: Work, args: argparse.Namespace, seconds: float
) -> int:
    """Write the report and say what was done, last in one sentence; the exit code."""
    if args.json is not None:
        write_json(_report(segmenter, rows, work), args.json, force=args.force)
    if args.json != "-":
        if len(rows) == 1 and "error" not in rows[0]:
            _print_one(rows[0])
        for skipped, reason in work.skipped if args.list_skipped else ():
            print(f"skipped {printable(str(skipped))}: {reason}")
        print(_sentence(work, rows, segmenter.backend.describe(), args, seconds))
    return 2 if any("error" in row for row in rows) else 0


def _sentence(
    work: Work, rows: list[dict[str, Any]], info: "BackendInfo", args: argparse.Namespace, seconds: float
) -> str:
    failed = sum("error" in row for row in rows)
    done = len(rows) - failed
    threads = f"{info['threads']} thread{'s' if info['threads'] != 1 else ''}"
    device = info["device"] if info["device"] != "cpu" else f"the CPU with {threads}"
    what = f"{done:,} image{'s' if done != 1 else ''}"
    if not work.tasks and not work.existing:
        what = ", ".join(args.images)  # a video or rasters
    parts = [
        f"Segmented {printable(what)} into {args.output} in {seconds:.1f} s, in {info['precision']} by "
        f"{info['backend']} {info['version']} on {device}"
    ]
    if failed:
        parts.append(f"{failed:,} could not be read")
    if work.existing:
        parts.append(f"{len(work.existing):,} {'were' if len(work.existing) != 1 else 'was'} there already")
    if work.skipped:
        parts.append(
            skipped_words(len(work.skipped)) + ("" if args.list_skipped else " (--list-skipped names them)")
        )
    elif len(work.tasks) > 1:
        parts.append("no file was skipped")
    return "; ".join(parts) + "."


def plan(args: argparse.Namespace) -> Work:
    """Which files will be written, all checked before any work is done.

    Raises:
        ImageError: an input does not exist.
        OptionError: options that exclude each other.
        OutputError: an output exists and there is neither --force nor --skip-existing.
    """
    if args.force and args.skip_existing:
        raise OptionError("--force writes outputs again and --skip-existing does not: give one of them")
    if args.skip_existing and FORMATS[args.format].run_files:
        raise OptionError(
            f"--format {args.format} holds all images in one file, so --skip-existing has nothing to go by"
        )
    if args.confidence and args.format not in ("png", "npz"):
        raise OptionError(f"--confidence goes with --format png or npz, not {args.format}")
    inputs, kind = find_inputs(args.images), FORMATS[args.format]
    alone = args.format == "png"
    tasks = []
    for image, name in zip(inputs.images, output_names(inputs.images), strict=True):
        task = Task(
            image=image,
            name=name,
            labels=args.output / (*kind.image_files, *kind.run_files)[0].format(stem=name),
            overlay=args.output / f"{name}.overlay.png" if alone and not args.no_overlay else None,
            confidence=args.output / f"{name}.confidence.png" if alone and args.confidence else None,
        )
        tasks.append(task)
    for file in kind.run_files:
        check_replaceable(args.output / file, force=args.force)
    if args.output.exists() and not args.output.is_dir():
        raise OutputError(f"{args.output} is a file; --output names a folder", field="output")
    existing = [task for task in tasks if args.skip_existing and task.is_done]
    tasks = [task for task in tasks if not (args.skip_existing and task.is_done)]
    for task in tasks:
        for path in task.outputs:
            check_replaceable(path, force=args.force or args.skip_existing)
    check_json_target(args.json, force=args.force)
    return Work(tasks=tasks, existing=existing, skipped=inputs.skipped)


def _segmenter(args: argparse.Namespace) -> "Segmenter":
    from scclip_rt.bundle.bundle import Bundle
    from scclip_rt.segmenter import Segmenter

    bundle = Bundle.open(args.bundle)
    segmenter = Segmenter(bundle, **class_settings(args, bundle), **segmenter_options(args), progress=True)
    tell_names_that_demo_does_not_know(bundle, segmenter.vocabulary)
    return segmenter


def _outcomes(
    segmenter: "Segmenter", tasks: Sequence[Task], args: argparse.Namespace
) -> "Iterator[Outcome[Any, Segmentation]]":
    sources = [_standard_input() if task.image.is_standard_input else task.image.path for task in tasks]
    if args.mode == "throughput" or (args.mode == "auto" and len(sources) > 1):
        return segmenter.outcomes(sources, confidence=args.confidence)
    return (segmenter.outcome(source, confidence=args.confidence) for source in sources)


def _standard_input() -> bytes:
    data = sys.stdin.buffer.read() if sys.stdin is not None else b""
    if not data:
        raise ImageError("no image on standard input (the image named -)", field="image")
    return data


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
    pairs: "Iterable[tuple[Task, Outcome[Any, Segmentation]]]", *, stop: bool
) -> "Iterator[tuple[Task, Outcome[Any, Segmentation]]]":
    """Stop at an error that is not to be passed over: nothing after it is written."""
    for task, outcome in pairs:
        if stop or not isinstance(outcome.error, ImageError):
            outcome.unwrap()
        yield task, outcome


def _finish(
    task: Task, outcome: "Outcome[Any, Segmentation]", args: argparse.Namespace, writer: FormatWriter | None
) -> dict[str, Any]:
    """Write an image's results; a row of the report."""
    if outcome.result is None:
        error = outcome.error
        code = error.code if isinstance(error, ImageError) else type(error).__name__
        print(f"scclip: error: {printable(str(error))} [{code}]", file=sys.stderr)
        return {"input": str(task.image.path), "error": str(error), "code": code}
    start = time.perf_counter()
    result = outcome.result
    if writer is None:
        _save(result, task, force=args.force or args.skip_existing)
    else:
        path = None if task.image.is_standard_input else task.image.path.absolute()
        writer.add(result, ImageName(stem=task.name, file=task.image.relative.as_posix(), path=path))
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
        print(f"  {100 * share:5.1f} %  {printable(name)}")


def _save(result: "Segmentation", task: Task, *, force: bool) -> None:
    """All of an image's files or none."""
    folder, stem = task.labels.parent, Path(task.name).name
    if task.confidence is None or result.confidence is None:
        result.save(folder, stem, overlay=task.overlay is not None, force=force)
        return
    with atomic_path(task.confidence, force=force) as temporary:
        grey = (result.confidence * 255 + 0.5).astype("uint8")
        temporary.write_bytes(encode_png(grey))
        result.save(folder, stem, overlay=task.overlay is not None, force=force)


def _report(segmenter: "Segmenter", rows: list[dict[str, Any]], work: Work) -> dict[str, Any]:
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
        "failed": [row["input"] for row in rows if "error" in row],
        "existing": [str(task.image.path) for task in work.existing],
        "skipped": [{"file": str(path), "reason": reason} for path, reason in work.skipped],
    }
