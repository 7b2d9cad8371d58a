"""Datasets by name: the eight benchmarks, the demo scenes, and a user's own folders."""

from __future__ import annotations

import difflib
from pathlib import Path

from scclip_rt.errors import OptionError
from scclip_rt.evaluation.datasets.base import Dataset, Sample
from scclip_rt.evaluation.datasets.benchmarks import BENCHMARKS, Benchmark
from scclip_rt.evaluation.datasets.demo import open_demo
from scclip_rt.evaluation.datasets.folder import open_folder
from scclip_rt.evaluation.datasets.masks import IGNORED, MaskRule
from scclip_rt.vocabulary.classes import ClassSource

__all__ = [
    "BENCHMARKS",
    "DATASETS",
    "IGNORED",
    "Benchmark",
    "Dataset",
    "MaskRule",
    "Sample",
    "open_dataset",
    "open_demo",
    "open_folder",
]

DATASETS = (*BENCHMARKS, "demo", "folder")


def open_dataset(
    name: str,
    *,
    root: Path | None = None,
    classes: ClassSource | None = None,
    names: Path | None = None,
    images: Path | None = None,
    masks: Path | None = None,
    ignore: int | None = None,
    values: tuple[int, ...] | None = None,
    reduce_zero_label: bool = False,
    background: str | None = None,
) -> Dataset:
    """Open a dataset by its name on the command line.

    Args:
        name: one of `DATASETS`.
        root: a benchmark's folder.
        classes: names for the classes; None takes the dataset's own. `folder` needs them.
        names: a list of images to use.
        images: the images of `folder`.
        masks: the masks of `folder`.
        ignore: the ignored label of `folder`.
        values: the masks' value of each class of `folder`, in turn; None: 0, 1, 2, ….
        reduce_zero_label: of `folder`; benchmarks have their own.
        background: the background class of `folder`; benchmarks have their own.

    Raises:
        OptionError: an unknown name, or an argument that this dataset needs or does not have.
        DatasetError: files are missing.
        VocabularyError: the class list can't be read.
    """
    given = {
        "--root": root is not None,
        "--list": names is not None,
        "--images": images is not None,
        "--masks": masks is not None,
        "--ignore-label": ignore is not None,
        "--mask-values": values is not None,
        "--reduce-zero-label": reduce_zero_label,
        "--background": background is not None,
    }
    if name in BENCHMARKS:
        _only(name, given, ("--root", "--list"))
        if root is None:
            raise OptionError(
                f"--dataset {name} needs --root: the folder that {BENCHMARKS[name].layout.title} is in"
            )
        return BENCHMARKS[name].open(root, classes=classes, names=names)
    if name == "demo":
        _only(name, given, ())
        return open_demo(classes=classes)
    if name == "folder":
        _only(name, given, tuple(option for option in given if option != "--root"))
        if images is None or masks is None or classes is None:
            raise OptionError("--dataset folder needs --images DIR, --masks DIR and --classes FILE")
        return open_folder(
            images,
            masks,
            classes,
            names=names,
            ignore=ignore,
            values=values,
            reduce_zero_label=reduce_zero_label,
            background=background,
        )
    close = difflib.get_close_matches(name, DATASETS, n=1)
    hint = f"; did you mean {close[0]}" if close else ""
    raise OptionError(f"unknown dataset {name!r}{hint}; known: {', '.join(DATASETS)}")


def _only(name: str, given: dict[str, bool], allowed: tuple[str, ...]) -> None:
    """Refuse options that would be ignored in silence."""
    for option, is_given in given.items():
        if is_given and option not in allowed:
            raise OptionError(f"--dataset {name} takes no {option}")
