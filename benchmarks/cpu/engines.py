"""A baked file in other engines' formats: what converts, labels, size, and time beside ONNX Runtime.

    python -m benchmarks.cpu.engines [--targets openvino mnn] [--bundle demo] [--json benchmarks/results/engines.json]
    python -m benchmarks.cpu.engines --merge A.json B.json --json benchmarks/results/engines.json
    tests/converters.sh      every target in an environment of its own, merged

The gate of `scclip convert` is that of a row: a target whose labels differ gets no time. Every engine has its turn in
every round, on the same image and with the same threads. RKNN's simulator is no processor, so it is converted and
compared, not timed. Targets that don't ship are tried as far as they go (`benchmarks/cpu/engine_trials.py`).
"""

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.cpu.engine_trials import TRIALS
from benchmarks.harness import Row, parser, ratios, spread, take_turns, write_report
from scclip_export.converters.targets import TARGETS, converter_to
from scclip_rt import Segmenter
from scclip_rt.baking.bake import bake
from scclip_rt.baking.converters.base import Run
from scclip_rt.baking.converters.convert import BakedFile, ConversionReport, convert, onnxruntime_run
from scclip_rt.baking.options import BakeOptions
from scclip_rt.baking.parity import as_input, check_images
from scclip_rt.errors import BackendError
from scclip_rt.limits import parse_size
from scclip_rt.vocabulary.file import load_vocabulary

QUESTION = "What do other engines' formats keep and cost?"
BASE = "ONNX Runtime, the baked file"
NOT_TIMED = ("rknn",)


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--bundle", default="demo", help="bundle to bake (%(default)s)")
    arguments.add_argument("--vocabulary", type=Path, help="classes for a bundle without any of its own")
    arguments.add_argument(
        "--size", type=parse_size, help="HxW of the image (default: the short side, squared)"
    )
    arguments.add_argument("--classes", nargs="+", help="these, in place of a vocabulary")
    arguments.add_argument("--targets", nargs="+", default=["openvino", "mnn"], choices=[*TARGETS, *TRIALS])
    arguments.add_argument("--rounds", type=int, default=15, help="rounds (%(default)s)")
    arguments.add_argument(
        "--merge", nargs="+", type=Path, help="measure nothing: one table of these files' rows"
    )
    args = arguments.parse_args()
    found = merged(args.merge) if args.merge else measured(args)
    print(table(found["rows"]))
    write_report(args.json, QUESTION, **found)


def measured(args: argparse.Namespace) -> dict[str, Any]:
    """Rows of this environment's targets."""
    vocabulary = load_vocabulary(args.vocabulary) if args.vocabulary is not None else None
    words = {"classes": args.classes} if args.classes else {"vocabulary": vocabulary}
    segmenter = Segmenter(args.bundle, **words, backend="onnxruntime", precision="fp32")
    threads = len(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "baked.onnx"
        report = bake(segmenter, source, BakeOptions(batch=1, size=args.size))
        rows = rows_of(source, [target for target in args.targets if target in TARGETS], threads, args.rounds)
        for target in args.targets:
            if target in TRIALS:
                print(target, file=sys.stderr)
                rows.append(TRIALS[target](source, segmenter))
    return {
        "bundle": Path(args.bundle).name,
        "image": list(report.input),
        "classes": report.classes,
        "windows": report.windows,
        "threads": threads,
        "rows": rows,
    }


def merged(paths: Sequence[Path]) -> dict[str, Any]:
    """The rows of several runs; each file's base is kept once, ratios are of their own run."""
    documents = [json.loads(path.read_text("utf-8")) for path in paths]
    rows: list[Row] = []
    for document in documents:
        rows += [row for row in document["rows"] if row["name"] != BASE or not rows]
    return {
        **{name: documents[0][name] for name in ("bundle", "image", "classes", "windows", "threads")},
        "rows": rows,
    }


def rows_of(source: Path, targets: list[str], threads: int, rounds: int) -> list[Row]:
    """One row a target and way of keeping weights, after the file itself."""
    baked = BakedFile.read(source)
    image = as_input(check_images(baked.options.size or (0, 0))[0], baked.options)
    rows: list[Row] = [
        {
            "name": BASE,
            "converts": True,
            "labels_agreement": 1.0,
            "max_abs": 0.0,
            "bytes": source.stat().st_size,
        }
    ]
    sides: dict[str, Callable[[], object]] = {}

    def time_side(name: str, run: Run) -> None:
        sides[name] = lambda: run(image)

    time_side(BASE, onnxruntime_run(baked, threads))
    for target in targets:
        converter = converter_to(target)
        for weights in converter.WEIGHTS:
            name = f"{converter.NAME}, {weights} weights"
            print(name, file=sys.stderr)
            path = source.with_name(f"{weights}{converter.SUFFIXES[0]}")
            try:
                report = convert(source, path, to=target, weights=weights, converter=converter)
            except BackendError as error:
                rows.append({"name": name, "converts": False, "blocked": str(error)})
                continue
            rows.append(converted_row(name, report))
            if target not in NOT_TIMED:
                time_side(name, converter.open(path, baked.tensors, threads))
    times = take_turns(sides, rounds, warmup=2)
    for row in rows:
        if row["name"] in times:
            row["seconds"] = times[row["name"]]
            row["ratios"] = ratios(times[row["name"]], times[BASE])
    return rows


def converted_row(name: str, report: ConversionReport) -> Row:
    return {
        "name": name,
        "converts": True,
        "version": report.version,
        "labels_agreement": report.labels_agreement,
        "max_abs": report.max_abs,
        "bytes": report.bytes,
    }


def table(rows: list[Row]) -> str:
    """The rows in Markdown."""
    lines = [
        "| target | converts | labels equal | largest difference | MB | time beside ONNX Runtime | what blocks |",
        "|---|---|---:|---:|---:|---:|---|",
    ]
    for row in rows:
        name = f"{row['name']} ({row['version']})" if "version" in row else row["name"]
        converts = "yes" if row["converts"] else "no"
        equal = f"{row['labels_agreement']:.3%}" if "labels_agreement" in row else ""
        distance = f"{row['max_abs']:.1e}" if row.get("max_abs") is not None else ""
        size = f"{row['bytes'] / 1e6:.1f}" if "bytes" in row else ""
        clock = spread(row["ratios"]) if "ratios" in row else ""
        lines.append(
            f"| {name} | {converts} | {equal} | {distance} | {size} | {clock} | {row.get('blocked', '')} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
