"""A comparison as one HTML file that needs no other: figures, and overlays of the images that differ most."""

from __future__ import annotations

import base64
import html
import io
import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from scclip_rt.decode.best import Labels
from scclip_rt.evaluation.compare import Comparison, Difference
from scclip_rt.evaluation.datasets.masks import IGNORED
from scclip_rt.evaluation.report import percent, setup_lines
from scclip_rt.overlay import class_colours, paint
from scclip_rt.segmentation import UNLABELLED

LONG_SIDE = 360
"""Pixels of the pictures in the sheet."""
_ALPHA = 0.6
_KEYS = 14
"""Labels named under an image: those that cover most of its maps."""
_DIFFERENT = (213, 0, 90)

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; background: #fff; margin: 2rem auto; max-width: 118rem;
  padding: 0 1.5rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; }
table { border-collapse: collapse; } td, th { padding: .2rem .9rem .2rem 0; text-align: left; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; }
tr + tr td { border-top: 1px solid #e4e4e4; } pre { color: #666; font-size: .85rem; white-space: pre-wrap; }
.row { display: flex; flex-wrap: wrap; gap: .6rem; } figure { margin: 0; }
figcaption { color: #666; font-size: .85rem; }
img { display: block; border-radius: 3px; max-width: 100%; }
.key { display: flex; flex-wrap: wrap; gap: .2rem 1.1rem; margin: .4rem 0 1.6rem; }
.key i { display: inline-block; width: .9em; height: .9em; border-radius: 2px; margin-right: .4em; }
"""


def sheet(comparison: Comparison, names: tuple[str, str]) -> str:
    """The HTML document.

    Args:
        comparison: what `compare` gave.
        names: what to call the two.
    """
    a, b = (html.escape(name) for name in names)
    title = f"{a} and {b} on {html.escape(comparison.first.dataset.title)}"
    parts = [
        "<!doctype html>",
        f'<html lang="en"><meta charset="utf-8"><title>{title}</title><style>{_STYLE}</style>',
        f"<h1>{title}</h1>",
        *_figures(comparison, a, b),
        *_images(comparison, a, b),
        "<h2>Classes, the largest change first</h2>",
        *_classes(comparison, a, b),
        "</html>",
    ]
    return "\n".join(parts) + "\n"


def _figures(comparison: Comparison, a: str, b: str) -> Iterator[str]:
    first, second = comparison.first.scores, comparison.second.scores
    head = "".join(f'<th class="number">{text}</th>' for text in (a, b, "change"))
    yield f"<table><tr><th></th>{head}</tr>"
    for label, key in (("mIoU", "miou"), ("aAcc", "aacc"), ("mAcc", "macc")):
        yield _row(label, getattr(first, key), getattr(second, key))
    yield "</table>"
    yield (
        f"<p>{comparison.first.images:,} images. The labels agree on <b>{comparison.agreement:.2f} %</b> of all "
        f"pixels, and on {comparison.least_agreement:.2f} % where they agree least.</p>"
    )
    setups = [comparison.first.setup, comparison.second.setup]
    yield "<pre>" + html.escape("\n".join(line for setup in setups for line in setup_lines(setup))) + "</pre>"


def _classes(comparison: Comparison, a: str, b: str) -> Iterator[str]:
    first, second = comparison.first.scores.iou, comparison.second.scores.iou
    change = np.nan_to_num(second - first)
    head = "".join(f'<th class="number">{text}</th>' for text in (f"IoU {a}", f"IoU {b}", "change"))
    yield f"<table><tr><th>class</th>{head}</tr>"
    for index in np.argsort(-np.abs(change), kind="stable"):
        name = html.escape(comparison.first.dataset.classes[index])
        yield _row(name, float(first[index]), float(second[index]))
    yield "</table>"


def _row(label: str, first: float, second: float) -> str:
    change = "–" if math.isnan(second - first) else f"{second - first:+.2f}"
    cells = "".join(f'<td class="number">{text}</td>' for text in (percent(first), percent(second), change))
    return f"<tr><td>{label}</td>{cells}</tr>"


def _images(comparison: Comparison, a: str, b: str) -> Iterator[str]:
    if not comparison.worst:
        yield "<p>The labels agree on every pixel of every image.</p>"
        return
    yield f"<h2>The {len(comparison.worst)} images that differ most</h2>"
    dataset = comparison.first.dataset
    background = dataset.classes.index("background") if "background" in dataset.classes else None
    for difference in comparison.worst:
        yield f"<h3>{html.escape(difference.name)}: {difference.agreement:.2f} % agree</h3>"
        captions = ("image", a, b, "where they differ", "ground truth")
        pictures, key = _pictures(difference, dataset.classes, background)
        figures = (
            f'<figure><img src="{_data_url(picture)}" alt=""><figcaption>{caption}</figcaption></figure>'
            for picture, caption in zip(pictures, captions, strict=True)
        )
        yield f'<div class="row">{"".join(figures)}</div>'
        entries = (
            f'<span><i style="background:rgb{colour}"></i>{html.escape(name)}</span>' for name, colour in key
        )
        yield f'<div class="key">{"".join(entries)}</div>'


def _pictures(
    difference: Difference, classes: tuple[str, ...], background: int | None
) -> tuple[list[NDArray[np.uint8]], list[tuple[str, tuple[int, ...]]]]:
    """Five pictures (h, w, 3) uint8, and the names and colours of the labels that cover most."""
    rows, columns = _grid(difference.image.shape)
    image = _shrink(difference.image)
    unlabelled = difference.unlabelled
    sampled = difference.truth[rows][:, columns]
    truth: Labels = np.where(sampled == IGNORED, unlabelled, sampled).astype(np.uint16)
    maps = [labels[rows][:, columns] for labels in difference.labels]
    present = [int(label) for label in np.unique(np.stack([*maps, truth]))]
    colours = class_colours(present, background=background, unlabelled=unlabelled)
    first, second, true = (paint(image, labels, present, colours, _ALPHA) for labels in (*maps, truth))
    changed = np.where(maps[0] != maps[1], 1, 0)[..., None]
    marked = np.where(changed, np.array(_DIFFERENT), 64 + image.mean(axis=2, keepdims=True) * 0.6)
    covered = np.bincount(np.stack([*maps, truth]).ravel())[present]
    key = [
        (UNLABELLED if present[i] == unlabelled else classes[present[i]], tuple(colours[i].tolist()))
        for i in np.argsort(-covered, kind="stable")[:_KEYS]
    ]
    return [image, first, second, marked.astype(np.uint8), true], key


def _grid(shape: tuple[int, ...]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Rows and columns that a picture of at most `LONG_SIDE` takes from a map: labels can't be averaged."""
    scale = max(1.0, max(shape[:2]) / LONG_SIDE)
    rows, columns = (
        np.minimum(((np.arange(max(1, round(n / scale))) + 0.5) * scale).astype(np.intp), n - 1)
        for n in shape[:2]
    )
    return rows, columns


def _shrink(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    from PIL import Image

    rows, columns = _grid(image.shape)
    return np.array(Image.fromarray(image).resize((len(columns), len(rows)), Image.Resampling.BOX))


def _data_url(picture: NDArray[np.uint8]) -> str:
    from PIL import Image

    buffer = io.BytesIO()
    # Photographs under flat colours: JPEG is a fifth of PNG's size, and nobody measures in a sheet.
    Image.fromarray(picture).save(buffer, format="JPEG", quality=82)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
