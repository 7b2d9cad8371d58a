"""`scclip segment FOLDER` on photos of 12 megapixels: this tree beside an older commit.

    python -m benchmarks.cpu.large_photos [--baseline COMMIT] [--json benchmarks/results/large-photos.json]

Renders JPEGs of 4000×3000 pixels, then runs the command of both trees in turn, start-up included. First the gate: every
label map of the two must hold the same pixels.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from benchmarks.harness import parser, spread, timed, write_report
from benchmarks.models import work_folder
from scclip_rt.demo.scenes import render

HERE = Path(__file__).resolve().parents[2]
HEIGHT, WIDTH = 3000, 4000
FIRST = "84c9143"
"""The last commit that wrote PNGs with Pillow, one after the other."""


def photos(folder: Path, number: int) -> Path:
    """A folder of JPEGs of 12 megapixels, with the noise of a camera; made once."""
    made = folder / f"photos-{number}"
    made.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for index in range(number):
        noise = rng.normal(0, 4, (HEIGHT, WIDTH, 3)).astype(np.int16)
        path = made / f"{index:03d}.jpg"
        if not path.exists():
            scene = render(index, split="test", size=(750, 1000), count=3).image
            large = cv2.resize(scene, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC) + noise
            Image.fromarray(np.clip(large, 0, 255).astype(np.uint8)).save(path, quality=90)
    return made


@contextmanager
def checkout(commit: str) -> Iterator[Path]:
    """The tree of another commit, in a folder of its own."""
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "tree"
        subprocess.run(
            ["git", "-C", HERE, "worktree", "add", "--quiet", "--detach", tree, commit], check=True
        )
        try:
            yield tree
        finally:
            subprocess.run(["git", "-C", HERE, "worktree", "remove", "--force", tree], check=True)


def segment(tree: Path, images: Path, output: Path) -> None:
    """One run of a tree's command."""
    subprocess.run(
        [sys.executable, "-m", "scclip_rt.cli", "segment", "demo", images, "--output", output, "--force"],
        check=True,
        env=os.environ | {"PYTHONPATH": str(tree)},
        cwd=output.parent,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def check_equal(ours: Path, theirs: Path) -> None:
    """The gate: the same files, and labels of the same pixels; overlays were larger once."""
    names = sorted(path.name for path in theirs.iterdir())
    if names != sorted(path.name for path in ours.iterdir()):
        sys.exit("error: the two trees wrote different files; nothing is told about time")
    for name in (name for name in names if name.endswith(".labels.png")):
        mine, other = (np.asarray(Image.open(folder / name)) for folder in (ours, theirs))
        if not np.array_equal(mine, other):
            sys.exit(f"error: {name} differs between the two trees; nothing is told about time")


def main() -> None:
    """Parse, measure, write."""
    options = parser(__doc__)
    options.add_argument("--baseline", default=FIRST, help="commit to compare with (%(default)s)")
    options.add_argument("--photos", type=int, default=8, help="how many (%(default)s)")
    options.add_argument("--rounds", type=int, default=3, help="(%(default)s)")
    args = options.parse_args()
    folder = work_folder()
    images, theirs, ours = photos(folder, args.photos), folder / "photos-theirs", folder / "photos-ours"
    rows = []
    with checkout(args.baseline) as tree:
        for number in range(args.rounds):
            before, _ = timed(partial(segment, tree, images, theirs))
            now, _ = timed(partial(segment, HERE, images, ours))
            if number == 0:
                check_equal(ours, theirs)
            rows.append({"baseline_seconds": before, "seconds": now, "ratio": before / now})
            rates = f"{args.photos / before:.2f} images/s, now {args.photos / now:.2f}"
            print(f"{args.baseline} {rates}: {before / now:.2f}×")
    print("median " + spread([row["ratio"] for row in rows]))
    question = "12-megapixel JPEGs in a folder: images per second beside an older commit"
    write_report(args.json, question, baseline=args.baseline, photos=args.photos, rounds=rows)


if __name__ == "__main__":
    main()
