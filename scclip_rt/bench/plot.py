"""A picture of a report: stacked bars for one workload, lines over queries or image size for several."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scclip_rt.bench.report import groups_of
from scclip_rt.errors import OptionError, install

if TYPE_CHECKING:
    from matplotlib.axes import Axes

STAGES = (("prepare", "#9db4c0"), ("encode", "#2f6690"), ("decode", "#e07a5f"))
_DPI = 120


def check_plot(path: Path) -> None:
    """Refuse before any work: the plotting library is missing, or does not write such a file.

    Raises:
        OptionError: says what to install, or which suffixes there are.
    """
    if importlib.util.find_spec("matplotlib") is None:
        raise OptionError(
            f"--plot needs matplotlib, which is not installed; {install('bench')}, or leave --plot out "
            "and draw from --json"
        )
    from matplotlib.backend_bases import FigureCanvasBase

    if path.suffix.lstrip(".").lower() not in FigureCanvasBase.get_supported_filetypes():
        raise OptionError(f"--plot can't write {path.name!r}; name a file that ends in .png, .svg or .pdf")


def plot(report: dict[str, Any], path: Path) -> None:
    """Draw a `report.document`.

    Args:
        report: with rows of one workload, or of several that differ in queries or image size.
        path: the file; its suffix says the format (png, svg, pdf).

    Raises:
        OptionError: as `check_plot`.
    """
    check_plot(path)
    from matplotlib.figure import Figure

    rows = report["rows"]
    groups = groups_of(rows)
    figure = Figure(figsize=(7.0, 4.2 if len(groups) > 1 else 1.6 + 0.5 * len(rows)), layout="constrained")
    axes = figure.add_subplot()
    if len(groups) > 1:
        _lines(axes, groups)
    else:
        stage_bars(axes, rows)
        axes.set_xlabel("milliseconds for one image, median of each stage")
        axes.legend(frameon=False, ncols=4, loc="upper center", bbox_to_anchor=(0.5, -0.28), fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title(str(report["environment"]["processor"]), fontsize=8, color="0.4", loc="left")
    figure.savefig(path, dpi=_DPI)


def stage_bars(axes: Axes, rows: Sequence[dict[str, Any]]) -> None:
    """A bar a row, stacked from its stages, with what they leave over and the whole in milliseconds."""
    places = range(len(rows))
    left = [0.0] * len(rows)
    for stage, colour in STAGES:
        widths = [1000 * row["seconds"].get(stage, {"p50": 0.0})["p50"] for row in rows]
        axes.barh(places, widths, left=left, color=colour, label=stage, height=0.6)
        left = [a + b for a, b in zip(left, widths, strict=True)]
    whole = [1000 * row["seconds"]["total"]["p50"] for row in rows]
    # A contender without stages is one bar; for the others it is what the stages leave over.
    rest = [max(total - told, 0.0) for total, told in zip(whole, left, strict=True)]
    axes.barh(places, rest, left=left, color="#c9c9c9", label="other", height=0.6)
    for place, total in zip(places, whole, strict=True):
        told = f"{total:,.0f}" if total >= 100 else f"{total:.3g}"
        axes.text(total, place, f" {told} ms", va="center", fontsize=9)
    axes.set_yticks(list(places), [row["name"] for row in rows])
    axes.invert_yaxis()
    axes.margins(x=0.15)


def _lines(axes: Axes, groups: Sequence[Sequence[dict[str, Any]]]) -> None:
    by_queries = len({group[0]["queries"] for group in groups}) > 1
    for name in [row["name"] for row in groups[0]]:
        rows = sorted(
            (row for group in groups for row in group if row["name"] == name), key=_place(by_queries)
        )
        x = [_place(by_queries)(row) for row in rows]
        y = [1000 * row["seconds"]["total"]["p50"] for row in rows]
        high = [1000 * row["seconds"]["total"]["p90"] for row in rows]
        (line,) = axes.plot(x, y, marker="o", markersize=4, label=name)
        axes.fill_between(x, y, high, alpha=0.15, color=line.get_color(), linewidth=0)
    ticks = sorted({_place(by_queries)(group[0]) for group in groups})
    axes.set_xscale("log")
    axes.set_xticks(ticks, [f"{tick:,.3g}" if tick < 100 else f"{tick:,}" for tick in ticks])
    axes.set_xticks([], minor=True)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("queries" if by_queries else "megapixels")
    axes.set_ylabel("milliseconds for one image: median, to p90")
    axes.legend(frameon=False, fontsize=8)


def _place(by_queries: bool) -> Any:
    return lambda row: row["queries"] if by_queries else row["image"][0] * row["image"][1] / 1e6
