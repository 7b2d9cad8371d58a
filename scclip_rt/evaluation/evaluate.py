"""Run a segmenter over a dataset: constant memory, progress, and a state file to go on from."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from scclip_rt.bundle.bundle import Bundle
from scclip_rt.bundle.manifest import VERSION_1_METHODS
from scclip_rt.bundle.presets import split
from scclip_rt.errors import OptionError
from scclip_rt.evaluation.datasets.base import Dataset, Sample
from scclip_rt.evaluation.datasets.masks import IGNORED
from scclip_rt.evaluation.errors import DatasetError
from scclip_rt.evaluation.metrics import ConfusionMatrix, Scores
from scclip_rt.evaluation.presets import Settings
from scclip_rt.evaluation.setup import describe
from scclip_rt.evaluation.state import Tally, load_state, save_state
from scclip_rt.segmenter import Segmenter

if TYPE_CHECKING:
    from scclip_rt.image.load import ImageSource
    from scclip_rt.segmentation import Segmentation

SAVE_SECONDS = 10.0
"""Between two writings of the state file: what a power cut can cost."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Evaluation:
    """What was measured, on what and with what.

    Attributes:
        dataset: what was evaluated.
        images: how many of its images, from the first on.
        matrix: their confusion matrix.
        seconds: time spent, of all runs that a state file joined.
        setup: bundle, backend, settings: see `scclip_rt.evaluation.setup.describe`.
    """

    dataset: Dataset
    images: int
    matrix: ConfusionMatrix
    seconds: float
    setup: dict[str, Any]

    @property
    def scores(self) -> Scores:
        """The figures, in percent."""
        return self.matrix.scores()


def open_segmenter(
    bundle: str | os.PathLike[str] | Bundle,
    dataset: Dataset,
    *,
    short_side: int | None = None,
    logit_scale: float | None = None,
    prob_threshold: float | None = None,
    area_threshold: float | None = None,
    **options: Any,
) -> Segmenter:
    """A segmenter with a dataset's classes and the settings it is published with.

    Args:
        bundle: a directory, `demo`, or an open `Bundle`.
        dataset: whose classes and preset to take.
        short_side: pixels; as for the following three, None takes the dataset's number, else the bundle's.
        logit_scale: factor on cosines.
        prob_threshold: 0 is off.
        area_threshold: 0 is off.
        options: any others of `Segmenter`.

    Raises:
        ScclipError: as `Segmenter`.
    """
    opened = Bundle.open(Path(bundle) if isinstance(bundle, os.PathLike) else bundle)
    preset = dataset.preset.settings(opened.model)
    # A method's own numbers for this benchmark, where it has some, else those that SC-CLIP was published with.
    benchmark, point = split(options.get("preset"))
    own = dataset.name if dataset.name in opened.manifest.benchmarks else None
    if opened.manifest.benchmarks or opened.manifest.calibration["method"] not in VERSION_1_METHODS:
        preset = Settings()
    options["preset"] = ",".join(name for name in (benchmark or own, point) if name) or None

    def first(given: Any, default: Any) -> Any:
        return default if given is None else given

    return Segmenter(
        opened,
        classes=dataset.class_lines,
        background=dataset.background,
        short_side=first(short_side, preset.short_side),
        logit_scale=first(logit_scale, preset.logit_scale),
        prob_threshold=first(prob_threshold, preset.prob_threshold),
        area_threshold=first(area_threshold, preset.area_threshold),
        **options,
    )


def evaluate(
    segmenter: Segmenter,
    dataset: Dataset,
    *,
    limit: int | None = None,
    resume: str | os.PathLike[str] | None = None,
    progress: bool = False,
) -> Evaluation:
    """Segment a dataset's images and compare them with the truth.

    Args:
        segmenter: with the dataset's classes, in their order: `open_segmenter` makes one.
        dataset: images and truth.
        limit: only the first so many images.
        resume: a state file. If it exists, go on after the images in it; it is kept up to date, also when an
            error or Ctrl-C ends the run.
        progress: show images and the running mIoU on standard error.

    Raises:
        DatasetError: a mask that is missing, of another size than its image, or has a label out of range.
        ImageError: an image that can't be read.
        OptionError: `limit` is less than 1, or the state file is of another evaluation; says in what.
    """
    total = checked_limit(dataset, limit)
    check_classes(segmenter, dataset)
    setup = describe(segmenter, dataset)
    state = None if resume is None else Path(resume)
    tally = Tally(matrix=new_matrix(dataset))
    if state is not None and state.exists():
        tally = load_state(state, setup, tally.matrix)
        if tally.done > total:
            raise OptionError(
                f"{state} has {tally.done} images done already, more than the {total} asked for"
            )
    if state is not None:
        save_state(state, setup, tally)  # a place that can't be written shows before hours of work
    with contextlib.closing(predictions(segmenter, _part(dataset, tally.done, total))) as results:
        tally = _run(results, tally, total, setup, state, progress=progress)
    return Evaluation(
        dataset=dataset, images=tally.done, matrix=tally.matrix, seconds=tally.seconds, setup=setup
    )


def predictions(
    segmenter: Segmenter, samples: Iterable[Sample]
) -> Generator[tuple[Sample, Segmentation], None, None]:
    """Stream samples through a segmenter, in order; only as many are held as the stream reads ahead.

    Raises:
        ImageError: an image that can't be read.
    """
    waiting: deque[Sample] = deque()

    def images() -> Iterator[ImageSource]:
        for sample in samples:
            waiting.append(sample)
            yield sample.image

    for outcome in segmenter.outcomes(images()):
        yield waiting.popleft(), outcome.unwrap()


def count(
    matrix: ConfusionMatrix, sample: Sample, result: Segmentation, truth: NDArray[np.uint16]
) -> NDArray[np.int64]:
    """The counts of one result; an error names the sample.

    Raises:
        DatasetError: see `ConfusionMatrix.count`.
    """
    try:
        return matrix.count(truth, result.labels, unlabelled=result.unlabelled)
    except DatasetError as error:
        raise DatasetError(f"{sample.source}: {error}") from error


def new_matrix(dataset: Dataset) -> ConfusionMatrix:
    """An empty confusion matrix for truth as samples give it."""
    return ConfusionMatrix(dataset.num_classes, ignore=IGNORED)


def checked_limit(dataset: Dataset, limit: int | None) -> int:
    """How many images to evaluate.

    Raises:
        OptionError: `limit` is less than 1.
    """
    if limit is not None and limit < 1:
        raise OptionError(f"limit must be at least 1; got {limit}")
    return len(dataset) if limit is None else min(limit, len(dataset))


def check_classes(segmenter: Segmenter, dataset: Dataset) -> None:
    """Refuse a segmenter with another number of classes.

    Raises:
        DatasetError: says how many either has.
    """
    found = len(segmenter.vocabulary)
    if found != dataset.num_classes:
        raise DatasetError(
            f"{dataset.title} has {dataset.num_classes} classes and the segmenter {found}; "
            "make it with open_segmenter(bundle, dataset)"
        )


def progress_bar(total: int, done: int, *, show: bool) -> Any:
    """Progress on standard error, or none."""
    from tqdm import tqdm

    return tqdm(total=total, initial=done, unit="image", desc="evaluating", file=sys.stderr, disable=not show)


def _part(dataset: Dataset, start: int, stop: int) -> Iterator[Sample]:
    return (dataset.samples[index] for index in range(start, stop))


def _run(
    results: Iterator[tuple[Sample, Segmentation]],
    tally: Tally,
    total: int,
    setup: dict[str, Any],
    state: Path | None,
    *,
    progress: bool,
) -> Tally:
    started = saved = time.monotonic()
    before = tally.seconds
    bar = progress_bar(total, tally.done, show=progress)
    try:
        for sample, result in results:
            truth = sample.truth_for(result.labels.shape)
            counts = count(tally.matrix, sample, result, truth)
            now = time.monotonic()
            # One assignment: Ctrl-C finds either the old tally or the new one, never half an image.
            tally = replace(tally.plus(counts, int((truth == IGNORED).sum())), seconds=before + now - started)
            if state is not None and now - saved > SAVE_SECONDS:
                save_state(state, setup, tally)
                saved = now
            bar.set_postfix_str(f"mIoU {tally.matrix.scores().miou:.2f}", refresh=False)
            bar.update()
    finally:
        bar.close()
        if state is not None:
            save_state(state, setup, tally)
    return tally
