"""Seeded demo scenes: mosaics of procedural materials with their exact masks and captions.

The demo model learns from scenes of the split "train" and is measured on others: splits draw from disjoint
seed sequences, so no scene of one split can appear in another.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from scclip_rt.demo.materials import MATERIALS, Canvas, planes
from scclip_rt.errors import optional_module

cv2 = optional_module("cv2", "rendering the demo scenes needs OpenCV", "opencv")

Split = Literal["train", "tune", "test"]

CLASSES: tuple[str, ...] = tuple(material.name for material in MATERIALS)
TEST_SIZE = (336, 448)
TEST_SCENES = 300
SMALLEST_REGION = 0.08
TEXTURE_SCALE = (0.7, 1.6)
# Pairs that no training scene shows together: a model that only remembers combinations fails on them.
HELD_OUT_PAIRS: frozenset[frozenset[str]] = frozenset(
    frozenset(pair)
    for pair in (
        ("grass", "zebra"),
        ("sky", "brick"),
        ("water", "marble"),
        ("sand", "lava"),
        ("snow", "wood"),
        ("leopard", "tiles"),
        ("checkerboard", "flowers"),
        ("polka dots", "gravel"),
        ("denim", "honeycomb"),
        ("metal", "giraffe"),
        ("tiger", "night sky"),
        ("tartan", "camouflage"),
    )
)
_SPLIT_KEYS: dict[str, int] = {"train": 11, "tune": 23, "test": 37}

LISTS: tuple[str, ...] = ("{}", "a photo of {}", "a picture of {}", "an image showing {}", "a scene with {}")


@dataclass(frozen=True, slots=True)
class Scene:
    """One rendered scene.

    Attributes:
        image: uint8 (H, W, 3) RGB.
        mask: uint8 (H, W), index into `CLASSES`.
        classes: indices present, ascending.
    """

    image: NDArray[np.uint8]
    mask: NDArray[np.uint8]
    classes: tuple[int, ...]


def render(
    seed: int, *, split: Split = "train", size: tuple[int, int] = (224, 224), count: int | None = None
) -> Scene:
    """Render one scene; the same arguments always give the same scene.

    Args:
        seed: any non-negative integer; seeds of different splits never coincide.
        split: "train" (never shows a pair of `HELD_OUT_PAIRS`), "tune" or "test".
        size: (rows, columns) in pixels.
        count: how many materials, 1 to 4; by default 1, 2 or 3 at random.

    Returns:
        The scene; every material covers at least `SMALLEST_REGION` of it.
    """
    if seed < 0:
        raise ValueError(f"seed must be non-negative; got {seed}")
    if count is not None and not 1 <= count <= 4:
        raise ValueError(f"count must be 1 to 4; got {count}")
    rng = np.random.default_rng([_SPLIT_KEYS[split], seed])
    count = int(rng.choice([1, 2, 3], p=[0.25, 0.4, 0.35])) if count is None else count
    chosen = _choose(rng, count, avoid_held_out=split == "train")
    regions = _layout(rng, size, count)
    scale = math.exp(rng.uniform(math.log(TEXTURE_SCALE[0]), math.log(TEXTURE_SCALE[1])))
    image: NDArray[Any] = np.zeros((*size, 3), np.float32)
    for region, index in enumerate(chosen):
        canvas = Canvas.create(rng, *size, tilt=MATERIALS[index].tilt, scale=scale * rng.uniform(0.85, 1.18))
        image = cv2.copyTo(MATERIALS[index].paint(canvas), (regions == region).astype(np.uint8), image)
    return Scene(
        image=_photograph(rng, image),
        mask=np.asarray(chosen, np.uint8)[regions],
        classes=tuple(sorted(chosen)),
    )


def test_scene(index: int) -> Scene:
    """Held-out scene `index`: three materials, `TEST_SIZE`; figures are over the first `TEST_SCENES`."""
    return render(index, split="test", size=TEST_SIZE, count=3)


test_scene.__test__ = False  # type: ignore[attr-defined]  # pytest would collect it by its name


def tuning_scene(index: int) -> Scene:
    """Scene `index` of the split that calibration is tuned on, made like the held-out scenes."""
    return render(index, split="tune", size=TEST_SIZE, count=3)


def caption(
    classes: Sequence[int],
    rng: np.random.Generator,
    *,
    templates: Sequence[Callable[[str], str]] = (),
    synonyms: float = 0.2,
) -> str:
    """A caption naming every class in random order.

    Args:
        classes: indices into `CLASSES`.
        rng: source of order, wording and synonyms.
        templates: prompt templates, used for half of the captions.
        synonyms: probability of another name where a material has one.
    """
    names = []
    for index in rng.permutation(np.asarray(classes)):
        material = MATERIALS[index]
        other = material.synonyms and rng.random() < synonyms
        names.append(str(rng.choice(material.synonyms)) if other else material.name)
    listed = names[0]
    if len(names) > 1:
        joint = str(rng.choice([" and ", " and ", " next to ", " with ", ", "]))
        listed = ", ".join(names[:-1]) + joint + names[-1]
    if templates and rng.random() < 0.5:
        return templates[int(rng.integers(len(templates)))](listed)
    return LISTS[int(rng.integers(len(LISTS)))].format(listed)


def _choose(rng: np.random.Generator, count: int, *, avoid_held_out: bool) -> list[int]:
    """Different materials; optionally none of the held-out pairs among them."""
    while True:
        chosen = [int(i) for i in rng.choice(len(MATERIALS), count, replace=False)]
        pairs = {frozenset((CLASSES[a], CLASSES[b])) for a in chosen for b in chosen if a < b}
        if not (avoid_held_out and pairs & HELD_OUT_PAIRS):
            return chosen


def _layout(rng: np.random.Generator, size: tuple[int, int], count: int) -> NDArray[np.uint8]:
    """Region indices, uint8 (H, W); every region covers at least `SMALLEST_REGION`."""
    if count == 1:
        return np.zeros(size, np.uint8)
    floor = SMALLEST_REGION * size[0] * size[1]
    for _ in range(30):
        regions = np.zeros(size, np.uint8)
        if rng.random() < 0.15:
            regions = _voronoi(rng, size, count)
        else:
            for region in range(1, count):
                _SHAPES[int(rng.integers(len(_SHAPES)))](rng, regions, region)
        if np.bincount(regions.ravel(), minlength=count).min() >= floor:
            return regions
    bands = np.arange(size[1]) * count // size[1]
    return np.broadcast_to(bands.astype(np.uint8), size).copy()


def _half_plane(rng: np.random.Generator, regions: NDArray[np.uint8], region: int) -> None:
    """One side of a straight or wavy line."""
    height, width = regions.shape
    angle = rng.uniform(0, 2 * math.pi)
    x = (np.arange(width, dtype=np.float32)[None, :] - width / 2) / width
    y = (np.arange(height, dtype=np.float32)[:, None] - height / 2) / height
    along = -math.sin(angle) * x + math.cos(angle) * y
    bend = 0.06 * np.sin(along * rng.uniform(4, 16) + rng.uniform(0, 6)) if rng.random() < 0.5 else 0.0
    regions[math.cos(angle) * x + math.sin(angle) * y + bend > rng.uniform(-0.12, 0.25)] = region


def _band(rng: np.random.Generator, regions: NDArray[np.uint8], region: int) -> None:
    """A straight band across the image."""
    height, width = regions.shape
    angle, reach = rng.uniform(0, math.pi), math.hypot(height, width)
    centre = np.array([width, height]) * rng.uniform(0.3, 0.7, 2)
    axis = np.array([math.cos(angle), math.sin(angle)])
    side = np.array([-axis[1], axis[0]]) * min(height, width) * rng.uniform(0.14, 0.26)
    corners = [centre + s * reach * axis + t * side for s, t in ((-1, -1), (1, -1), (1, 1), (-1, 1))]
    cv2.fillPoly(regions, [np.round(corners).astype(np.int32)], region)


def _outline(rng: np.random.Generator, regions: NDArray[np.uint8], region: int) -> None:
    """A closed outline: ellipse, blob, polygon or star."""
    height, width = regions.shape
    side = min(height, width)
    centre = np.array([width, height]) * rng.uniform(0.25, 0.75, 2)
    radius = side * rng.uniform(0.24, 0.42)
    kind = rng.integers(4)
    points = int(rng.integers(3, 7)) if kind == 2 else 10 if kind == 3 else 72
    theta = np.linspace(0, 2 * math.pi, points, endpoint=False) + rng.uniform(0, 2 * math.pi)
    lengths = np.ones(points)
    if kind == 1:
        for wave in (2, 3, 4, 5):
            lengths += rng.normal(0, 0.28 / wave) * np.cos(wave * theta + rng.uniform(0, 6))
    elif kind == 2:
        lengths *= 1.2 * rng.uniform(0.85, 1.15, points)
    elif kind == 3:
        lengths = 1.25 * np.where(np.arange(points) % 2, rng.uniform(0.5, 0.7), 1.0)
    stretch = rng.uniform(0.75, 1.33)
    turn = rng.uniform(0, math.pi)
    x, y = np.cos(theta) * lengths * stretch, np.sin(theta) * lengths / stretch
    turned = np.stack([math.cos(turn) * x - math.sin(turn) * y, math.sin(turn) * x + math.cos(turn) * y], 1)
    cv2.fillPoly(regions, [np.round(centre + radius * turned).astype(np.int32)], region)


def _voronoi(rng: np.random.Generator, size: tuple[int, int], count: int) -> NDArray[np.uint8]:
    """Regions made of one to three straight-edged cells each."""
    owners = np.repeat(np.arange(count), int(rng.integers(1, 4)))
    seeds = rng.random((len(owners), 2)).astype(np.float32)
    x = np.arange(size[1], dtype=np.float32)[None, :, None] / size[1]
    y = np.arange(size[0], dtype=np.float32)[:, None, None] / size[0]
    nearest = ((x - seeds[:, 0]) ** 2 + (y - seeds[:, 1]) ** 2).argmin(-1)
    return np.asarray(owners[nearest], np.uint8)


_SHAPES: tuple[Callable[[np.random.Generator, NDArray[np.uint8], int], None], ...] = (
    _half_plane,
    _half_plane,
    _band,
    _outline,
    _outline,
    _outline,
)


def _photograph(rng: np.random.Generator, image: NDArray[Any]) -> NDArray[np.uint8]:
    """Light falling off to one side, exposure, slight blur and sensor noise."""
    height, width = image.shape[:2]
    gx, gy = rng.normal(0, 0.10, 2)
    x = np.linspace(-gx, gx, width, dtype=np.float32)[None, :]
    y = np.linspace(-gy, gy, height, dtype=np.float32)[:, None]
    image = image * planes((1 + x + y) * np.float32(rng.uniform(0.85, 1.12)))
    if rng.random() < 0.3:
        image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.4, 0.9))
    grain = rng.random((height, width), dtype=np.float32) - np.float32(0.5)
    image = image + planes(grain * np.float32(rng.uniform(0, 14)))
    return np.asarray(np.clip(image, 0, 255), np.uint8)
