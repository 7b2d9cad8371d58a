"""The plots of docs/performance.md, from the rows in benchmarks/results."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from benchmarks.gpu.figures import gpu_figure
from benchmarks.gpu.report import load_reports
from benchmarks.tables.summary import Row, load_rows, pareto_points
from scclip_rt.bench.plot import STAGES, stage_bars

DPI = 110


def draw(results: Path, images: Path) -> list[Path]:
    """Draw what the rows at hand allow.

    Args:
        results: folder of reports.
        images: where the PNGs go.

    Returns:
        The files written.
    """
    written = []
    if rows := load_rows(results, "photo-*.json"):
        written.append(_save(_photo(rows), images / "bench-photo.png"))
    growth = {name: load_rows(results, f"{name}.json") for name in ("queries", "images", "windows")}
    if all(growth.values()):
        written.append(_save(_growth(growth), images / "bench-growth.png"))
    if rows := load_rows(results, "pareto.json"):
        written.append(_save(_pareto(pareto_points(rows)), images / "bench-pareto.png"))
    if reports := load_reports(results):
        written.append(_save(gpu_figure(reports), images / "bench-gpu.png"))
    return written


def _save(figure: Figure, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    # Without the library's version, so that the same rows give the same bytes.
    figure.savefig(path, dpi=DPI, metadata={"Software": None})
    return path


def _photo(rows: Sequence[Row]) -> Figure:
    counts = sorted({row["queries"] for row in rows})
    most = max(sum(row["queries"] == count for row in rows) for count in counts)
    figure = Figure(figsize=(5.0 * len(counts), 1.4 + 0.38 * most), layout="constrained")
    panels = figure.subplots(1, len(counts), sharex=True, squeeze=False)[0]
    for axes, count in zip(panels, counts, strict=True):
        stage_bars(axes, [row for row in rows if row["queries"] == count])
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_title(f"{count} queries", fontsize=10)
        axes.set_xlabel("milliseconds, median")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, frameon=False, ncols=4, loc="outside lower center", fontsize=8)
    return figure


def _growth(rows: dict[str, list[Row]]) -> Figure:
    figure = Figure(figsize=(11, 3.4), layout="constrained")
    panels: Any = figure.subplots(1, 3)
    place = {
        "queries": ("queries", lambda row: row["queries"]),
        "images": ("megapixels of the image", lambda row: row["image"][0] * row["image"][1] / 1e6),
        "windows": ("windows", lambda row: row["windows"]),
    }
    for axes, (name, (label, x)) in zip(panels, place.items(), strict=True):
        ordered = sorted(rows[name], key=x)
        values = [x(row) for row in ordered]
        layers = [[1000 * row["seconds"][stage]["p50"] for row in ordered] for stage, _ in STAGES]
        axes.stackplot(
            values, *layers, labels=[stage for stage, _ in STAGES], colors=[colour for _, colour in STAGES]
        )
        axes.set_xlabel(label)
        axes.set_ylim(bottom=0)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("milliseconds for one image, median")
    panels[0].legend(frameon=False, fontsize=8, loc="upper left", reverse=True)
    return figure


def _pareto(points: Sequence[Row]) -> Figure:
    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    axes = figure.add_subplot()
    front = sorted(
        (point for point in points if point["front"]), key=lambda point: point["processor_seconds"]
    )
    axes.step(
        [1000 * point["processor_seconds"] for point in front],
        [point["miou"] for point in front],
        where="post",
        color="#2f6690",
        linewidth=1,
        label="Pareto front",
    )
    for point in points:
        colour = "#2f6690" if point["front"] else "#a9a9a9"
        axes.scatter(1000 * point["processor_seconds"], point["miou"], color=colour, zorder=3)
        axes.annotate(
            point["name"],
            (1000 * point["processor_seconds"], point["miou"]),
            xytext=(6, 4),
            textcoords="offset points",
            fontsize=8,
        )
    axes.margins(x=0.2, y=0.15)
    axes.set_xlabel("milliseconds of the processor for one scene, median")
    axes.set_ylabel("mIoU of the demo model, percent")
    axes.legend(frameon=False, fontsize=8, loc="lower right")
    axes.spines[["top", "right"]].set_visible(False)
    return figure
