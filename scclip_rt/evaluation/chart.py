"""A bar chart of IoU per class, drawn with Pillow: no plotting library comes with the runtime."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from scclip_rt.vocabulary.classes import shorten

if TYPE_CHECKING:
    from PIL import ImageDraw, ImageFont

_PAPER, _INK, _FAINT, _GRID = (255, 255, 255), (34, 34, 34), (110, 110, 110), (224, 224, 224)
_BAR, _MEAN = (0, 114, 178), (213, 94, 0)
_ROW, _SIZE, _BARS, _MARGIN = 22, 14, 640, 20
_NAME_LENGTH = 32


def bar_chart(
    names: Sequence[str], values: NDArray[np.float64], mean: float, title: str
) -> NDArray[np.uint8]:
    """One bar per class, the best first, and the mean as a line.

    Args:
        names: C of them.
        values: (C,) percent; NaN goes last, without a bar.
        mean: percent.
        title: above the chart.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.load_default(_SIZE)
    labels = [shorten(name, _NAME_LENGTH) for name in names]
    left = _MARGIN + int(max(font.getlength(label) for label in labels)) + 10
    top = _MARGIN + 3 * _ROW
    width = max(left + _BARS + 70, int(font.getlength(title)) + 2 * _MARGIN)
    height = top + _ROW * len(names) + _ROW + _MARGIN
    picture = Image.new("RGB", (width, height), _PAPER)
    canvas = ImageDraw.Draw(picture)
    canvas.text((_MARGIN, _MARGIN), title, fill=_INK, font=font)
    _grid(canvas, font, left, top, len(names))
    order = sorted(
        range(len(names)), key=lambda i: (math.isnan(values[i]), -values[i] if values[i] > 0 else 0)
    )
    ends = [0 if math.isnan(values[i]) else round(_BARS * float(values[i]) / 100) for i in order]
    for row, end in enumerate(ends):
        y = top + row * _ROW
        canvas.rectangle((left, y + 4, left + end, y + _ROW - 5), fill=_BAR if end else _GRID)
    if not math.isnan(mean):
        x = left + round(_BARS * mean / 100)
        canvas.line((x, top - 4, x, top + _ROW * len(names)), fill=_MEAN, width=2)
        canvas.text((x, top - 7), f"mIoU {mean:.1f}", fill=_MEAN, font=font, anchor="ms")
    for row, (index, end) in enumerate(zip(order, ends, strict=True)):
        middle = top + row * _ROW + _ROW // 2
        canvas.text((left - 8, middle), labels[index], fill=_INK, font=font, anchor="rm")
        text = "absent" if math.isnan(values[index]) else f"{values[index]:.1f}"
        place = (left + end + 6, middle)
        canvas.rectangle(canvas.textbbox(place, text, font=font, anchor="lm"), fill=_PAPER)
        canvas.text(place, text, fill=_FAINT, font=font, anchor="lm")
    return np.array(picture)


def _grid(
    canvas: ImageDraw.ImageDraw,
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
    left: int,
    top: int,
    rows: int,
) -> None:
    bottom = top + _ROW * rows
    for value in range(0, 101, 20):
        x = left + _BARS * value // 100
        canvas.line((x, top, x, bottom), fill=_GRID)
        canvas.text((x, bottom + 6), f"{value}", fill=_FAINT, font=font, anchor="ma")
