"""Turn the rows in benchmarks/results into the tables and plots of the documentation.

    python -m benchmarks.tables.summary            # docs/measurements.md, docs/images, tables in README.md
    python -m benchmarks.tables.summary --check    # exit code 1 if a table is not what the rows say

docs/measurements.md has a section for every table that the rows allow. In README.md and some pages
a table stands between `<!-- begin NAME -->` and `<!-- end NAME -->`; everything else is left alone.
"""

import argparse
import json
import re
import statistics
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks/results"
DOCUMENTS = tuple(
    ROOT / name
    for name in (
        "README.md",
        *(f"docs/{name}.md" for name in ("precision", "gpu", "gpu-measurements", "methods", "classes")),
    )
)
MEASUREMENTS = ROOT / "docs/measurements.md"
IMAGES = ROOT / "docs/images"

Row = dict[str, Any]


def load_rows(results: Path, pattern: str) -> list[Row]:
    """The rows of every report whose file name matches, each with its report's environment."""
    rows = []
    for path in sorted(results.glob(pattern)):
        report = json.loads(path.read_text("utf-8"))
        rows += [row | {"environment": report["environment"]} for row in report["rows"]]
    return rows


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table with the first column left, the others right."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def ms(seconds: float) -> str:
    """Milliseconds with three figures, or seconds from ten on."""
    if seconds >= 10:
        return f"{seconds:,.1f} s"
    return f"{1000 * seconds:,.0f} ms" if seconds >= 0.1 else f"{1000 * seconds:.3g} ms"


def megabytes(count: float) -> str:
    """Decimal megabytes."""
    return f"{count / 1e6:,.0f} MB"


def paired(row: Row, first: Row, stage: str) -> list[float]:
    """For each round, the first row's seconds of a stage over this row's."""
    return [a / b for a, b in zip(first["samples"][stage], row["samples"][stage], strict=True)]


def with_range(ratios: Sequence[float]) -> str:
    """`1.42× (1.18–1.94)`: the median, and the range of the pairs."""
    return f"**{statistics.median(ratios):.2f}×** ({min(ratios):.2f}–{max(ratios):.2f})"


def photo_table(rows: Sequence[Row]) -> str:
    """One photo, each contender beside the naive baseline of its own run."""
    lines = []
    for row in rows:
        first = baseline(rows, row)
        share = row["limit_share"]
        stages = [row["seconds"].get(stage) for stage in ("encode", "decode")]
        lines.append(
            [
                str(row["queries"]),
                row["name"],
                ms(row["seconds"]["total"]["p50"]),
                *("–" if stage is None else ms(stage["p50"]) for stage in stages),
                "1" if row is first else with_range(paired(row, first, "total")),
                "–" if share is None else f"{share:.0%}",
                megabytes(row["peak_bytes"]),
                f"{row['labels_as_first']:.2%}",
            ]
        )
    header = ("queries", "contender", "total", "encode", "decode", "times as fast (range of pairs)")
    return markdown((*header, "of the limit", "peak memory", "labels as naive"), lines)


def baseline(rows: Sequence[Row], row: Row) -> Row:
    """The row that a ratio of `row` refers to: same run, same queries, named in `ratio`."""
    for other in rows:
        same_run = other["environment"] == row["environment"] and other["queries"] == row["queries"]
        if same_run and other["name"] == row["ratio"]["to"]:
            return other
    raise ValueError(
        f"{row['name']}, {row['queries']} queries: no row {row['ratio']['to']!r} of the same run"
    )


def limit_table(rows: Sequence[Row]) -> str:
    """What the libraries multiply at, in every run's own rounds: one line per library and number of rows."""
    seen: dict[tuple[str, int], Row] = {}
    for row in rows:
        if row["limit"] is not None:
            key = (row["backend"]["backend"], row["limit"]["fp32"]["products"]["qkv"]["shape"][0])
            seen.setdefault(key, row["limit"])
    names = ("fp32", "bf16", "int8", "numpy")
    lines = [
        [library, str(count), *(_rate(limit.get(name)) for name in names)]
        for (library, count), limit in sorted(seen.items())
    ]
    return markdown(("library", "rows", "fp32", "bf16", "int8", "numpy's BLAS, fp32"), lines)


def _rate(limit: Row | None) -> str:
    return "–" if limit is None else f"{limit['flops_per_second'] / 1e9:.0f} GFLOP/s"


def narrow_table(reports: Sequence[Row]) -> str:
    """Narrow arithmetic on every processor at hand, each beside the first contender of its own run."""
    lines = []
    for report in reports:
        held = f", held to {report['isa']}" if report["isa"] else ""
        processor = f"{report['environment']['processor']}, {report['environment']['cores']} cores{held}"
        first = report["rows"][0]
        for row in report["rows"]:
            share = row["limit_share"]
            lines.append(
                [
                    processor if row is first else "",
                    row["name"],
                    ms(row["seconds"]["total"]["p50"]),
                    "1" if row is first else with_range(paired(row, first, "total")),
                    "–" if share is None else f"{share:.0%}",
                    f"{row['labels_as_first']:.2%}",
                ]
            )
    header = ("processor", "contender", "total", "times as fast (range of pairs)", "of the limit")
    return markdown((*header, "labels as the first"), lines)


def growth_table(rows: Sequence[Row], axis: str) -> str:
    """Latency and memory along one axis: `queries`, `image`, `windows`, `batch` or `threads`."""
    value: dict[str, Callable[[Row], str]] = {
        "queries": lambda row: f"{row['queries']:,}",
        "image": lambda row: f"{row['image'][0]}×{row['image'][1]}",
        "windows": lambda row: str(row["windows"]),
        "batch": lambda row: str(row["batch"]),
        "threads": lambda row: str(row["backend"]["threads"]),
    }
    lines = [
        [
            value[axis](row),
            *(ms(row["seconds"][stage]["p50"]) for stage in ("prepare", "encode", "decode", "total")),
            ms(row["seconds"]["encode"]["p50"] / row["windows"]),
            megabytes(row["peak_bytes"]),
            *([] if row.get("stream") is None else [f"{row['stream']['images_per_second']:.2f}"]),
        ]
        for row in rows
    ]
    header = [axis, "prepare", "encode", "decode", "total", "encode per window", "peak memory"]
    streamed = ["images/s, streamed"] if rows[0].get("stream") is not None else []
    return markdown([*header, *streamed], lines)


def calibration_table(rows: Sequence[Row]) -> str:
    """The encoder with the calibration beside the plain one: pairs of the same round."""
    lines = []
    for plain, calibrated in zip(rows[::2], rows[1::2], strict=True):
        if plain["bundle"]["calibration"] != "none" or calibrated["bundle"]["calibration"] != "scclip":
            raise ValueError("rows must alternate between the plain encoder and the calibrated one")
        costs = [100 * (1 / ratio - 1) for ratio in paired(calibrated, plain, "encode")]
        cells = [ms(row["seconds"]["encode"]["p50"]) for row in (plain, calibrated)]
        cost = f"**{statistics.median(costs):+.1f} %** ({min(costs):+.1f} to {max(costs):+.1f})"
        lines.append([calibrated["name"].removeprefix("calibrated "), *cells, cost])
    return markdown(("", "plain encoder", "calibrated", "cost, median (range of pairs)"), lines)


LIBRARY_NAMES = {"onnxruntime": "ONNX Runtime", "openvino": "OpenVINO"}


def pareto_points(rows: Sequence[Row]) -> list[Row]:
    """Rows of the dial, and whether each is on the `front`."""
    front = pareto_front([(row["processor_seconds"], row["miou"]) for row in rows])
    return [row | {"front": index in front} for index, row in enumerate(rows)]


def pareto_front(points: Sequence[tuple[float, float]]) -> set[int]:
    """Indices of the (cost, gain) points that no other beats: none costs at most as much and gains at least as much."""
    front, best = set(), float("-inf")
    for index in sorted(range(len(points)), key=lambda i: (points[i][0], -points[i][1])):
        if points[index][1] > best:
            front.add(index)
            best = points[index][1]
    return front


def pareto_table(points: Sequence[Row]) -> str:
    """MIoU against the processor's time, fastest first."""
    first = points[0]
    lines = [
        [
            f"{point['name']} ({LIBRARY_NAMES[point['backend']]})",
            str(point["windows"]),
            ms(point["processor_seconds"]),
            f"**{point['ratio']:.2f}×**",
            f"{point['miou']:.2f}",
            f"{point['miou'] - first['miou']:+.2f}" if point is not first else "",
            f"{point['agreement']:.2f} %",
            "yes" if point["front"] else "",
        ]
        for point in sorted(points, key=lambda point: point["processor_seconds"])
    ]
    header = (
        "",
        "windows",
        "processor's time, one scene",
        f"times as fast as {first['name']}",
        f"mIoU, {first['scenes']} scenes",
        f"against {first['name']}",
        f"labels as {first['name']}",
        "on the front",
    )
    return markdown(header, lines)


def precision_table(rows: Sequence[Row]) -> str:
    """The demo model in narrow precisions, beside fp32."""
    lines = [
        [
            row["encoder"],
            f"{row['miou']:.2f}",
            f"{row['labels_as_fp32']:.3f} %",
            f"{row['outliers_as_fp32']:.2f} %",
            f"{row['outlier_sets_as_fp32']:.1f} %",
        ]
        for row in rows
    ]
    header = (
        "file",
        "mIoU",
        "labels as fp32",
        "outliers found",
        f"of {rows[0]['windows']:,} windows: same outliers",
    )
    return markdown(header, lines)


def profile_table(rows: Sequence[Row], least: float = 0.015) -> str:
    """Time by operator, the costliest first; what is under `least` of the whole in one line."""
    total = sum(row["milliseconds"] for row in rows)
    shown = [row for row in rows if row["milliseconds"] >= least * total]
    rest = [row for row in rows if row not in shown]
    if rest:
        sums = {key: sum(row[key] for row in rest) for key in ("calls", "milliseconds")}
        shown = [*shown, {"operator": f"{len(rest)} other types", **sums}]
    return markdown(
        ("operator", "calls", "time", "share"),
        [
            [
                row["operator"],
                str(row["calls"]),
                ms(row["milliseconds"] / 1000),
                f"{row['milliseconds'] / total:.1%}",
            ]
            for row in shown
        ],
    )


def machine(rows: Sequence[Row]) -> str:
    """What the rows were measured on, in a line."""
    told = {
        f"{e['processor']}, {e['cores']} cores; onnxruntime {e['versions'].get('onnxruntime')}, "
        f"openvino {e['versions'].get('openvino', '–')}, torch {e['versions'].get('torch', '–')}; {e['git_revision']}"
        for e in (row["environment"] for row in rows)
    }
    return "Measured on " + "; and on ".join(sorted(told)) + "."


def tables(results: Path) -> dict[str, str]:
    """Every table that the rows at hand allow, by name."""
    made: dict[str, str] = {}
    photo = load_rows(results, "photo-*.json")
    if photo:
        made |= {"photo": photo_table(photo), "limits": limit_table(photo)}
        made["machine"] = machine(photo)
    axes = {name: name for name in ("queries", "windows", "batch", "threads")}
    for name, axis in (axes | {"images": "image", "large": "queries"}).items():
        if rows := load_rows(results, f"{name}.json"):
            made[name] = growth_table(rows, axis)
    if rows := load_rows(results, "calibration*.json"):
        made["calibration"] = calibration_table(rows)
    for path in sorted(results.glob("profile-*.json")):
        made[path.stem] = profile_table(load_rows(results, path.name))
    if narrow := [json.loads(path.read_text("utf-8")) for path in sorted(results.glob("narrow-*.json"))]:
        made["narrow"] = narrow_table(narrow)
    if rows := load_rows(results, "pareto.json"):
        made["pareto"] = pareto_table(pareto_points(rows))
    if rows := load_rows(results, "precision-*.json"):
        made["precision"] = precision_table(list({row["encoder"]: row for row in rows}.values()))
    from benchmarks.gpu.report import document_tables, load_reports  # they use this module
    from benchmarks.tables.methods import method_tables
    from benchmarks.tables.speed import speed_table

    made |= method_tables(results)
    reports = load_reports(results)
    if photo:
        made["speed"] = speed_table(photo, reports)
    return made | document_tables(reports)


SECTIONS = (
    ("ViT-B/16: one 375×500 photo, beside the naive eager baseline", "photo", "bench-photo.png"),
    ("ViT-B/16: what the libraries multiply its products at, alone, in the same rounds", "limits", None),
    ("ViT-B/16: int8 and bf16 on one 375×500 photo, by processor", "narrow", None),
    ("ViT-B/16: what calibration costs, the encoder against the plain one, in pairs", "calibration", None),
    ("ViT-B/16: what each method's encoder costs over the plain one, in pairs", "methods-encoder", None),
    ("ViT-B/16: one photo with 150 classes, each method beside its naive form", "methods-photo", None),
    ("Demo model: quality against the processor's time, on held-out scenes", "pareto", "bench-pareto.png"),
    ("ViT-B/16: growth with queries", "queries", "bench-growth.png"),
    ("ViT-B/16: growth with the image", "images", None),
    ("ViT-B/16: growth with windows", "windows", None),
    ("ViT-B/16: 10,000 queries on a 4K photo", "large", None),
    ("ViT-B/16: batch", "batch", None),
    ("ViT-B/16: threads", "threads", None),
)


def measurements(made: dict[str, str]) -> str | None:
    """The text of docs/measurements.md: a section for each table, profiles last; None without any."""
    profiles = tuple(
        (f"ViT-B/16: time by operator, {n.removeprefix('profile-')}", n, None)
        for n in made
        if n.startswith("profile-")
    )
    shown = [section for section in (*SECTIONS, *profiles) if section[1] in made]
    if not shown:
        return None
    parts = [
        "# Measurements",
        "`python -m benchmarks.tables.summary` writes this page from benchmarks/results. [Benchmark](performance.md) "
        "says how to read it. The ViT-B/16 has synthetic weights, which cost what real ones do.",
    ]
    parts += [made["machine"]] if "machine" in made else []
    for title, name, image in shown:
        parts += [f"## {title}", made[name]]
        parts += [f"![{title}](images/{image})"] if image is not None else []
    return "\n\n".join(parts) + "\n"


def fill(document: str, made: dict[str, str]) -> str:
    """Put each table between its marks.

    Raises:
        ValueError: a mark without an end, or a table that the rows don't give.
    """

    def put(match: re.Match[str]) -> str:
        name = match[1]
        if name not in made:
            raise ValueError(f"the document wants table {name!r}; the rows give {', '.join(sorted(made))}")
        return f"<!-- begin {name} -->\n{made[name]}\n<!-- end {name} -->"

    filled = re.sub(r"<!-- begin ([\w-]+) -->\n.*?<!-- end \1 -->", put, document, flags=re.DOTALL)
    if len(re.findall("<!-- begin ", filled)) != len(re.findall("<!-- end ", filled)):
        raise ValueError("a <!-- begin NAME --> has no <!-- end NAME -->")
    return filled


def main() -> None:
    """Rewrite, or check."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="write nothing; fail if a table is out of date")
    args = parser.parse_args()
    made = tables(RESULTS)
    for document in DOCUMENTS:
        text = document.read_text("utf-8")
        filled = fill(text, made)
        if args.check and filled != text:
            sys.exit(
                f"{document.name} is not what benchmarks/results says; run python -m benchmarks.tables.summary"
            )
        if not args.check:
            document.write_text(filled, "utf-8")
    text = measurements(made)
    found = MEASUREMENTS.read_text("utf-8") if MEASUREMENTS.exists() else None
    if args.check and found != text:
        sys.exit(
            f"{MEASUREMENTS.name} is not what benchmarks/results says; run python -m benchmarks.tables.summary"
        )
    if not args.check:
        from benchmarks.tables.figures import draw

        if text is not None:
            MEASUREMENTS.write_text(text, "utf-8")

        draw(RESULTS, IMAGES)


if __name__ == "__main__":
    main()
