"""A user's own images and masks."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np

from scclip_rt.evaluation.datasets.base import Dataset, Sample
from scclip_rt.evaluation.datasets.masks import IGNORED, MaskRule
from scclip_rt.evaluation.datasets.names import read_names
from scclip_rt.evaluation.errors import DatasetError
from scclip_rt.evaluation.metrics import IGNORE
from scclip_rt.image.files import IMAGE_SUFFIXES, MASK_SUFFIXES, images_below
from scclip_rt.vocabulary.classes import ClassSource, parse_classes

_PROBED = 64
_MUCH_IGNORED = 0.1


def open_folder(
    images: Path,
    masks: Path,
    classes: ClassSource,
    *,
    names: Path | None = None,
    ignore: int | None = None,
    values: tuple[int, ...] | None = None,
    reduce_zero_label: bool = False,
    background: str | None = None,
) -> Dataset:
    """Pair images with masks of the same name.

    Args:
        images: folder of images, searched through.
        masks: folder with a mask for each image: the same path below it, with a mask's suffix.
        classes: the classes in the order of the masks' labels.
        names: a list of the images to use; None takes all.
        ignore: the label that does not count; None takes 255, or 65535 above 255 classes, and none beside `values`.
        values: the masks' value of each class, in turn; None: 0, 1, 2, ….
        reduce_zero_label: label 0 does not count either, and 1 is the first class.
        background: name of a class, `none`, or None for the class called "background", if any.

    Raises:
        DatasetError: no images, an image without a mask, two images of one name, or masks in which 255 seems to be a
            class.
        VocabularyError: the class list can't be read.
    """
    prompts = parse_classes(classes)
    for folder, what in ((images, "images"), (masks, "masks")):
        if not folder.is_dir():
            reason = "is a file" if folder.exists() else "no such folder"
            raise DatasetError(f"{folder}: {reason}; --{what} names a folder")
    assumed = ignore is None and values is None
    if assumed:
        ignore = IGNORE if len(prompts) + reduce_zero_label <= IGNORE else 65535
    rule = MaskRule(
        num_classes=len(prompts), ignore=ignore, reduce_zero_label=reduce_zero_label, values=values
    )
    below = images_below(images)
    found = _chosen(_by_name(below.images, images), names, images)
    mask_files = _mask_files(masks)
    paths = {name: _mask(mask_files, masks, name, image) for name, image in found.items()}
    if assumed:
        _check_ignored(rule, list(paths.values()), [synonyms[0] for synonyms in prompts])
    samples = [
        Sample(name=name, image=image, truth=functools.partial(rule.read, paths[name]))
        for name, image in found.items()
    ]
    return Dataset(
        name="folder",
        title=str(images),
        prompts=prompts,
        classes=tuple(synonyms[0] for synonyms in prompts),
        samples=samples,
        background=background,
        skipped=tuple(str(path) for path, _ in below.skipped),
    )


def _by_name(images: list[Path], folder: Path) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in images:
        name = path.relative_to(folder).with_suffix("").as_posix()
        if name in found:
            raise DatasetError(f"{found[name]} and {path} have one name; which one is the mask {name!r} of?")
        found[name] = path
    if not found:
        raise DatasetError(
            f"{folder}: no images in this folder (looked for {' '.join(sorted(IMAGE_SUFFIXES))})"
        )
    return found


def _check_ignored(rule: MaskRule, masks: list[Path], classes: list[str]) -> None:
    """Refuse masks in which the ignored value seems to be a class: binary masks of 0 and 255 are the common case.

    Up to `_PROBED` masks are looked at, spread over all.

    Raises:
        DatasetError: the value is common, and a class never occurs; says the way out.
    """
    step = -(-len(masks) // _PROBED)
    counts = np.zeros(65536, np.int64)
    for mask in masks[::step]:
        counts += np.bincount(rule.read(mask).ravel(), minlength=65536)
    ignored = counts[IGNORED] / max(int(counts.sum()), 1)
    missing = [name for index, name in enumerate(classes) if not counts[index]]
    # Two values in all are a binary mask, however small its foreground; else borders of 255 may well be a tenth.
    binary = len(classes) - len(missing) <= 1 and ignored > 0.001
    if missing and (binary or ignored > _MUCH_IGNORED):
        values = "0,255" if len(classes) == 2 else "V,V,…"
        raise DatasetError(
            f"{100 * ignored:.1f} % of the pixels in the masks are {rule.ignore}, which is ignored, and no pixel is "
            f"{missing[0]!r}: is {rule.ignore} a class? Then give the value of each class with --mask-values {values}; "
            f"if it is to be ignored, say so with --ignore-label {rule.ignore}"
        )


def _chosen(found: dict[str, Path], names: Path | None, folder: Path) -> dict[str, Path]:
    if names is None:
        return found
    chosen = {}
    for name in read_names(names, IMAGE_SUFFIXES):
        if name not in found:
            raise DatasetError(f"{folder / name}: no such image, but {names} lists it")
        chosen[name] = found[name]
    return chosen


def _mask_files(folder: Path) -> dict[str, Path]:
    """Every mask below a folder by its name without suffix; suffixes in upper case count as well."""
    found: dict[str, Path] = {}
    rank = {suffix: place for place, suffix in enumerate(MASK_SUFFIXES)}
    for path in images_below(folder).images:
        if path.suffix.lower() not in rank:
            continue
        name = path.relative_to(folder).with_suffix("").as_posix()
        if name not in found or rank[path.suffix.lower()] < rank[found[name].suffix.lower()]:
            found[name] = path
    return found


def _mask(found: dict[str, Path], folder: Path, name: str, image: Path) -> Path:
    if name not in found:
        raise DatasetError(f"{folder / name}.png: no such mask, and {image} needs one")
    return found[name]
