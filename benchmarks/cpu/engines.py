"""A baked file in other engines' formats: labels, size and time beside ONNX Runtime.

    python -m benchmarks.cpu.engines [--targets openvino mnn] [--bundle demo] [--json benchmarks/results/engines.json]

`scclip convert` is the gate: a target whose labels differ gets no time. Every engine has its turn in every round, on
the same image and with the same threads. RKNN's simulator is no processor, so it is converted and compared, not timed:
run `--targets rknn` in an environment with `scclip-rt[rknn]`.
"""

import os
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path

from benchmarks.harness import Row, parser, ratios, spread, take_turns, write_report
from scclip_rt import Segmenter
from scclip_rt.baking.bake import bake
from scclip_rt.baking.converters.base import Run
from scclip_rt.baking.converters.convert import (
    CONVERTERS,
    BakedFile,
    ConversionReport,
    convert,
    converter_of,
    onnxruntime_run,
)
from scclip_rt.baking.options import BakeOptions
from scclip_rt.baking.parity import as_input, check_images
from scclip_rt.errors import BackendError
from scclip_rt.vocabulary.file import load_vocabulary

BASE = "ONNX Runtime, the baked file"
NOT_TIMED = ("rknn",)


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--bundle", default="demo", help="bundle to bake (%(default)s)")
    arguments.add_argument("--vocabulary", type=Path, help="classes for a bundle without any of its own")
    arguments.add_argument("--targets", nargs="+", default=["openvino", "mnn"], choices=list(CONVERTERS))
    arguments.add_argument("--rounds", type=int, default=15, help="rounds (%(default)s)")
    args = arguments.parse_args()
    vocabulary = load_vocabulary(args.vocabulary) if args.vocabulary is not None else None
    segmenter = Segmenter(args.bundle, vocabulary=vocabulary, backend="onnxruntime", precision="fp32")
    threads = len(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "baked.onnx"
        bake(segmenter, source, BakeOptions(batch=1))
        rows = rows_of(source, args.targets, threads, args.rounds)
    print(table(rows))
    found = {"bundle": args.bundle, "threads": threads, "rows": rows}
    write_report(args.json, "What do other engines' formats keep and cost?", **found)


def rows_of(source: Path, targets: list[str], threads: int, rounds: int) -> list[Row]:
    """One row a target and way of keeping weights, after the file itself."""
    baked = BakedFile.read(source)
    image = as_input(check_images(baked.options.size or (0, 0))[0], baked.options)
    rows: list[Row] = [
        {"name": BASE, "labels_agreement": 1.0, "max_abs": 0.0, "bytes": source.stat().st_size}
    ]
    sides: dict[str, Callable[[], object]] = {}

    def time_side(name: str, run: Run) -> None:
        sides[name] = lambda: run(image)

    time_side(BASE, onnxruntime_run(baked, threads))
    for target in targets:
        converter = converter_of(target)
        for weights in converter.WEIGHTS:
            name = f"{converter.NAME}, {weights} weights"
            path = source.with_name(f"{weights}{converter.SUFFIXES[0]}")
            try:
                report = convert(source, path, to=target, weights=weights)
            except BackendError as error:
                rows.append({"name": name, "blocked": str(error)})
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
        "version": report.version,
        "labels_agreement": report.labels_agreement,
        "max_abs": report.max_abs,
        "bytes": report.bytes,
    }


def table(rows: list[Row]) -> str:
    """The rows in Markdown."""
    lines = [
        "| engine | labels equal | largest difference | MB | ms | beside ONNX Runtime |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        if "blocked" in row:
            lines.append(f"| {row['name']} | {row['blocked']} | | | | |")
            continue
        name = f"{row['name']} ({row['version']})" if "version" in row else row["name"]
        clock = "not timed | "
        if "seconds" in row:
            clock = f"{1000 * statistics.median(row['seconds']):.0f} | {spread(row['ratios'])}"
        lines.append(
            f"| {name} | {row['labels_agreement']:.3%} | {row['max_abs']:.1e} | {row['bytes'] / 1e6:.1f} | {clock} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
