"""Training data of the demo model: scenes rendered once into memory-mapped files.

python -m benchmarks.demo.data --out DIR --size 112 --count 65536
"""

import argparse
import json
import multiprocessing
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import cv2
import numpy as np
from numpy.typing import NDArray

from scclip_rt.demo.scenes import render

LARGEST_COUNT = 3
# Sizes use disjoint seeds, so that a scene is not met twice.
SEEDS_PER_SIZE = 10_000_000

Batch = tuple[NDArray[np.uint8], NDArray[np.int8]]


@dataclass(frozen=True, slots=True)
class SceneBank:
    """Rendered scenes and the material indices their captions name; masks are not kept.

    Attributes:
        images: uint8 (count, S, S, 3) RGB, memory-mapped.
        classes: int8 (count, 3), padded by −1.
    """

    images: NDArray[np.uint8]
    classes: NDArray[np.int8]

    @classmethod
    def open(cls, folder: Path, size: int) -> Self:
        """Open what `render_bank` wrote."""
        images = np.load(folder / f"images_{size}.npy", mmap_mode="r")
        return cls(images, np.load(folder / f"classes_{size}.npy"))

    def batches(self, seed: int, batch: int, start: int = 0) -> Iterator[Batch]:
        """Endless shuffled batches from batch number `start` on; each is turned and mirrored at random.

        Yields:
            uint8 (batch, S, S, 3) and int8 (batch, 3).
        """
        per_epoch = len(self.images) // batch
        if per_epoch == 0:
            raise ValueError(f"the bank holds {len(self.images)} scenes, fewer than a batch of {batch}")
        number = start
        while True:
            order = np.random.default_rng([seed, number // per_epoch]).permutation(len(self.images))
            for index in range(number % per_epoch, per_epoch):
                chosen = np.sort(order[index * batch : (index + 1) * batch])
                images, classes = self.images[chosen], self.classes[chosen]
                yield _turned(images, np.random.default_rng([seed, 1, number])), classes
                number += 1


def _turned(images: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Mirror and transpose at random, the same for each eighth of the batch."""
    out = np.empty_like(images)
    for part in np.array_split(rng.permutation(len(images)), 8):
        flip_rows, flip_columns, transpose = rng.random(3) < (0.3, 0.5, 0.3)
        view = images[part, :: -1 if flip_rows else 1, :: -1 if flip_columns else 1]
        out[part] = view.transpose(0, 2, 1, 3) if transpose else view
    return out


def _render_some(arguments: tuple[int, int, int]) -> Batch:
    first, count, size = arguments
    cv2.setNumThreads(1)
    images = np.empty((count, size, size, 3), np.uint8)
    classes = np.full((count, LARGEST_COUNT), -1, np.int8)
    for i in range(count):
        scene = render(size * SEEDS_PER_SIZE + first + i, split="train", size=(size, size))
        images[i] = scene.image
        classes[i, : len(scene.classes)] = scene.classes
    return images, classes


def render_bank(folder: Path, size: int, count: int, workers: int = 2) -> None:
    """Render `count` training scenes of `size` pixels into `folder`, unless it has them already."""
    target = folder / f"images_{size}.npy"
    if target.exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f"images_{size}.partial.npy"
    images = np.lib.format.open_memmap(partial, "w+", np.uint8, (count, size, size, 3))
    classes = np.full((count, LARGEST_COUNT), -1, np.int8)
    jobs = [(first, min(256, count - first), size) for first in range(0, count, 256)]
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        for (first, length, _), (some_images, some_classes) in zip(
            jobs, pool.imap(_render_some, jobs), strict=True
        ):
            images[first : first + length] = some_images
            classes[first : first + length] = some_classes
    images.flush()
    np.save(folder / f"classes_{size}.npy", classes)
    partial.rename(target)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--size", type=int, default=112)
    parser.add_argument("--count", type=int, default=65536)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    render_bank(options.out, options.size, options.count, options.workers)
    print(json.dumps({"size": options.size, "count": options.count, "folder": str(options.out)}))


if __name__ == "__main__":
    main()
