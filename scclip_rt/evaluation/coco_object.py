"""COCO-Object from COCO-Stuff: the 80 things as classes 1 to 80, everything else background.

COCO-Stuff's masks hold category numbers minus one: things lie in 0..89 with ten gaps, stuff in 91..181, and
255 is unlabelled. COCO-Object, as the open-vocabulary benchmarks have it (first in GroupViT, CVPR 2022),
numbers the things from 1 in their order and makes stuff and unlabelled pixels background, 0: it has no ignored
pixels.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scclip_rt.errors import OutputError
from scclip_rt.evaluation.datasets.masks import read_labels
from scclip_rt.evaluation.errors import DatasetError
from scclip_rt.files import atomic_path

SUFFIX = "_instanceTrainIds.png"
_TRAIN_IDS = "TrainIds"
_THINGS_END = 90
_STUFF = range(91, 182)
_UNLABELLED = 255
_GAPS = frozenset({11, 25, 28, 29, 44, 65, 67, 68, 70, 82})
"""Numbers below 90 that COCO's list of things has no category for."""
_UNKNOWN = 255


def object_table() -> NDArray[np.uint8]:
    """For each value of a COCO-Stuff mask its COCO-Object label, (256,) uint8; 255 for values that never occur."""
    table = np.full(256, _UNKNOWN, np.uint8)
    things = [value for value in range(_THINGS_END) if value not in _GAPS]
    table[things] = np.arange(1, len(things) + 1)
    table[_STUFF.start : _STUFF.stop] = 0
    table[_UNLABELLED] = 0
    return table


def to_objects(stuff: NDArray[Any]) -> NDArray[np.uint8]:
    """COCO-Object labels of a COCO-Stuff mask.

    Args:
        stuff: (H, W) integers 0..255, as in stuffthingmaps_trainval2017.zip.

    Returns:
        (H, W) uint8, 0..80.

    Raises:
        DatasetError: a value that COCO-Stuff does not have.
    """
    if stuff.size and not 0 <= int(stuff.min()) <= int(stuff.max()) <= 255:
        raise DatasetError(f"values from {stuff.min()} to {stuff.max()}; COCO-Stuff has 0 to 255")
    labels: NDArray[np.uint8] = object_table()[stuff]
    wrong = labels == _UNKNOWN
    if wrong.any():
        value = int(stuff[wrong].flat[0])
        raise DatasetError(f"label {value} is no category of COCO-Stuff ({wrong.sum():,} pixels)")
    return labels


def convert(root: Path, output: Path | None = None, *, force: bool = False, progress: bool = False) -> int:
    """Write a COCO-Object mask for each COCO-Stuff mask of the validation split.

    Masks that are there already are left as they are, so that a conversion that was interrupted goes on.

    Args:
        root: COCO-Stuff 164k: the folder with `annotations/val2017`, or the one above.
        output: a folder for the masks of its own, with a link to the images; None writes beside the originals.
        force: write masks that are there already again.
        progress: show it on standard error.

    Returns:
        How many masks were written.

    Raises:
        DatasetError: no masks of COCO-Stuff, or one with a value of no category; names the file.
        OutputError: can't be written.
    """
    base = _base(root)
    sources = sorted(_sources(base / "annotations" / "val2017"))
    if not sources:
        raise DatasetError(
            f"{base / 'annotations' / 'val2017'}: no masks of COCO-Stuff (NUMBER.png, without TrainIds); "
            "unpack stuffthingmaps_trainval2017.zip there"
        )
    folder = (base if output is None else output) / "annotations" / "val2017"
    if output is not None:
        _link_images(base, output)
    from tqdm import tqdm

    written = 0
    for source in tqdm(sources, unit="mask", desc="converting", file=sys.stderr, disable=not progress):
        target = folder / f"{source.stem}{SUFFIX}"
        if target.exists() and not force:
            continue
        try:
            labels = to_objects(read_labels(source))
        except DatasetError as error:
            raise DatasetError(f"{source}: {error}") from error
        _write(labels, target)
        written += 1
    return written


def _write(labels: NDArray[np.uint8], target: Path) -> None:
    from PIL import Image

    with atomic_path(target, force=True) as temporary:
        Image.fromarray(labels).save(temporary, format="PNG")


def _base(root: Path) -> Path:
    for base in (root, root / "coco_stuff164k"):
        if (base / "annotations" / "val2017").is_dir():
            return base
    raise DatasetError(
        f"{root / 'annotations' / 'val2017'}: no such folder; name the folder of COCO-Stuff 164k, with "
        "stuffthingmaps_trainval2017.zip unpacked into annotations/"
    )


def _sources(folder: Path) -> Iterator[Path]:
    for path in folder.iterdir():
        if path.suffix == ".png" and _TRAIN_IDS not in path.name and not path.name.startswith("."):
            yield path


def _link_images(base: Path, output: Path) -> None:
    """`output/images/val2017` → the originals: 5,000 photographs need no second copy."""
    source, link = (base / "images" / "val2017").absolute(), output / "images" / "val2017"
    if os.path.lexists(link):
        return
    if not source.is_dir():
        raise DatasetError(f"{source}: no such folder; unpack val2017.zip into images/")
    try:
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(source, target_is_directory=True)
    except OSError as error:
        raise OutputError(f"can't make the link {link}: {error.strerror or error}") from error
