"""The tables of taps give OpenCV's bytes."""

import numpy as np
import pytest

from scclip_rt._resize_taps import resize_by_taps, resize_taps
from scclip_rt.geometry import resize


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ((375, 500), (336, 448)),
        ((336, 448), (336, 448)),  # unchanged
        ((672, 448), (336, 224)),  # halved: OpenCV takes another path
        ((120, 90), (448, 336)),  # enlarged: taps past both borders
        ((97, 131), (224, 303)),
        ((1, 7), (224, 1568)),
        ((1080, 1920), (336, 597)),
        ((500, 333), (505, 336)),
    ],
)
def test_taps_are_opencv(source: tuple[int, int], target: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 256, (*source, 3), dtype=np.uint8)
    rows = resize_taps(target[0], source[0], horizontal=False)
    columns = resize_taps(target[1], source[1], horizontal=True)
    np.testing.assert_array_equal(resize_by_taps(image, rows, columns), resize(image, target))


def test_taps_are_opencv_on_many_sizes() -> None:
    rng = np.random.default_rng(1)
    for _ in range(60):
        source, target = rng.integers(2, 300, 2), rng.integers(40, 300, 2)
        image = rng.integers(0, 256, (*source, 3), dtype=np.uint8)
        rows = resize_taps(int(target[0]), int(source[0]), horizontal=False)
        columns = resize_taps(int(target[1]), int(source[1]), horizontal=True)
        expected = resize(image, (int(target[0]), int(target[1])))
        np.testing.assert_array_equal(
            resize_by_taps(image, rows, columns), expected, err_msg=f"{source} to {target}"
        )
