"""Compare what a tool read with the label maps that were written. Needs numpy only."""

import json
import sys
from pathlib import Path

import numpy as np

WRITTEN = Path(sys.argv[1])
NAMES = json.loads((WRITTEN / "names.json").read_text())
UNLABELLED = 255


def blank(stem: str) -> np.ndarray:
    """A map without labels, of the image's size."""
    return np.full(np.load(WRITTEN / f"{stem}.npy").shape, UNLABELLED)


def check(what: str, maps: dict[str, np.ndarray]) -> None:
    """Every image is there, and equal on every pixel; else the run fails."""
    assert set(maps) == {"one", "two"}, f"{what}: images {sorted(maps)}"
    for stem, found in maps.items():
        wanted = np.load(WRITTEN / f"{stem}.npy")
        equal = (found == wanted).mean() if found.shape == wanted.shape else 0
        assert equal == 1, f"{what}: {stem}: {equal:.2%} of labels equal"
    print(f"   {what}: equal on every pixel")
