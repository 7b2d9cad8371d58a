"""Draw the learning curves of a run: loss and retrieval accuracy, and mIoU of evaluated checkpoints.

    python benchmarks/demo/plot.py --log benchmarks/demo/results/log.jsonl \
        --scores benchmarks/demo/results/curve.json --out docs/demo-learning-curve.png

Drawn with OpenCV, which the runtime has anyway.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

INK, GRID = (60, 60, 60), (225, 225, 225)
# Blue, green and orange in OpenCV's order, told apart by colour-blind readers too.
COLOURS = ((178, 114, 0), (115, 158, 0), (0, 94, 213))
HEIGHT, WIDTH, LEFT, RIGHT, TOP, BOTTOM = 360, 520, 58, 16, 34, 48

Series = tuple[str, Sequence[float], Sequence[float]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """One diagram: named series over images seen (thousands)."""

    title: str
    top: float
    series: list[Series] = field(default_factory=list)

    def draw(self, right: float) -> NDArray[np.uint8]:
        """uint8 (HEIGHT, WIDTH, 3) BGR, the abscissa from 0 to `right`."""
        image = np.full((HEIGHT, WIDTH, 3), 255, np.uint8)
        self._axes(image, right)
        for index, (name, x, y) in enumerate(self.series):
            colour = COLOURS[index]
            points = np.array([self._pixel(a, b, right) for a, b in zip(x, y, strict=True)], np.int32)
            cv2.polylines(image, [points], isClosed=False, color=colour, thickness=2, lineType=cv2.LINE_AA)
            if len(points) < 30:
                for px, py in points.tolist():
                    cv2.circle(image, (px, py), 4, colour, -1, cv2.LINE_AA)
            _write(image, name, (LEFT + 12 + 150 * index, TOP - 10), colour)
        return image

    def _axes(self, image: NDArray[np.uint8], right: float) -> None:
        for part in range(6):
            x, y = part * right / 5, part * self.top / 5
            column, row = self._pixel(x, y, right)
            cv2.line(image, (LEFT, row), (WIDTH - RIGHT, row), GRID, 1)
            cv2.line(image, (column, TOP), (column, HEIGHT - BOTTOM), GRID, 1)
            _write(image, f"{y:.3g}", (8, row + 4))
            _write(image, f"{x:.0f}k", (column - 12, HEIGHT - BOTTOM + 18))
        _write(image, f"{self.title} over scenes seen", (LEFT + 90, HEIGHT - 8))

    def _pixel(self, x: float, y: float, right: float) -> tuple[int, int]:
        across = LEFT + x / right * (WIDTH - LEFT - RIGHT)
        up = HEIGHT - BOTTOM - min(y / self.top, 1.0) * (HEIGHT - TOP - BOTTOM)
        return round(across), round(up)


def _write(
    image: NDArray[np.uint8], text: str, at: tuple[int, int], colour: tuple[int, int, int] = INK
) -> None:
    cv2.putText(image, text, at, cv2.FONT_HERSHEY_SIMPLEX, 0.42, colour, 1, cv2.LINE_AA)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--log", type=Path, required=True, help="log.jsonl of the training run")
    parser.add_argument("--scores", type=Path, required=True, help='JSON list of {"images", "miou": {…}}')
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    log = [json.loads(line) for line in options.log.read_text().splitlines()]
    scores = sorted(json.loads(options.scores.read_text()), key=lambda row: row["images"])
    seen = [row["images"] / 1000 for row in log]
    marks = [row["images"] / 1000 for row in scores]
    training = Panel(
        title="contrastive training",
        top=2.0,
        series=[
            ("loss", seen, [row["loss"] for row in log]),
            ("batch accuracy", seen, [row["accuracy"] for row in log]),
        ],
    )
    methods = [(name, marks, [row["miou"][name] for row in scores]) for name in scores[0]["miou"]]
    measured = Panel(title="mIoU (%), tuning scenes,", top=100.0, series=methods)
    right = max(seen)
    cv2.imwrite(str(options.out), np.hstack([training.draw(right), measured.draw(right)]))


if __name__ == "__main__":
    main()
