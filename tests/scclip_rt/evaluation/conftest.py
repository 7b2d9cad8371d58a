"""Miniature datasets in the documented layouts, written by the tests themselves."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tiny_bundle import blocks_image

PALETTE = [channel for i in range(256) for channel in (i * 37 % 256, i * 91 % 256, i * 151 % 256)]


def write_image(path: Path, height: int, width: int, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(blocks_image(height, width, seed)).save(path)


def write_mask(path: Path, values: np.ndarray, *, palette: bool = False) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(values)
    if palette:
        image.putpalette(PALETTE)  # the values become indices
    image.save(path)


def random_mask(seed: int, values: Sequence[int], shape: tuple[int, int] = (60, 80)) -> np.ndarray:
    """(H, W) uint8: 10-pixel blocks of the given values, each of them at least once."""
    rng = np.random.default_rng(seed)
    cells = -(-shape[0] // 10) * -(-shape[1] // 10)
    picked = np.concatenate([values, rng.choice(values, cells - len(values))])
    blocks = rng.permutation(picked).reshape(-(-shape[0] // 10), -1)
    return np.kron(blocks, np.ones((10, 10)))[: shape[0], : shape[1]].astype(np.uint8)


@dataclass
class Tree:
    """A dataset that a test wrote.

    Attributes:
        data: the highest root, with the folder that mmsegmentation's documentation shows below it.
        base: the folder with images and masks.
        masks: name → values as stored.
    """

    data: Path
    base: Path
    masks: dict[str, np.ndarray] = field(default_factory=dict)


def _tree(
    data: Path,
    base: Path,
    image: Callable[[str], str],
    mask: Callable[[str], str],
    names: Sequence[str],
    values: Sequence[int],
    *,
    palette: bool = False,
) -> Tree:
    tree = Tree(data, base)
    for seed, name in enumerate(names):
        write_image(base / image(name), 60, 80, seed)
        tree.masks[name] = random_mask(seed, values)
        write_mask(base / mask(name), tree.masks[name], palette=palette)
    return tree


@pytest.fixture
def voc(tmp_path: Path) -> Tree:
    data = tmp_path / "data"
    base = data / "VOCdevkit" / "VOC2012"
    tree = _tree(
        data,
        base,
        lambda name: f"JPEGImages/{name}.jpg",
        lambda name: f"SegmentationClass/{name}.png",
        ["2007_000033", "2007_000042", "2011_003271"],
        [0, 1, 15, 20, 255],
        palette=True,
    )
    write_image(base / "JPEGImages" / "2008_000001.jpg", 40, 40, 9)  # of no split
    _lines(base / "ImageSets" / "Segmentation" / "val.txt", reversed(list(tree.masks)))
    return tree


@pytest.fixture
def context(tmp_path: Path) -> Tree:
    data = tmp_path / "data"
    base = data / "VOCdevkit" / "VOC2010"
    tree = _tree(
        data,
        base,
        lambda name: f"JPEGImages/{name}.jpg",
        lambda name: f"SegmentationClassContext/{name}.png",
        ["2008_000002", "2008_000003"],
        [0, 1, 33, 59],
    )
    _lines(base / "ImageSets" / "SegmentationContext" / "val.txt", tree.masks)
    return tree


@pytest.fixture
def stuff(tmp_path: Path) -> Tree:
    """With the masks as downloaded beside those that mmsegmentation makes of them."""
    data = tmp_path / "data"
    base = data / "coco_stuff164k"
    tree = _tree(
        data,
        base,
        lambda name: f"images/val2017/{name}.jpg",
        lambda name: f"annotations/val2017/{name}_labelTrainIds.png",
        ["000000000139", "000000000285"],
        [0, 79, 80, 170, 255],
    )
    for seed, name in enumerate(tree.masks):
        write_mask(base / "annotations" / "val2017" / f"{name}.png", random_mask(seed, [0, 89, 91, 181, 255]))
    return tree


@pytest.fixture
def coco_object(tmp_path: Path) -> Tree:
    data = tmp_path / "data"
    return _tree(
        data,
        data / "coco_object",
        lambda name: f"images/val2017/{name}.jpg",
        lambda name: f"annotations/val2017/{name}_instanceTrainIds.png",
        ["000000000139", "000000000285"],
        [0, 1, 80],
    )


@pytest.fixture
def cityscapes(tmp_path: Path) -> Tree:
    data = tmp_path / "data"
    tree = _tree(
        data,
        data / "cityscapes",
        lambda name: f"leftImg8bit/val/{name}_leftImg8bit.png",
        lambda name: f"gtFine/val/{name}_gtFine_labelTrainIds.png",
        ["frankfurt/frankfurt_000000_000294", "lindau/lindau_000000_000019"],
        [0, 18, 255],
    )
    write_mask(
        tree.base / "gtFine/val/lindau/lindau_000000_000019_gtFine_labelIds.png", np.zeros((60, 80), np.uint8)
    )
    return tree


@pytest.fixture
def ade(tmp_path: Path) -> Tree:
    data = tmp_path / "data"
    return _tree(
        data,
        data / "ade" / "ADEChallengeData2016",
        lambda name: f"images/validation/{name}.jpg",
        lambda name: f"annotations/validation/{name}.png",
        ["ADE_val_00000001", "ADE_val_00000002"],
        [0, 1, 150],
    )


@pytest.fixture
def own(tmp_path: Path) -> Tree:
    """A user's folders: five images, one of them deeper, and classes."""
    base = tmp_path / "own"
    tree = _tree(
        base,
        base,
        lambda name: f"images/{name}.png",
        lambda name: f"masks/{name}.png",
        ["a", "b", "c", "d", "sub/e"],
        [0, 1, 2, 255],
    )
    (base / "classes.txt").write_text("red, crimson\ngreen\nblue\n")
    return tree


def _lines(path: Path, names: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{name}\n" for name in names))  # type: ignore[attr-defined]
