"""Label maps that every format has to carry."""

import numpy as np

from scclip_rt.segmentation import Segmentation

NAMES = ("background", "sky", "grass & lawn", "Hündchen", "never there")
UNLABELLED = 255


def patches(rng: np.random.Generator, shape: tuple[int, int], labels: list[int], side: int = 5) -> np.ndarray:
    """Square patches and single pixels: long runs, short runs, holes, regions that meet at corners or at the border."""
    coarse = rng.choice(labels, (shape[0] // side + 1, shape[1] // side + 1))
    out = np.kron(coarse, np.ones((side, side), int))[: shape[0], : shape[1]]
    dots = rng.random(shape) < 0.03
    out[dots] = rng.choice(labels, int(dots.sum()))
    return out


def results(background: int | None = None) -> dict[str, Segmentation]:
    """Two images of one run by their stems: sizes differ, a class never occurs; without a background some have none."""
    rng = np.random.default_rng(3)
    present = [0, 1, 2, 3] if background is not None else [0, 1, 2, 3, UNLABELLED]
    return {
        stem: Segmentation(
            labels=patches(rng, shape, present).astype(np.uint8),
            classes=NAMES,
            unlabelled=UNLABELLED,
            background=background,
        )
        for stem, shape in (("one", (37, 52)), ("two", (64, 41)))
    }
