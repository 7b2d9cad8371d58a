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


def rle_unpack(data: bytes | list[int]) -> np.ndarray:
    """thi.ng's rle-pack from its README: header, then chunks that are runs (1) or literal values (0)."""
    bits = "".join(f"{byte:08b}" for byte in data)
    place = 0

    def read(width: int) -> int:
        nonlocal place
        place += width
        return int(bits[place - width : place], 2)

    total, word = read(32), read(5) + 1
    sizes = [read(4) + 1 for _ in range(4)]
    values: list[int] = []
    while len(values) < total:
        run = read(1)
        count = read(sizes[read(2)]) + 1
        values += [read(word)] * count if run else [read(word) for _ in range(count)]
    assert len(values) == total
    assert len(bits) - place < 8
    return np.array(values)
