"""The demo model in the browser and in Node beside Python in fp32, on the same two processors.

    make web && python -m benchmarks.cpu.web [--rounds 15] [--json benchmarks/results/web.json]

Each side is a process of its own that stays; they take turns, picture by picture, and say themselves how long it took
from pixels to labels. First the gate: labels of rendered test scenes, at least 99.9 % of pixels as in Python, and 95 %
for int8 in WebAssembly, whose ratio is to Python's fp32 too. Then the processor time of a whole Chromium from opening
the page to the first overlay, with everything in its cache.
`--webgpu` runs the gate on a software GPU as well (minutes).
"""

import base64
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.harness import Row, parser, ratios, spread, timed, write_report
from scclip_rt import Segmenter
from scclip_rt.demo.scenes import render
from scclip_rt.image.png import encode_png

WEB = Path(__file__).resolve().parents[2] / "web"
PROCESSORS = 2
LEAST_AGREEMENT = {"wasm-int8": 0.95}
LEAST_OF_FP32 = 0.999
LIMITS = {"wasm": 3.0, "node": 1.1}
FIRST_PICTURE_SECONDS = 5.0
SIZE = (336, 448)


class Other:
    """A side in JavaScript: paths go in, seconds and labels come out."""

    def __init__(self, mode: str) -> None:
        self.mode = mode
        self._process = subprocess.Popen(
            ["node", "build/tools/bench.js", mode],
            cwd=WEB,
            env=os.environ | {"THREADS": str(PROCESSORS)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._read()

    def _read(self) -> dict[str, Any]:
        line = self._process.stdout.readline() if self._process.stdout else ""
        if not line:
            sys.exit(f"error: {self.mode} ended; run `make web` first")
        return dict(json.loads(line))

    def segment(self, path: Path) -> tuple[float, NDArray[np.uint8]]:
        """Seconds, and labels row by row."""
        if self._process.stdin is None:
            raise RuntimeError("the process has no standard input")
        self._process.stdin.write(f"{path}\n")
        self._process.stdin.flush()
        answer = self._read()
        return answer["seconds"], np.frombuffer(base64.b64decode(answer["labels"]), np.uint8)

    def close(self) -> None:
        """Let it end."""
        self._process.communicate()


def gate(others: list[Other], paths: list[Path], expected: list[NDArray[np.uint8]]) -> dict[str, float]:
    """The least agreement of each side; too little ends the program."""
    found = {}
    for other in others:
        shares = []
        for path, labels in zip(paths, expected, strict=True):
            shares.append(float(np.mean(other.segment(path)[1] == labels.ravel())))
        found[other.mode] = min(shares)
        print(f"{other.mode}: at least {min(shares):.4%} of a scene's pixels as in Python")
        if min(shares) < LEAST_AGREEMENT.get(other.mode, LEAST_OF_FP32):
            sys.exit(f"error: {other.mode} gives other labels than Python; nothing is timed")
    return found


def clock(
    sides: dict[str, Callable[[Path], float]], paths: list[Path], rounds: int
) -> dict[str, list[float]]:
    """Seconds of every side in every round, each in its turn; a round before the clock."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(rounds + 1):
        for name, side in sides.items():
            taken = side(paths[number % len(paths)])
            if number > 0:
                seconds[name].append(taken)
    return seconds


def first_pictures(visits: int) -> list[dict[str, float]]:
    """Processor and clock seconds of visits with a warm cache."""
    command = ["node", "build/tools/bench.js", "first", str(visits)]
    done = subprocess.run(command, cwd=WEB, capture_output=True, text=True, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


def main() -> None:
    """Gate, clock, report."""
    options = parser(__doc__)
    options.add_argument("--rounds", type=int, default=15)
    options.add_argument("--scenes", type=int, default=12, help="of the gate (%(default)s)")
    options.add_argument(
        "--visits", type=int, default=5, help="of the page, for its first picture (%(default)s)"
    )
    options.add_argument("--webgpu", action="store_true", help="the gate on a software GPU too")
    args = options.parse_args()
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:PROCESSORS])
    segment = Segmenter("demo", backend="onnxruntime", precision="fp32", threads=PROCESSORS)
    scenes = [render(seed, split="test", size=SIZE).image for seed in range(args.scenes)]
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / f"{seed}.png" for seed in range(args.scenes)]
        for path, scene in zip(paths, scenes, strict=True):
            path.write_bytes(encode_png(scene))
        expected = [np.asarray(segment(scene).labels, np.uint8) for scene in scenes]
        others = [Other("node"), Other("wasm"), Other("wasm-int8")]
        agreement = gate(others, paths, expected)
        pixels = dict(zip(paths, scenes, strict=True))
        sides: dict[str, Callable[[Path], float]] = {
            "python": lambda path: timed(lambda: segment(pixels[path]))[0]
        }
        sides |= {other.mode: lambda path, other=other: other.segment(path)[0] for other in others}  # type: ignore[misc]
        seconds = clock(sides, paths, args.rounds)
        for other in others:
            other.close()
        if args.webgpu:
            gpu = Other("webgpu")
            agreement |= gate([gpu], paths[:2], expected[:2])
            gpu.close()
    rows: list[Row] = []
    for name, taken in seconds.items():
        pairs = ratios(taken, seconds["python"])
        row: Row = {
            "side": name,
            "seconds": taken,
            "median_ratio": statistics.median(pairs),
            "limit": LIMITS.get(name),
        }
        rows.append(row)
        print(f"{name}: {statistics.median(taken) * 1000:.0f} ms, {spread(pairs)} of Python")
    visits = first_pictures(args.visits)
    processor = statistics.median(visit["processor_seconds"] for visit in visits)
    print(
        f"first picture, warm cache: {processor:.1f} s of processor time (limit {FIRST_PICTURE_SECONDS:.0f})"
    )
    write_report(
        args.json,
        "Does the demo model run in the browser and in Node as in Python, and how fast?",
        processors=PROCESSORS,
        size=SIZE,
        agreement=agreement,
        rows=rows,
        first_picture={
            "visits": visits,
            "median_processor_seconds": processor,
            "limit": FIRST_PICTURE_SECONDS,
        },
    )


if __name__ == "__main__":
    main()
