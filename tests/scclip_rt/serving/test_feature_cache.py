"""The cache of encoded images: what it finds them by."""

import numpy as np

from scclip_rt.serving.feature_cache import FeatureCache


def test_files_and_pixels_of_any_shape_have_keys_of_their_own() -> None:
    cache = FeatureCache(1)
    pixels = np.arange(4 * 6 * 3, dtype=np.uint8)
    images = [
        pixels.reshape(4, 6, 3),
        pixels.reshape(6, 4, 3),
        pixels.tobytes(),
        b"(4, 6, 3)" + pixels.tobytes(),
        b"file" + pixels.tobytes(),
    ]
    keys = [cache.key(image, b"owner") for image in images]
    assert len(set(keys)) == len(images)
    assert keys[0] == cache.key(images[0].copy(), b"owner") != cache.key(images[0], b"other")
