"""Two bundles, or two precisions of one, on the same images: figures, agreement, and where they differ most."""

from __future__ import annotations

import contextlib
import heapq
import time
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from scclip_rt.decode.best import Labels
from scclip_rt.errors import OptionError
from scclip_rt.evaluation.datasets.base import Dataset, Sample
from scclip_rt.evaluation.datasets.masks import IGNORED
from scclip_rt.evaluation.evaluate import (
    Evaluation,
    check_classes,
    checked_limit,
    count,
    new_matrix,
    predictions,
    progress_bar,
)
from scclip_rt.evaluation.metrics import ConfusionMatrix
from scclip_rt.evaluation.setup import describe
from scclip_rt.segmentation import Segmentation
from scclip_rt.segmenter import Segmenter

WORST = 12
"""Images kept for the sheet."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Difference:
    """One image on which two segmenters differ.

    Attributes:
        name: the sample's.
        agreement: percent of all pixels with the same label.
        image: (H, W, 3) uint8.
        truth: (H, W) uint16 class indices, `IGNORED` where nothing counts.
        labels: of the first and the second, (H, W) each.
        unlabelled: their label of pixels without a class.
    """

    name: str
    agreement: float
    image: NDArray[np.uint8]
    truth: NDArray[np.uint16]
    labels: tuple[Labels, Labels]
    unlabelled: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Comparison:
    """Two evaluations of the same images.

    Attributes:
        first: of the first segmenter.
        second: of the second.
        agreement: percent of all pixels, ignored ones included, with the same label.
        least_agreement: percent on the image where it is lowest.
        worst: the images that differ most, the worst first; none that agree entirely.
    """

    first: Evaluation
    second: Evaluation
    agreement: float
    least_agreement: float
    worst: tuple[Difference, ...]


def compare(
    first: Segmenter,
    second: Segmenter,
    dataset: Dataset,
    *,
    limit: int | None = None,
    worst: int = WORST,
    progress: bool = False,
) -> Comparison:
    """Evaluate two segmenters side by side. Memory holds the `worst` images and what streams read ahead.

    Args:
        first: with the dataset's classes, from `open_segmenter`.
        second: another bundle, precision or setting.
        dataset: images and truth.
        limit: only the first so many images.
        worst: how many images to keep that differ most.
        progress: show images and the running agreement on standard error.

    Raises:
        DatasetError: as `evaluate`.
        ImageError: an image that can't be read.
        OptionError: `limit` or `worst` out of range.
    """
    total = checked_limit(dataset, limit)
    if worst < 0:
        raise OptionError(f"worst must be at least 0; got {worst}")
    for segmenter in (first, second):
        check_classes(segmenter, dataset)
    tally = _Tally(keep=worst)
    matrices = new_matrix(dataset), new_matrix(dataset)
    started = time.monotonic()
    bar = progress_bar(total, 0, show=progress)
    with (
        contextlib.closing(predictions(first, (dataset.samples[i] for i in range(total)))) as left,
        contextlib.closing(predictions(second, (dataset.samples[i] for i in range(total)))) as right,
        bar,
    ):
        for (sample, a), (_, b) in zip(left, right, strict=True):
            truth = sample.truth_for(a.labels.shape)
            for matrix, result in zip(matrices, (a, b), strict=True):
                matrix.counts += count(matrix, sample, result, truth)
                matrix.ignored += int((truth == IGNORED).sum())
            tally.add(sample, a, b, truth)
            bar.set_postfix_str(f"agreement {tally.agreement:.2f}", refresh=False)
            bar.update()
    seconds = time.monotonic() - started

    def evaluation(segmenter: Segmenter, matrix: ConfusionMatrix) -> Evaluation:
        setup = describe(segmenter, dataset)
        return Evaluation(dataset=dataset, images=total, matrix=matrix, seconds=seconds, setup=setup)

    return Comparison(
        first=evaluation(first, matrices[0]),
        second=evaluation(second, matrices[1]),
        agreement=tally.agreement,
        least_agreement=tally.least,
        worst=tally.worst(),
    )


@dataclass(slots=True)
class _Tally:
    """Agreement so far, and a heap of the images that agree least."""

    keep: int
    same: int = 0
    pixels: int = 0
    least: float = 100.0
    heap: list[tuple[float, int, Difference]] = field(default_factory=list)
    images: int = 0

    @property
    def agreement(self) -> float:
        return 100.0 * self.same / self.pixels if self.pixels else 100.0

    def add(self, sample: Sample, a: Segmentation, b: Segmentation, truth: NDArray[np.uint16]) -> None:
        same = int((a.labels == b.labels).sum())
        share = 100.0 * same / a.labels.size
        self.same += same
        self.pixels += a.labels.size
        self.images += 1
        self.least = min(self.least, share)
        if a.image is None or same == a.labels.size or not self.keep:
            return
        if len(self.heap) == self.keep and -share <= self.heap[0][0]:
            return
        difference = Difference(
            name=sample.name,
            agreement=share,
            image=a.image,
            truth=truth,
            labels=(a.labels, b.labels),
            unlabelled=a.unlabelled,
        )
        # The number breaks ties; the heap's smallest entry is the image that agrees most.
        push = heapq.heappush if len(self.heap) < self.keep else heapq.heapreplace
        push(self.heap, (-share, -self.images, difference))

    def worst(self) -> tuple[Difference, ...]:
        return tuple(entry[2] for entry in sorted(self.heap, key=lambda entry: entry[:2], reverse=True))
