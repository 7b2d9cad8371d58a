"""Run lengths of a 12-megapixel label map of 50 classes: `scclip_rt.formats.rle` beside pycocotools.

    python -m benchmarks.cpu.label_rle [--json benchmarks/results/label-rle.json]

pycocotools encodes masks, so it is timed twice: on a (H, W, classes) array that is there already, and with a mask made
for each class in turn. First the gate: every string must be pycocotools' own. All sides run in turn, in one process.
"""

import statistics
import sys
import tracemalloc
from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as pycocotools

from benchmarks.harness import Row, parser, ratios, spread, take_turns, write_report
from scclip_rt.formats.rle import coco_masks, cvat_masks, label_studio_masks

HEIGHT, WIDTH, CLASSES = 3000, 4000, 50


def smooth() -> NDArray[np.uint8]:
    """Round regions, as a segmenter gives them."""
    rng = np.random.default_rng(0)
    best = np.full((HEIGHT, WIDTH), -np.inf, np.float32)
    labels = np.zeros((HEIGHT, WIDTH), np.uint8)
    for label in range(CLASSES):
        coarse = cv2.GaussianBlur(rng.standard_normal((300, 400)).astype(np.float32), (0, 0), 8)
        field = cv2.resize(coarse, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
        np.copyto(labels, np.uint8(label), where=field > best)
        np.maximum(best, field, out=best)
    return labels


def patchwork() -> NDArray[np.uint8]:
    """Squares of 25 pixels: many short runs."""
    coarse = np.random.default_rng(0).integers(0, CLASSES, (HEIGHT // 25, WIDTH // 25)).astype(np.uint8)
    return coarse.repeat(25, axis=0).repeat(25, axis=1)


def class_by_class(labels: NDArray[np.uint8]) -> list[str]:
    """pycocotools, a mask at a time."""
    return [
        pycocotools.encode(np.asfortranarray(labels == label).view(np.uint8))["counts"].decode()
        for label in np.unique(labels)
    ]


def peak_bytes(labels: NDArray[np.uint8]) -> int:
    """Most memory that our side holds at once."""
    tracemalloc.start()
    for _ in coco_masks(labels):
        pass
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


def measure(name: str, labels: NDArray[np.uint8], rounds: int) -> Row:
    """One map: the gate, then every side in turn."""
    ours = [mask.counts for mask in coco_masks(labels)]
    stack = np.asfortranarray(labels[..., None] == np.unique(labels)).view(np.uint8)
    if not ours == class_by_class(labels) == [row["counts"].decode() for row in pycocotools.encode(stack)]:
        sys.exit(f"error: {name}: the strings differ; nothing is told about time")
    sides: dict[str, Callable[[], object]] = {
        "coco": lambda: list(coco_masks(labels)),
        "pycocotools, array given": lambda: pycocotools.encode(stack),
        "pycocotools, class by class": lambda: class_by_class(labels),
        "cvat": lambda: list(cvat_masks(labels)),
        "label studio": lambda: list(label_studio_masks(labels)),
    }
    times = take_turns(sides, rounds)
    peak = peak_bytes(labels)
    print(
        f"{name}: peak memory of ours {peak / 1e6:.0f} MB; the (H, W, classes) array {stack.nbytes / 1e6:.0f} MB"
    )
    for side, values in times.items():
        ratio = spread(ratios(values, times["pycocotools, array given"]))
        print(f"  {side:28s} {1e3 * statistics.median(values):7.0f} ms, {ratio} pycocotools' time")
    return {"map": name, "seconds": times, "peak_bytes": peak, "stack_bytes": stack.nbytes}


def main() -> None:
    """Parse, measure, write."""
    options = parser(__doc__)
    options.add_argument("--rounds", type=int, default=5, help="(%(default)s)")
    args = options.parse_args()
    rows = [measure(make.__name__, make(), args.rounds) for make in (smooth, patchwork)]
    write_report(args.json, "run lengths of a 12-megapixel map of 50 classes, beside pycocotools", rows=rows)


if __name__ == "__main__":
    main()
