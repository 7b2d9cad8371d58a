"""A still camera where one window of six changes: `Segmenter.video` beside frame by frame.

    python -m benchmarks.cpu.video_reuse [--bundle demo] [--json benchmarks/results/video-reuse.json]

Frames of 375×500 pixels, six windows; something moves in a corner that only the first window sees, in every frame.
Each frame goes through both sides in turn; the first whose labels differ ends the run, with nothing told about time.
"""

import statistics
import sys
from collections.abc import Iterator
from functools import partial

import cv2
import numpy as np
from numpy.typing import NDArray

from benchmarks.harness import parser, ratios, spread, timed, write_report
from scclip_rt import Segmenter
from scclip_rt.demo.scenes import render
from scclip_rt.video import FrameSegmenter

HEIGHT, WIDTH = 375, 500


def frames(count: int) -> Iterator[NDArray[np.uint8]]:
    """A scene, and a disc that goes round in its corner: 100 pixels there lie in the first window alone."""
    scene = render(0, split="test", size=(HEIGHT, WIDTH), count=4).image
    for number in range(count):
        frame = scene.copy()
        angle = number / 7
        middle = (int(50 + 25 * np.cos(angle)), int(50 + 25 * np.sin(angle)))
        cv2.circle(frame, middle, 18, (230, 200, 40), -1)
        yield frame


def measure(segment: Segmenter, count: int) -> list[dict[str, float]]:
    """Seconds of both sides for each frame after the first."""
    step = FrameSegmenter(segment)
    rows = []
    for number, frame in enumerate(frames(count + 1)):
        alone, single = timed(partial(segment, frame))
        reuse, reused = timed(partial(step, frame))
        if not np.array_equal(single.labels, reused.labels):
            sys.exit(f"error: labels of frame {number} differ; nothing is told about time")
        if number:  # the first has nothing to reuse
            rows.append({"frame_by_frame": alone, "reuse": reuse})
    windows = (step.encoded - 6) / count
    if windows != 1:
        sys.exit(f"error: {windows} windows of six changed a frame, not one")
    return rows


def main() -> None:
    """Parse, measure, write."""
    options = parser(__doc__)
    options.add_argument("--bundle", default="demo", help="(%(default)s)")
    options.add_argument("--frames", type=int, default=30, help="(%(default)s)")
    options.add_argument("--precision", nargs="+", default=["fp32", "int8"], help="(%(default)s)")
    args = options.parse_args()
    classes = [f"class {number}" for number in range(20)]
    rows = []
    for precision in args.precision:
        segment = Segmenter(args.bundle, classes=classes, precision=precision)
        times = measure(segment, args.frames)
        alone, reuse = ([row[side] for row in times] for side in ("frame_by_frame", "reuse"))
        taken = [f"{1e3 * statistics.median(side):.0f} ms" for side in (alone, reuse)]
        faster = spread(ratios(alone, reuse))
        print(
            f"{precision}: frame by frame {taken[0]}, reuse {taken[1]} a frame: median {faster}; labels equal"
        )
        rows.append({"backend": segment.backend.describe(), "frames": times})
    question = "a still camera, one of six windows changes: reuse of windows beside frame by frame"
    write_report(args.json, question, rows=rows)


if __name__ == "__main__":
    main()
