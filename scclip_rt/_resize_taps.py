"""OpenCV's bilinear resize of uint8 images as tables of taps: what a GPU needs to give the same bytes.

`scclip_rt.geometry.resize` calls OpenCV, whose INTER_LINEAR on uint8 is part of the method (METHOD §1). It works
in fixed point: weights in 1/2048, a row resized first and kept in 1/128, then two rows joined, the last bits
dropped:

    row[x]  = (p[low] · w_low + p[high] · w_high) >> 4
    out[y]  = ((w_low · row_low >> 16) + (w_high · row_high >> 16) + 2) >> 2

`resize_by_taps` is that in numpy; it equals OpenCV bit for bit (the tests compare them), halving included.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_ONE = 2048


def resize_taps(length: int, source: int, *, horizontal: bool) -> NDArray[np.int32]:
    """Where each pixel of a resized axis reads from.

    Args:
        length: pixels after resizing.
        source: pixels before.
        horizontal: columns stop at the border, rows run over it with clamped taps; the bytes differ.

    Returns:
        (length, 4) int32: lower tap, upper tap, and their weights in 1/2048.
    """
    scale = 1.0 / (length / source)
    place = ((np.arange(length) + 0.5) * scale - 0.5).astype(np.float32)
    lower = np.floor(place).astype(np.int32)
    fraction = place - lower.astype(np.float32)
    if horizontal:
        outside = (lower < 0) | (lower >= source - 1)
        fraction[outside] = 0
        lower = lower.clip(0, source - 1)
    taps = np.empty((length, 4), np.int32)
    taps[:, 0] = lower.clip(0, source - 1)
    taps[:, 1] = (lower + 1).clip(0, source - 1)
    taps[:, 2] = np.rint((np.float32(1) - fraction) * np.float32(_ONE))
    taps[:, 3] = np.rint(fraction * np.float32(_ONE))
    return taps


def resize_by_taps(
    image: NDArray[np.uint8], rows: NDArray[np.int32], columns: NDArray[np.int32]
) -> NDArray[np.uint8]:
    """Resize (H, W, C) uint8 by both axes' taps: the GPU kernel's arithmetic, for tests."""
    pixels = image.astype(np.int32)
    left, right = pixels[:, columns[:, 0]], pixels[:, columns[:, 1]]
    across = (left * columns[:, 2, None] + right * columns[:, 3, None]) >> 4
    top = (across[rows[:, 0]] * rows[:, 2, None, None]) >> 16
    bottom = (across[rows[:, 1]] * rows[:, 3, None, None]) >> 16
    return ((top + bottom + 2) >> 2).astype(np.uint8)
