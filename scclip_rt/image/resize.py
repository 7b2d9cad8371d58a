"""OpenCV's bilinear resize of uint8 images as tables of taps: what a GPU, or ARM, needs to give the same bytes.

OpenCV's INTER_LINEAR on uint8 is part of the method (METHOD §1). On x86-64 it works in fixed point: weights in
1/2048, a row resized first and kept in 1/128, then two rows joined, the last bits dropped:

    row[x]  = (p[low] · w_low + p[high] · w_high) >> 4
    out[y]  = ((w_low · row_low >> 16) + (w_high · row_high >> 16) + 2) >> 2

`resize_by_taps` is that in numpy; it equals OpenCV bit for bit (the tests compare them), halving included. On ARM
OpenCV's wheel calls other libraries (KleidiCV, carotene): version 5.0 gave other bytes for 23 of 127 pairs of sizes,
nearly all of those that shrink both sides and the width to more than half (375×500 to 336×448: a quarter of the values,
by up to 2). So OpenCV is asked on x86-64 only.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_ONE = 2048
_ROWS = 16  # of the result at a time


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


def resize_by_taps(image: NDArray[np.uint8], shape: tuple[int, int]) -> NDArray[np.uint8]:
    """Resize (H, W, C) uint8 to `shape` (height, width): the bytes that OpenCV gives on x86-64.

    Memory beside the result: a few rows, so that the intermediate values stay in the cache.
    """
    rows = resize_taps(shape[0], image.shape[0], horizontal=False)
    columns = resize_taps(shape[1], image.shape[1], horizontal=True)
    low, high, *weights = columns.T
    weight_low, weight_high = (weight[:, None] for weight in weights)
    resized = np.empty((*shape, image.shape[2]), np.uint8)
    for start in range(0, shape[0], _ROWS):
        taps = rows[start : start + _ROWS]
        sources, place = np.unique(taps[:, :2], return_inverse=True)
        source = image[sources]
        across = source.take(low, axis=1) * weight_low
        across += source.take(high, axis=1) * weight_high
        across >>= 4
        joined = across[place.reshape(-1, 2)]
        joined *= taps[:, 2:, None, None]
        joined >>= 16
        resized[start : start + _ROWS] = (joined[:, 0] + joined[:, 1] + 2) >> 2
    return resized
