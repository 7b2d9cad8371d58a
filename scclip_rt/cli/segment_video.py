"""`scclip segment` with a video or a camera."""

import argparse
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from scclip_rt.cli.parsers import Options
from scclip_rt.errors import OptionError, OutputError
from scclip_rt.files import check_replaceable
from scclip_rt.image.files import VIDEO_SUFFIXES

if TYPE_CHECKING:
    from scclip_rt.segmentation import Segmentation
    from scclip_rt.segmenter import Segmenter
    from scclip_rt.video import Frame, Reuse

_MASK_SUFFIX = ".mkv"
_OVERLAY_SUFFIXES = (".mkv", ".mp4")


class _Writer(Protocol):
    """What takes each frame's result."""

    def add(self, result: "Segmentation", frame: "Frame") -> None:
        """Write it."""
        ...


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options for videos and cameras."""
    group = Options(parser, "videos and cameras (docs/video.md)")
    group.flag(
        "--camera",
        "IMAGE is a live source: a camera's number, its device file, or an address such as rtsp://…; frames that "
        "come while one is in work are dropped for the newest; Ctrl-C ends it and keeps what was written",
    )
    group.number("--every", "N", "take each N-th frame of a video (default: 1)", default=1)
    group.number("--frames", "N", "stop after N frames (default: at the end)")
    group.text(
        "--reuse",
        "exact|off|N",
        "keep the features of windows that have not changed: in no pixel, or in none by more than N of 255 "
        "(default: exact, which changes no label)",
        default="exact",
    )
    group.file("--overlay", "FILE", "also write overlays as a video, .mp4 or .mkv")


def wanted(args: argparse.Namespace) -> bool:
    """Whether the command line names a video or a camera."""
    return bool(args.camera) or any(Path(image).suffix.lower() in VIDEO_SUFFIXES for image in args.images)


def check(args: argparse.Namespace) -> None:
    """Refuse what can't work, before the model is loaded.

    Raises:
        OptionError: options or inputs that don't go together.
        OutputError: an output exists and there is no --force.
    """
    if len(args.images) != 1:
        raise OptionError(f"one video at a time; got {', '.join(args.images)}")
    if args.skip_existing:
        raise OptionError("--skip-existing is for images; a video is written whole or not at all")
    if args.confidence and args.format != "npz":
        raise OptionError("--confidence of a video goes with --format npz")
    _reuse(args)
    if args.overlay is not None:
        if args.no_overlay:
            raise OptionError("--overlay FILE and --no-overlay contradict each other: give one of them")
        if args.overlay.suffix.lower() not in _OVERLAY_SUFFIXES:
            raise OptionError(f"--overlay writes {' or '.join(_OVERLAY_SUFFIXES)}; got {args.overlay}")
        check_replaceable(args.overlay, force=args.force)
    if _to_video(args):
        if args.format != "png":
            raise OptionError(
                f"a video of labels has no --format; give a folder as --output for {args.format}"
            )
        check_replaceable(args.output, force=args.force)
    elif args.output.exists() and not args.output.is_dir():
        raise OutputError(
            f"{args.output} is a file; --output names a folder, or a video of labels ({_MASK_SUFFIX})"
        )


def run(args: argparse.Namespace, segmenter: "Segmenter") -> list[dict[str, Any]]:
    """Segment the frames; rows of the report."""
    from tqdm import tqdm

    from scclip_rt.video import FrameSegmenter

    step, frames, start = FrameSegmenter(segmenter, reuse=_reuse(args)), 0, time.perf_counter()
    with ExitStack() as stack:
        source = stack.enter_context(_frames(args))
        writers: list[_Writer] = [stack.enter_context(_label_writer(args, segmenter))]
        if args.overlay is not None:
            from scclip_rt.video import OverlayVideo

            writers.append(stack.enter_context(OverlayVideo(args.overlay, force=args.force)))
        bar = stack.enter_context(tqdm(unit="frame", desc="segmenting", file=sys.stderr))
        try:
            for frame in islice(source, args.frames):
                result = step(frame.image, confidence=args.confidence)
                for writer in writers:
                    writer.add(result, frame)
                frames += 1
                bar.update()
        except KeyboardInterrupt:
            if not args.camera:
                raise  # a camera ends so, and what was written stays
    return [
        {
            "input": args.images[0],
            "labels": str(args.output),
            "overlay": None if args.overlay is None else str(args.overlay),
            "frames": frames,
            "windows": {"encoded": step.encoded, "kept": step.kept},
            "seconds": round(time.perf_counter() - start, 3),
        }
    ]


@contextmanager
def _frames(args: argparse.Namespace) -> "Iterator[Iterator[Frame]]":
    from scclip_rt.video import LatestFrames, read_frames

    (source,) = args.images
    if not args.camera:
        yield read_frames(source, every=args.every)
        return
    source = f"/dev/video{source}" if source.isdecimal() else source
    with LatestFrames(read_frames(source, every=args.every)) as frames:
        yield frames


def _label_writer(args: argparse.Namespace, segmenter: "Segmenter") -> Any:
    """A context with a `_Writer`."""
    from scclip_rt.video import MaskVideo

    if _to_video(args):
        return MaskVideo(args.output, segmenter.vocabulary.classes, force=args.force)
    return _frame_files(args, segmenter)


@contextmanager
def _frame_files(args: argparse.Namespace, segmenter: "Segmenter") -> "Iterator[_Writer]":
    """Each frame's labels as a file, or all in one, as --format says."""
    from scclip_rt.formats import ClassTable, FormatWriter, ImageName, open_writer

    stem = "camera" if args.camera else Path(args.images[0]).stem
    vocabulary = segmenter.vocabulary

    class Files:
        def __init__(self, writer: FormatWriter) -> None:
            self._writer = writer

        def add(self, result: "Segmentation", frame: "Frame") -> None:
            name = f"{stem}.{frame.number:06d}"
            self._writer.add(result, ImageName(stem=name, file=f"{name}.png"))

    table = ClassTable(names=vocabulary.classes, background=vocabulary.background)
    with open_writer(args.format, args.output, table, force=args.force) as writer:
        yield Files(writer)


def _to_video(args: argparse.Namespace) -> bool:
    return bool(args.output.suffix.lower() == _MASK_SUFFIX)


def _reuse(args: argparse.Namespace) -> "Reuse":
    if args.reuse in ("exact", "off"):
        return args.reuse  # type: ignore[no-any-return]
    if args.reuse.isdecimal() and int(args.reuse) <= 255:
        return int(args.reuse)
    raise OptionError(f"--reuse is exact, off or a number from 0 to 255; got {args.reuse!r}")
