"""The figures as a table for the terminal and as JSON."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from scclip_rt.evaluation.compare import Comparison
from scclip_rt.evaluation.evaluate import Evaluation
from scclip_rt.image.files import skipped_words
from scclip_rt.vocabulary.classes import shorten

SCHEMA = "scclip-eval/1"
COMPARISON_SCHEMA = "scclip-eval-comparison/1"
_NAME_WIDTH = 28


def table(result: Evaluation) -> str:
    """What a person wants to read: the setup, the means, and every class.

    Returns:
        Lines joined by newlines, without the last one.
    """
    return "\n".join(_lines(result))


def document(result: Evaluation) -> dict[str, Any]:
    """Everything, as JSON: figures in percent, null for classes that they don't exist for."""
    scores, matrix = result.scores, result.matrix
    return {
        "schema": SCHEMA,
        **result.setup,
        "images": result.images,
        "seconds": round(result.seconds, 3),
        "pixels": matrix.pixels,
        "unlabelled_pixels": matrix.unlabelled,
        "ignored_pixels": matrix.ignored,
        "ignored_share": round(matrix.ignored_share, 6),
        "skipped": list(result.dataset.skipped),
        "miou": _number(scores.miou),
        "aacc": _number(scores.aacc),
        "macc": _number(scores.macc),
        "classes": [
            {
                "name": name,
                "iou": _number(float(scores.iou[index])),
                "acc": _number(float(scores.acc[index])),
                "share": _number(float(scores.share[index])),
                "names": list(result.dataset.prompts[index]),
            }
            for index, name in enumerate(result.dataset.classes)
        ],
    }


def summary(result: Evaluation) -> str:
    """The three means in one line."""
    scores = result.scores
    return f"mIoU {percent(scores.miou)}   aAcc {percent(scores.aacc)}   mAcc {percent(scores.macc)}"


def setup_lines(setup: dict[str, Any]) -> Iterator[str]:
    """Bundle, backend and settings, a line each."""
    bundle, backend, settings = setup["bundle"], setup["backend"], setup["settings"]
    calibration = f", calibration {bundle['calibration']}" if bundle["calibration"] else ""
    yield f"{bundle['path']}: {bundle['name']}{calibration}"
    yield f"  {backend['backend']} {backend['version']}, {backend['device']}, {backend['precision']}, {backend['grid']}"
    refine = f", refine {settings['refine']}" if settings["refine"] else ""
    yield (
        f"  short side {settings['short_side']}, stride {settings['stride']}, "
        f"logit scale {settings['logit_scale']:g}, prob threshold {settings['prob_threshold']:g}, "
        f"area threshold {settings['area_threshold']:g}{refine}"
    )


def percent(value: float) -> str:
    """A figure with two decimals; a dash for one that does not exist."""
    return "–" if math.isnan(value) else f"{value:.2f}"


def _lines(result: Evaluation) -> Iterator[str]:
    scores, dataset = result.scores, result.dataset
    yield from setup_lines(result.setup)
    of = "" if result.images == len(dataset) else f" of {len(dataset):,}"
    rate = f", {result.images / result.seconds:.2f} a second" if result.seconds > 0 else ""
    yield f"{dataset.title}: {result.images:,}{of} images{rate}"
    yield ""
    width = min(max(len("class"), *(len(name) for name in dataset.classes)), _NAME_WIDTH)
    yield f"  {'class':<{width}}  {'IoU':>6}  {'Acc':>6}  {'share':>6}"
    for index, name in enumerate(dataset.classes):
        figures = (scores.iou[index], scores.acc[index], scores.share[index])
        cells = "  ".join(f"{percent(float(figure)):>6}" for figure in figures)
        yield f"  {shorten(name, width):<{width}}  {cells}"
    yield ""
    if result.matrix.ignored:
        yield f"ignored, as the masks say: {100 * result.matrix.ignored_share:.2f} % of the pixels"
    if dataset.skipped:
        yield skipped_words(len(dataset.skipped)) + " (--json names them)"
    if result.matrix.unlabelled:
        part = 100 * result.matrix.unlabelled / result.matrix.pixels
        yield f"unlabelled, counted as wrong: {part:.2f} % of the pixels"
    yield summary(result)


def _number(value: float) -> float | None:
    return None if math.isnan(value) else round(value, 4)


def comparison_table(result: Comparison, names: tuple[str, str]) -> str:
    """The means of both, their change, and how far the labels agree."""
    first, second = result.first.scores, result.second.scores
    width = max(*(len(name) for name in names), 6)
    lines = [*setup_lines(result.first.setup), *setup_lines(result.second.setup), ""]
    lines.append(f"  {'':{width}}  {'mIoU':>6}  {'aAcc':>6}  {'mAcc':>6}")
    for name, scores in zip(names, (first, second), strict=True):
        cells = "  ".join(f"{percent(value):>6}" for value in (scores.miou, scores.aacc, scores.macc))
        lines.append(f"  {name:{width}}  {cells}")
    changes = (second.miou - first.miou, second.aacc - first.aacc, second.macc - first.macc)
    cells = "  ".join(f"{'–' if math.isnan(change) else f'{change:+.2f}':>6}" for change in changes)
    lines += [f"  {'change':{width}}  {cells}", ""]
    lines.append(
        f"{result.first.images:,} images; the labels agree on {result.agreement:.2f} % of the pixels, "
        f"on {result.least_agreement:.2f} % in the image where they agree least"
    )
    if result.worst:
        listed = ", ".join(f"{item.name} ({item.agreement:.1f} %)" for item in result.worst[:5])
        lines.append(f"they differ most in {listed}")
    return "\n".join(lines)


def comparison_document(result: Comparison) -> dict[str, Any]:
    """A comparison as JSON."""
    return {
        "schema": COMPARISON_SCHEMA,
        "first": document(result.first),
        "second": document(result.second),
        "miou_change": _number(result.second.scores.miou - result.first.scores.miou),
        "agreement": round(result.agreement, 4),
        "least_agreement": round(result.least_agreement, 4),
        "worst": [{"name": item.name, "agreement": round(item.agreement, 4)} for item in result.worst],
    }
