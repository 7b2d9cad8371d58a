"""Label maps that every format has to carry."""

import numpy as np
import pytest

from scclip_rt.segmentation import Segmentation

NAMES = ("background", "sky", "grass & lawn", "Hündchen", "never there")


def patches(rng, shape, labels, side=5):
    """A map of square patches with some single pixels: long runs, short runs, holes, classes that touch the borders."""
    coarse = rng.choice(labels, (shape[0] // side + 1, shape[1] // side + 1))
    out = np.kron(coarse, np.ones((side, side), int))[: shape[0], : shape[1]]
    dots = rng.random(shape) < 0.03
    out[dots] = rng.choice(labels, int(dots.sum()))
    return out


@pytest.fixture
def two_results():
    """Two images of one run: sizes differ, one class never occurs, some pixels have none."""
    rng = np.random.default_rng(3)
    return [
        Segmentation(
            labels=patches(rng, shape, [0, 1, 2, 3, 255]).astype(np.uint8),
            classes=NAMES,
            unlabelled=255,
            background=None,
            name=f"photos/{stem}.jpg",
        )
        for stem, shape in (("one", (37, 52)), ("two", (64, 41)))
    ]
