"""The tables of taps give OpenCV's bytes."""

import platform

import cv2
import numpy as np
import pytest

from scclip_rt.image.geometry import resize
from scclip_rt.image.resize import resize_by_taps

pytestmark = pytest.mark.skipif(
    platform.machine() not in ("x86_64", "AMD64"), reason="OpenCV's bytes are x86-64's"
)


def opencv(image: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    return cv2.resize(image, (shape[1], shape[0]), interpolation=cv2.INTER_LINEAR)


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
    np.testing.assert_array_equal(resize_by_taps(image, target), opencv(image, target))


def test_taps_are_opencv_on_many_sizes() -> None:
    rng = np.random.default_rng(1)
    for _ in range(60):
        source, target = rng.integers(2, 300, 2), rng.integers(40, 300, 2)
        image, shape = rng.integers(0, 256, (*source, 3), dtype=np.uint8), (int(target[0]), int(target[1]))
        np.testing.assert_array_equal(
            resize_by_taps(image, shape), opencv(image, shape), err_msg=f"{source} to {target}"
        )


def test_method_resizes_by_these_taps() -> None:
    image = np.random.default_rng(2).integers(0, 256, (375, 500, 3), dtype=np.uint8)
    np.testing.assert_array_equal(resize(image, (336, 448)), opencv(image, (336, 448)))
    assert resize(image, (375, 500)) is image
