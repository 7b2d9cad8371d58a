"""Colours for classes, painted over the image, and a legend."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from scclip_rt.image.png import encode_indexed_png, encode_png
from scclip_rt.vocabulary.classes import shorten

if TYPE_CHECKING:
    from PIL import ImageFont

    from scclip_rt.decode.best import Labels

Colour = tuple[int, ...]

# Okabe and Ito's and Paul Tol's colour-blind-safe sets, interleaved so that neighbours in a class list differ.
_DISTINCT = (
    (0, 114, 178), (230, 159, 0), (0, 158, 115), (204, 121, 167), (240, 228, 66),
    (213, 94, 0), (86, 180, 233), (136, 34, 85), (153, 153, 51), (51, 34, 136),
    (221, 204, 119), (68, 170, 153), (204, 102, 119), (17, 119, 51), (170, 68, 153),
    (136, 204, 238), (187, 204, 51), (238, 136, 102), (119, 170, 221), (255, 170, 187),
)  # fmt: skip
_GOLDEN = 0.6180339887498949
_BACKGROUND = (128, 128, 128)
_UNLABELLED = (24, 24, 24)

_PANEL = (250, 250, 248)
_INK = (34, 34, 34)
_FAINT = (110, 110, 110)
_SAMPLED = 100_000
"""Pixels looked at for the colours of the legend."""
_SMALLEST = 256
"""Images with a shorter long side are enlarged when a legend goes with them."""
_NARROWEST = 240
"""Pixels that a legend needs to be readable at the smallest font."""


@dataclass(frozen=True, slots=True)
class LegendEntry:
    """A line of the legend."""

    name: str
    share: float
    colour: Colour


def palette(indices: Sequence[int]) -> NDArray[np.uint8]:
    """Colours of classes, (len(indices), 3) uint8: 20 chosen ones, then hues in golden-ratio steps."""
    out = np.empty((len(indices), 3), np.uint8)
    for row, index in enumerate(indices):
        if index < len(_DISTINCT):
            out[row] = _DISTINCT[index]
            continue
        step = index - len(_DISTINCT)
        light, strong = ((0.5, 0.75), (0.35, 0.65), (0.68, 0.7))[step % 3]
        rgb = colorsys.hls_to_rgb((0.11 + step * _GOLDEN) % 1.0, light, strong)
        out[row] = np.round(np.array(rgb) * 255)
    return out


def class_colours(labels: Sequence[int], *, background: int | None, unlabelled: int) -> NDArray[np.uint8]:
    """Colours of labels, (len(labels), 3) uint8; a class has the same colour in every image."""
    colours = palette(labels)
    for row, label in enumerate(labels):
        if label == unlabelled:
            colours[row] = _UNLABELLED
        elif label == background:
            colours[row] = _BACKGROUND
    return colours


def labels_png(labels: Labels, *, background: int | None, unlabelled: int) -> bytes:
    """A label map as PNG: 8 bits with the classes' colours as palette, 16 bits as grey.

    Either way what Pillow reads are the labels themselves.
    """
    if labels.dtype != np.uint8:
        return encode_png(labels)
    colours = class_colours(range(256), background=background, unlabelled=unlabelled)
    return encode_indexed_png(labels.astype(np.uint8, copy=False), colours)


def shown_colours(
    painted: NDArray[np.uint8], labels: Labels, present: Sequence[int], colours: NDArray[np.uint8]
) -> NDArray[np.uint8]:
    """What each class looks like in an overlay, (len(present), 3) uint8: the mean of its pixels there.

    A legend in the pure colours would not match what is seen over a coloured texture.
    """
    step = max(1, int((labels.size / _SAMPLED) ** 0.5))
    part, pixels = labels[::step, ::step].ravel(), painted[::step, ::step].reshape(-1, 3)
    size = int(max(present)) + 1
    counts = np.bincount(part, minlength=size)[list(present)]
    sums = np.stack(
        [np.bincount(part, pixels[:, channel], minlength=size)[list(present)] for channel in range(3)], axis=1
    )
    out = np.array(colours)
    seen = counts > 0
    out[seen] = np.round(sums[seen] / counts[seen, None])
    return out


def shrink(
    image: NDArray[np.uint8], labels: Labels, long_side: int | None
) -> tuple[NDArray[np.uint8], Labels]:
    """Shrink a picture and its labels by a whole number, to at most `long_side` pixels; None keeps them as they are.

    The image's pixels are averaged; labels can't be, so that one in the middle stands for its neighbours.
    """
    factor = 1 if long_side is None else -(-max(labels.shape) // long_side)
    if factor == 1:
        return image, labels
    from PIL import Image

    # By bands that stay in the cache: a whole copy of 12 megapixels takes longer than their mean.
    bands = range(0, len(image), 64 * factor)
    smaller = np.concatenate(
        [np.asarray(Image.fromarray(image[top : top + bands.step]).reduce(factor)) for top in bands]
    )
    rows, columns = (
        np.minimum(np.arange(length) * factor + factor // 2, source - 1)
        for length, source in zip(smaller.shape[:2], labels.shape, strict=True)
    )
    return smaller, labels.take(rows, axis=0).take(columns, axis=1)


def paint(
    image: NDArray[np.uint8],
    labels: Labels,
    present: Sequence[int],
    colours: NDArray[np.uint8],
    alpha: float,
) -> NDArray[np.uint8]:
    """Mix each pixel with its class's colour, and draw the borders between classes.

    Args:
        image: (H, W, 3) uint8.
        labels: (H, W).
        present: the labels that occur.
        colours: (len(present), 3) uint8.
        alpha: weight of the colours.

    Returns:
        (H, W, 3) uint8.
    """
    # uint8 tables, one look-up a pixel: mixed[c][pixel] = image·(1 − α) + colour·α, without float images.
    lut = np.zeros((max(256, int(max(present)) + 1), 3), np.uint8)
    lut[list(present)] = np.round(colours * alpha)
    keep = np.round(np.arange(256) * (1 - alpha)).astype(np.uint8)
    out, colour = keep.take(image), lut.take(labels, axis=0)
    if int(keep.max()) + int(lut.max()) > 255:  # both halves were rounded up
        np.minimum(colour, 255 - out, out=colour)
    out += colour
    if min(labels.shape) >= 48 and alpha > 0:
        edges = np.zeros(labels.shape, bool)
        edges[1:] |= labels[1:] != labels[:-1]
        edges[:, 1:] |= labels[:, 1:] != labels[:, :-1]
        pixels, at = out.reshape(-1, 3), np.flatnonzero(edges)
        pixels[at] = (pixels[at].astype(np.uint16) + 2 * 255) // 3
    return out


def add_legend(picture: NDArray[np.uint8], entries: Sequence[LegendEntry]) -> NDArray[np.uint8]:
    """Put the picture beside or above a panel that names its colours.

    Args:
        picture: (H, W, 3) uint8; tiny ones are enlarged by a whole factor.
        entries: largest share first.

    Returns:
        (H', W', 3) uint8.
    """
    from PIL import ImageFont

    factor = max(1, _SMALLEST // max(picture.shape[:2]))
    if factor > 1:
        picture = picture.repeat(factor, axis=0).repeat(factor, axis=1)
    height, width = picture.shape[:2]
    beside = height > 2 * width
    size = int(np.clip(max(min(height, width) / 24, max(height, width) / 64), 13, 64))
    layout = _Layout.fit(
        entries,
        ImageFont.load_default(size),
        size,
        width=max(_NARROWEST, size * 16 if beside else width),
        height=max(height if beside else int(height * 0.6), size * 14),
    )
    panel = layout.draw(
        max(layout.width, 0 if beside else width), max(layout.height, height if beside else 0)
    )
    if beside:
        shape = (max(height, len(panel)), width + panel.shape[1])
    else:
        shape = (height + len(panel), max(width, panel.shape[1]))
    row = np.tile(np.array(_PANEL, np.uint8), shape[1])
    out = np.tile(row, (shape[0], 1)).reshape(
        *shape, 3
    )  # whole rows: numpy fills pixel by pixel ten times as long
    out[:height, :width] = picture
    top, left = (0, width) if beside else (height, 0)
    out[top : top + len(panel), left : left + panel.shape[1]] = panel
    return out


@dataclass(frozen=True, slots=True, kw_only=True)
class _Layout:
    """Entries in columns, filled downwards; what doesn't fit is counted."""

    lines: tuple[tuple[str, str, Colour], ...]
    more: str
    columns: int
    rows: int
    size: int
    cell: int
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont

    @classmethod
    def fit(
        cls,
        entries: Sequence[LegendEntry],
        font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
        size: int,
        *,
        width: int,
        height: int,
    ) -> _Layout:
        """Lay out for a panel of `width`, at most about `height`."""
        room = width - 2 * size
        # Two columns where there is room for them.
        longest = max(min(14 * size, room // 2 - 6 * size), 6 * size)
        rows = max(1, (height - size) // _line_height(size))
        # Only what could be shown is measured: thousands of names would take a minute.
        drawable = entries[: rows * max(1, room // (7 * size))]
        lines = tuple((_fit_text(e.name, font, longest), _percent(e.share), e.colour) for e in drawable)
        widest = max(font.getlength(name) for name, _, _ in lines)
        least = int(widest) + 6 * size
        columns = max(1, min(room // least, len(lines)))
        cell = min(room // columns, least * 3 // 2)
        most = rows * columns
        shown = len(entries) if len(entries) <= most else most - 1
        hidden = entries[shown:]
        more = f"+{len(hidden):,} more ({_percent(sum(e.share for e in hidden))})" if hidden else ""
        rows = -(-(shown + bool(hidden)) // columns)
        return cls(
            lines=lines[:shown], more=more, columns=columns, rows=rows, size=size, cell=cell, font=font
        )

    @property
    def width(self) -> int:
        return max(self.columns * self.cell, int(self.font.getlength(self.more))) + 2 * self.size

    @property
    def height(self) -> int:
        return self.rows * _line_height(self.size) + self.size

    def draw(self, width: int, height: int) -> NDArray[np.uint8]:
        """The panel, (height, width, 3) uint8."""
        from PIL import Image, ImageDraw

        panel = Image.new("RGB", (width, height), _PANEL)
        canvas = ImageDraw.Draw(panel)
        line, size = _line_height(self.size), self.size
        for index in range(len(self.lines) + bool(self.more)):
            column, row = divmod(index, self.rows)
            x, middle = size + column * self.cell, size // 2 + row * line + line // 2
            if index == len(self.lines):
                canvas.text((x, middle), self.more, fill=_FAINT, font=self.font, anchor="lm")
                break
            name, share, colour = self.lines[index]
            box = (x, middle - size // 2, x + size, middle + size // 2)
            canvas.rounded_rectangle(box, size // 5, fill=colour)
            canvas.text((x + size * 1.5, middle), name, fill=_INK, font=self.font, anchor="lm")
            end = x + self.cell - size * 1.25
            canvas.text((end, middle), share, fill=_FAINT, font=self.font, anchor="rm")
        return np.array(panel)


def _line_height(size: int) -> int:
    return round(size * 1.6)


def _fit_text(name: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: float) -> str:
    """The name on one line, shortened to `width` pixels."""
    name = " ".join(name.split())
    low, high = 1, max(1, min(len(name), 60))
    while low < high:
        middle = (low + high + 1) // 2
        if font.getlength(shorten(name, middle)) <= width:
            low = middle
        else:
            high = middle - 1
    return shorten(name, low)


def _percent(share: float) -> str:
    if share >= 0.0995:
        return f"{share:.0%}"
    return f"{share:.1%}" if share >= 0.001 else "<0.1%"
