"""Sizes, windows and limits (METHOD §1 and §7)."""

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scclip_rt.errors import ImageError, OptionError
from scclip_rt.image.geometry import (
    Tiling,
    check_pixels,
    check_windows,
    cut_windows,
    resize,
    resize_shape,
    whole_image_shape,
    window_starts,
)


@pytest.mark.parametrize(
    ("size", "short_side", "expected"),
    [
        ((375, 500), 336, (336, 448)),
        ((640, 427), 560, (839, 560)),
        ((500, 375), 336, (448, 336)),
        ((1024, 2048), 560, (560, 1120)),
        ((1, 1), 336, (336, 336)),
        ((100, 900), 336, (228, 2048)),  # the long side decides
        ((100, 1000), 336, (224, 2240)),  # under the window: scaled up past the long side
    ],
)
def test_short_side_long_side_and_window_decide_the_size(size, short_side, expected):
    assert resize_shape(*size, short_side=short_side, min_side=224) == expected


def test_half_a_pixel_rounds_up():
    assert resize_shape(672, 673, short_side=336, min_side=224) == (336, 337)


@given(st.integers(1, 5000), st.integers(1, 5000))
def test_short_side_never_falls_under_the_window(height, width):
    assert min(resize_shape(height, width, short_side=336, min_side=224)) >= 224


@given(st.integers(1, 9000), st.integers(1, 9000), st.sampled_from([14, 16, 32]))
def test_whole_image_sides_are_multiples_of_the_patch(height, width, patch):
    shape = whole_image_shape(height, width, patch=patch, short_side=336)
    assert all(side % patch == 0 and side >= 6 * patch for side in shape)
    assert max(shape) <= 2048 + patch


def test_whole_image_rounds_to_the_nearest_patch():
    assert whole_image_shape(375, 500, patch=16, short_side=336) == (336, 448)
    assert whole_image_shape(375, 515, patch=16, short_side=336) == (336, 464)  # 461.4
    assert whole_image_shape(1, 20_000, patch=16, short_side=336) == (96, 2048)


def test_resize_is_opencv_bilinear_without_antialiasing():
    image = np.random.default_rng(0).integers(0, 256, (60, 90, 3), np.uint8)
    assert np.array_equal(
        resize(image, (25, 40)), cv2.resize(image, (40, 25), interpolation=cv2.INTER_LINEAR)
    )
    assert resize(image, (60, 90)) is image


@pytest.mark.parametrize(
    ("length", "expected"),
    [
        (224, (0,)),
        (225, (0, 1)),
        (336, (0, 112)),
        (337, (0, 112, 113)),
        (448, (0, 112, 224)),
        (560, (0, 112, 224, 336)),
    ],
)
def test_windows_follow_the_reference(length, expected):
    assert window_starts(length, 224, 112) == expected


@given(st.integers(8, 300), st.integers(1, 8), st.integers(1, 8))
def test_windows_cover_every_pixel(length, window, stride):
    stride = min(stride, window)
    starts = window_starts(length, window, stride)
    covered = np.zeros(length, int)
    for start in starts:
        covered[start : start + window] += 1
    assert covered.min() >= 1
    assert starts[-1] + window == length


def test_impossible_windows_are_refused():
    for length, window, stride in ((100, 224, 112), (300, 224, 300), (300, 224, 0)):
        with pytest.raises(OptionError):
            window_starts(length, window, stride)


def test_windows_are_cut_row_by_row():
    image = np.random.default_rng(1).integers(0, 256, (336, 448, 3), np.uint8)
    tiling = Tiling.windows(336, 448, window=224)
    windows = cut_windows(image, tiling)
    assert windows.shape == (len(tiling), 224, 224, 3) == (6, 224, 224, 3)
    assert np.array_equal(windows[4], image[112:336, 112:336])
    assert np.array_equal(cut_windows(image, Tiling.whole(336, 448))[0], image)


def test_cutting_another_size_is_refused():
    with pytest.raises(ValueError, match="tiling is for"):
        cut_windows(np.zeros((300, 300, 3), np.uint8), Tiling.whole(336, 448))


def test_limits_name_the_option_that_raises_them():
    with pytest.raises(ImageError, match=r"photo\.png is 20000×20000.*--max-pixels"):
        check_pixels(20_000, 20_000, name="photo.png")
    shape = resize_shape(1, 20_000, short_side=336, min_side=224)
    with pytest.raises(ImageError, match=r"39,999 windows.*--max-windows"):
        check_windows(shape, window=224, stride=112)
    with pytest.raises(ImageError, match="no pixels"):
        check_pixels(0, 5)


def test_large_photos_pass_the_limits():
    for height, width in ((4320, 7680), (8736, 11648), (1, 1)):
        shape = resize_shape(height, width, short_side=336, min_side=224)
        check_pixels(height, width)
        check_windows(shape, window=224, stride=112)
