"""A user's own images and masks."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path

from scclip_rt.evaluation.datasets.base import Dataset, Sample
from scclip_rt.evaluation.datasets.masks import MaskRule
from scclip_rt.evaluation.datasets.names import read_names
from scclip_rt.evaluation.errors import DatasetError
from scclip_rt.evaluation.metrics import IGNORE
from scclip_rt.image.load import IMAGE_SUFFIXES
from scclip_rt.vocabulary.classes import ClassSource, parse_classes

MASK_SUFFIXES = (".png", ".tif", ".tiff", ".bmp", ".gif", ".pgm")


def open_folder(
    images: Path,
    masks: Path,
    classes: ClassSource,
    *,
    names: Path | None = None,
    ignore: int | None = None,
    reduce_zero_label: bool = False,
    background: str | None = None,
) -> Dataset:
    """Pair images with masks of the same name.

    Args:
        images: folder of images, searched through.
        masks: folder with a mask for each image: the same path below it, with a mask's suffix.
        classes: the classes in the order of the masks' labels.
        names: a list of the images to use; None takes all.
        ignore: the label that does not count; None takes 255, or 65535 above 255 classes.
        reduce_zero_label: label 0 does not count either, and 1 is the first class.
        background: name of a class, `none`, or None for the class called "background", if any.

    Raises:
        DatasetError: no images, an image without a mask, or two images of one name.
        VocabularyError: the class list can't be read.
    """
    prompts = parse_classes(classes)
    for folder, what in ((images, "images"), (masks, "masks")):
        if not folder.is_dir():
            reason = "is a file" if folder.exists() else "no such folder"
            raise DatasetError(f"{folder}: {reason}; --{what} names a folder")
    if ignore is None:
        ignore = IGNORE if len(prompts) + reduce_zero_label <= IGNORE else 65535
    rule = MaskRule(num_classes=len(prompts), ignore=ignore, reduce_zero_label=reduce_zero_label)
    samples = [
        Sample(name=name, image=image, truth=functools.partial(rule.read, _mask(masks, name, image)))
        for name, image in _chosen(_images(images), names, images).items()
    ]
    return Dataset(
        name="folder",
        title=str(images),
        prompts=prompts,
        classes=tuple(synonyms[0] for synonyms in prompts),
        samples=samples,
        background=background,
    )


def _images(folder: Path) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in sorted(_walk(folder)):
        name = path.relative_to(folder).with_suffix("").as_posix()
        if name in found:
            raise DatasetError(f"{found[name]} and {path} have one name; which one is the mask {name!r} of?")
        found[name] = path
    if not found:
        raise DatasetError(
            f"{folder}: no images in this folder (looked for {' '.join(sorted(IMAGE_SUFFIXES))})"
        )
    return found


def _walk(folder: Path) -> Iterator[Path]:
    for entry in folder.iterdir():
        if entry.name.startswith("."):
            continue
        if entry.is_dir() and not entry.is_symlink():  # a link may lead back up
            yield from _walk(entry)
        elif entry.suffix.lower() in IMAGE_SUFFIXES:
            yield entry


def _chosen(found: dict[str, Path], names: Path | None, folder: Path) -> dict[str, Path]:
    if names is None:
        return found
    chosen = {}
    for name in read_names(names, IMAGE_SUFFIXES):
        if name not in found:
            raise DatasetError(f"{folder / name}: no such image, but {names} lists it")
        chosen[name] = found[name]
    return chosen


def _mask(folder: Path, name: str, image: Path) -> Path:
    for suffix in MASK_SUFFIXES:
        path = folder / f"{name}{suffix}"
        if path.is_file():
            return path
    raise DatasetError(f"{folder / name}.png: no such mask, and {image} needs one")
