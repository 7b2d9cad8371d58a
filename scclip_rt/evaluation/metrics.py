"""mIoU and accuracies from a confusion matrix: constant memory, whatever the number of images."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from scclip_rt.errors import OptionError
from scclip_rt.evaluation.errors import DatasetError

IGNORE = 255
"""The label that segmentation masks customarily give to pixels that do not count."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Scores:
    """Figures in percent, as mmsegmentation's IoUMetric defines them.

    With I, T and P the pixels of a class that are right, true and predicted, each summed over all images:
    IoU = I / (T + P − I), Acc = I / T. Means leave out the classes whose denominator is 0.

    Attributes:
        miou: mean of `iou`; NaN where no class has a union.
        macc: mean of `acc`.
        aacc: right pixels of all pixels that count.
        iou: (C,) float64; NaN for classes that neither occur nor are predicted.
        acc: (C,) float64; NaN for classes that do not occur.
        share: (C,) float64, each class's part of all pixels that count.
    """

    miou: float
    macc: float
    aacc: float
    iou: NDArray[np.float64]
    acc: NDArray[np.float64]
    share: NDArray[np.float64]


@dataclass(slots=True, eq=False)
class ConfusionMatrix:
    """How often each true class was given each label.

    Pixels whose truth is `ignore` do not count at all. Pixels that the prediction leaves unlabelled count as
    wrong: they are in the last column, so they enlarge the union of their true class and that of no other.

    Attributes:
        num_classes: C.
        ignore: the label of true masks that does not count.
        counts: (C, C + 1) int64: true class × predicted class, the last column for unlabelled pixels.
        ignored: pixels that did not count.
    """

    num_classes: int
    ignore: int = IGNORE
    counts: NDArray[np.int64] = field(default_factory=lambda: np.zeros((0, 0), np.int64))
    ignored: int = 0

    def __post_init__(self) -> None:
        if self.num_classes < 1:
            raise OptionError(f"a confusion matrix needs at least one class; got {self.num_classes}")
        shape = (self.num_classes, self.num_classes + 1)
        if self.counts.size == 0:
            self.counts = np.zeros(shape, np.int64)
        if self.counts.shape != shape or self.counts.dtype != np.int64 or self.counts.min() < 0:
            raise OptionError(
                f"counts of {self.num_classes} classes must be int64 {shape}, none negative; "
                f"got {self.counts.dtype} {self.counts.shape}"
            )

    def count(
        self, truth: NDArray[Any], labels: NDArray[Any], *, unlabelled: int | None = None
    ) -> NDArray[np.int64]:
        """The counts of one image, without adding them.

        Args:
            truth: (H, W) integers: class indices, or `ignore`.
            labels: (H, W) integers: class indices, or `unlabelled`.
            unlabelled: the label of pixels without a class; None: there are none.

        Returns:
            (C, C + 1) int64.

        Raises:
            DatasetError: different shapes, or a label that is no class; says which.
        """
        if truth.shape != labels.shape:
            raise DatasetError(f"the mask is {_size(truth)} and the prediction {_size(labels)}")
        counted = truth != self.ignore
        true, given = truth[counted].astype(np.int64), labels[counted].astype(np.int64)
        nothing = np.zeros(given.shape, bool) if unlabelled is None else given == unlabelled
        self._check("true label", true)
        self._check("predicted label", given[~nothing])
        given[nothing] = self.num_classes
        width = self.num_classes + 1
        pairs = np.bincount(true * width + given, minlength=self.num_classes * width)
        return pairs.reshape(self.num_classes, width).astype(np.int64, copy=False)

    def update(self, truth: NDArray[Any], labels: NDArray[Any], *, unlabelled: int | None = None) -> None:
        """Add one image; the arguments and errors are those of `count`."""
        self.counts += self.count(truth, labels, unlabelled=unlabelled)
        self.ignored += int((truth == self.ignore).sum())

    def __add__(self, other: ConfusionMatrix) -> Self:
        """The matrix of both sets of images.

        Raises:
            OptionError: they count different numbers of classes.
        """
        if other.num_classes != self.num_classes:
            raise OptionError(
                f"can't merge confusion matrices of {self.num_classes} and {other.num_classes} classes"
            )
        return type(self)(
            self.num_classes, self.ignore, self.counts + other.counts, self.ignored + other.ignored
        )

    @property
    def pixels(self) -> int:
        """Pixels counted."""
        return int(self.counts.sum())

    @property
    def unlabelled(self) -> int:
        """Counted pixels that the prediction left without a class."""
        return int(self.counts[:, -1].sum())

    @property
    def ignored_share(self) -> float:
        """Ignored pixels of all, from 0 to 1."""
        return self.ignored / max(self.pixels + self.ignored, 1)

    def scores(self) -> Scores:
        """The figures of all images so far."""
        right = np.diagonal(self.counts)
        true, given = self.counts.sum(axis=1), self.counts[:, :-1].sum(axis=0)
        iou, acc = _percent(right, true + given - right), _percent(right, true)
        total = np.full_like(true, true.sum())
        return Scores(
            miou=_mean(iou),
            macc=_mean(acc),
            aacc=float(_percent(right.sum(keepdims=True), total[:1])[0]),
            iou=iou,
            acc=acc,
            share=_percent(true, total),
        )

    def _check(self, what: str, values: NDArray[np.int64]) -> None:
        wrong = values[(values < 0) | (values >= self.num_classes)]
        if len(wrong):
            raise DatasetError(f"{what} {wrong[0]} is none of the {self.num_classes} classes (from 0 on)")


def _percent(part: NDArray[np.int64], whole: NDArray[np.int64]) -> NDArray[np.float64]:
    out: NDArray[np.float64] = np.full(part.shape, np.nan)
    np.divide(100.0 * part, whole, out=out, where=whole > 0)
    return out


def _mean(values: NDArray[np.float64]) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else float("nan")


def _size(array: NDArray[Any]) -> str:
    return "×".join(str(length) for length in array.shape[::-1])
