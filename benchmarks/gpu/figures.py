"""The plot of docs/gpu.md: one photo, and throughput over batches, from what benchmarks/gpu wrote."""

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from benchmarks.tables.summary import Row

QUERIES = 150
GRAPH = ", CUDA graph"


def gpu_figure(reports: Sequence[Row]) -> Figure:
    """A row of panels for every GPU and model: milliseconds of a photo on the left, windows per second on the right."""
    subjects = [
        (report, arch)
        for report in reports
        for arch in dict.fromkeys(
            row["arch"] for row in report["rows"] if row["question"] in ("image", "encode")
        )
    ]
    figure = Figure(figsize=(12, 4.2 * len(subjects)), layout="constrained")
    panels: Any = figure.subplots(len(subjects), 2, squeeze=False)
    for (left, right), (report, arch) in zip(panels, subjects, strict=True):
        timed = [row for row in report["rows"] if row.get("arch") == arch and "milliseconds" in row]
        title = f"{report['environment']['gpu']['name']}, {arch}"
        _photo(left, [row for row in timed if row["question"] == "image" and row.get("queries") == QUERIES])
        left.set_title(f"{title}: one photo, {QUERIES} queries", fontsize=10)
        encodes = [row for row in timed if row["question"] == "encode" and row["precision"] == "fp16"]
        graphs = [row for row in encodes if row["contender"].endswith(GRAPH)]
        _throughput(right, graphs or encodes)
        what = "fp16 encoder" + (", one CUDA graph" if graphs else "")
        right.set_title(f"{title}: {what}", fontsize=10)
    return figure


def _photo(axes: Axes, rows: Sequence[Row]) -> None:
    ordered = sorted(rows, key=lambda row: row["milliseconds"]["p50"])
    places = list(range(len(ordered)))
    times = [row["milliseconds"]["p50"] for row in ordered]
    axes.barh(places, times, color="#2f6690", height=0.65)
    for place, time in zip(places, times, strict=True):
        axes.text(time, place, f" {time:.3g}", va="center", fontsize=8)
    axes.set_yticks(places, [row["contender"] for row in ordered], fontsize=8)
    axes.invert_yaxis()
    if times:
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("milliseconds from host to host, p50")
    axes.spines[["top", "right"]].set_visible(False)


def _throughput(axes: Axes, rows: Sequence[Row]) -> None:
    for name in dict.fromkeys(row["contender"] for row in rows):
        own = sorted((row["windows"], row["windows_per_second"]) for row in rows if row["contender"] == name)
        style = "--" if name.startswith("plain") else "-"
        axes.plot(*zip(*own, strict=True), style, marker="o", markersize=3, label=name.removesuffix(GRAPH))
    axes.set_xlabel("windows in a batch")
    axes.set_ylabel("windows per second")
    axes.set_ylim(bottom=0)
    if rows:
        axes.legend(frameon=False, fontsize=8, loc="lower right")
    axes.spines[["top", "right"]].set_visible(False)
