"""A bar chart of IoU per class (extra `bench`: matplotlib)."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from scclip_rt.errors import OptionError, install
from scclip_rt.vocabulary.classes import shorten

_BAR, _MEAN, _FAINT = "#0072b2", "#d55e00", "#6e6e6e"
_NAME_LENGTH = 32


def check_chart() -> None:
    """Refuse before any work.

    Raises:
        OptionError: matplotlib is not installed.
    """
    if importlib.util.find_spec("matplotlib") is None:
        raise OptionError(
            f"--plot needs matplotlib, which is not installed; {install('bench')}, or leave --plot out "
            "and draw from --json"
        )


def bar_chart(path: Path, names: Sequence[str], values: NDArray[np.float64], mean: float, title: str) -> None:
    """Write one bar per class, the best first, and the mean as a line.

    Args:
        path: a PNG.
        names: C of them.
        values: (C,) percent; NaN goes last, without a bar.
        mean: percent.
        title: above the chart.
    """
    check_chart()
    from matplotlib.figure import Figure

    order = sorted(range(len(names)), key=lambda i: (math.isnan(values[i]), -np.nan_to_num(values[i])))
    figure = Figure(figsize=(9, 1.2 + 0.24 * len(names)), layout="constrained")
    axes = figure.add_subplot(title=title, xlim=(0, 108), xlabel="IoU, percent")
    bars = axes.barh(range(len(order)), [float(np.nan_to_num(values[i])) for i in order], color=_BAR)
    axes.set_yticks(range(len(order)), [shorten(names[i], _NAME_LENGTH) for i in order])
    texts = ["absent" if math.isnan(values[i]) else f"{values[i]:.1f}" for i in order]
    axes.bar_label(bars, texts, padding=3, color=_FAINT)
    axes.invert_yaxis()
    axes.margins(y=0.01)
    if not math.isnan(mean):
        axes.axvline(mean, color=_MEAN, label=f"mIoU {mean:.1f}")
        axes.legend(loc="lower right")
    figure.savefig(path, format="png", dpi=100)
