"""`scclip tune`: measure how a bundle runs best on this machine, and remember it."""

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scclip_rt.cli.notes import note
from scclip_rt.cli.options import add_output_options, check_json_target, tell
from scclip_rt.cli.parsers import Options, add_bundle, add_command
from scclip_rt.errors import printable

if TYPE_CHECKING:
    from scclip_rt.backends.tuned import Measured
    from scclip_rt.bench.tune import Candidate
    from scclip_rt.bundle.bundle import Bundle

_DESCRIPTION = """\
Measure the ways to run a bundle on this processor, in under a minute, and remember the fastest: precision,
library (ONNX Runtime, OpenVINO), number of threads, windows at once. First a correctness gate: what is further from
float32 than its precision allows is not timed.

From then on --precision fast, --precision auto, and a precision that is named take what was measured, in every
command, in Python and in C++; what is named otherwise (--backend, --threads, --batch) stays as it is named.
The answer is one small file in the cache folder. It counts for this bundle, this kind of processor, this number of
cores, and these versions of the libraries; else it is not used, and `scclip inspect` says why.
"""

_EPILOG = """\
examples:
  scclip tune vitb16.scclip
  scclip segment vitb16.scclip photo.jpg --classes "sky; grass; dog" --precision fast
  scclip inspect vitb16.scclip          # what would run here, and why
  scclip cache --clear tuned            # forget every answer
"""


def add_parser(subparsers: "argparse._SubParsersAction[Any]") -> None:
    """Register the command."""
    parser = add_command(
        subparsers,
        "tune",
        run,
        "find what runs a bundle fastest here, and remember it",
        _DESCRIPTION,
        _EPILOG,
    )
    add_bundle(parser)
    Options(parser).number(
        "--seconds", "N", "begin nothing new after so long (default: %(default)g)", default=50.0
    )
    add_output_options(parser, force=True)


def run(args: argparse.Namespace) -> int:
    """Measure, remember, print."""
    from scclip_rt.backends.tuned import writable_file, write_tuned
    from scclip_rt.bench.load import NOTABLE, LoadMark
    from scclip_rt.bench.tune import Tuner
    from scclip_rt.bundle.bundle import Bundle
    from scclip_rt.files import exclusive

    check_json_target(args.json, force=args.force)
    bundle = Bundle.open(args.bundle)
    folder = writable_file(bundle).parent
    busy = "another scclip tune is measuring on this machine: wait until it is done, else both measure each other"
    with exclusive(folder, busy):
        before = LoadMark.now(time.process_time())
        tuner = Tuner(bundle, seconds=args.seconds, progress=_progress)
        rows = tuner.run()
        others = LoadMark.now(time.process_time()).others_since(before)
        path = write_tuned(bundle, rows)
    _progress("")
    if others is not None and others > NOTABLE:
        note(f"other processes took {others:.0%} of the cores meanwhile: run it again on a quiet machine")
    document = _document(bundle, path, rows, tuner.skipped) | {
        "unfinished": tuner.unfinished,
        "other_load": others,
    }
    for grid in tuner.unfinished:
        note(
            f"nothing of {'whole images' if grid == 'whole' else 'windows'} is remembered: {args.seconds:g} s are not "
            "enough to time every precision; give more --seconds"
        )
    text = "\n".join(map(printable, _lines(bundle, path, rows, tuner.skipped)))
    tell(document, text, args.json, force=args.force)
    return 0


def _document(
    bundle: "Bundle", path: Path, rows: "Sequence[Measured]", skipped: "Sequence[tuple[Candidate, str]]"
) -> dict[str, Any]:
    return {
        "schema": "scclip-tune/1",
        "bundle": {"path": str(bundle.path), "name": bundle.name},
        "remembered_in": str(path),
        "rows": [asdict(row) for row in rows],
        "skipped": [asdict(candidate) | {"reason": reason} for candidate, reason in skipped],
    }


def _lines(
    bundle: "Bundle", path: Path, rows: "Sequence[Measured]", skipped: "Sequence[tuple[Candidate, str]]"
) -> Iterator[str]:
    yield f"{bundle.path}: one 375×500 photo, the encoder alone"
    yield f"  {'grid':<7} {'precision':<10} {'library':<12} {'threads':>7} {'batch':>6} {'an image':>12}"
    for row in sorted(rows, key=lambda row: (row.grid != "window", row.milliseconds)):
        taken = f"{row.milliseconds:,.1f} ms"
        yield (
            f"  {row.grid:<7} {row.precision:<10} {row.backend:<12} {row.threads:>7} {row.batch:>6} {taken:>12}"
        )
    for candidate, reason in skipped:
        yield f"  not timed: {candidate}: {reason}"
    yield f"remembered in {path}"


def _progress(line: str) -> None:
    """One line on a terminal, overwritten; nothing where nobody watches."""
    if sys.stderr.isatty():
        sys.stderr.write(f"\r\x1b[2K{line}")
        sys.stderr.flush()
