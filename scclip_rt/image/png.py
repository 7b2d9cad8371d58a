"""PNG files, quickly: of 12 megapixels in colour in 0.4 s, where Pillow takes 5 s for a file 13 % smaller."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def encode_png(array: NDArray[np.uint8] | NDArray[np.uint16]) -> bytes:
    """A PNG, without loss.

    Args:
        array: (H, W) uint8 or uint16, grey, or (H, W, 3) uint8, RGB.

    Returns:
        The file.
    """
    import cv2  # 60 ms, needed only here

    pixels = array if array.ndim == 2 else cv2.cvtColor(array, cv2.COLOR_RGB2BGR)
    done, data = cv2.imencode(".png", pixels)
    if not done:
        raise ValueError(f"OpenCV made no PNG of {array.dtype} {array.shape}")
    return bytes(data)
