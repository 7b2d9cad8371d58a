"""PNG files hold exactly what they were given."""

import io

import numpy as np
import pytest
from PIL import Image

from scclip_rt.image.png import encode_png

RNG = np.random.default_rng(0)


@pytest.mark.parametrize(
    "array",
    [
        RNG.integers(0, 256, (13, 7), np.uint8),
        RNG.integers(0, 65536, (13, 7), np.uint16),
        RNG.integers(0, 256, (13, 7, 3), np.uint8),
        np.zeros((1, 1), np.uint8),
        RNG.integers(0, 256, (20, 30), np.uint8)[::2, ::3],
    ],
    ids=["grey", "grey-16", "rgb", "one-pixel", "strided"],
)
def test_another_reader_gets_the_same_pixels(array):
    with Image.open(io.BytesIO(encode_png(array))) as image:
        assert image.format == "PNG"
        assert np.array_equal(np.asarray(image), array)
