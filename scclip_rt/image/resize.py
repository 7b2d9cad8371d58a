"""OpenCV's bilinear resize of uint8 images as tables of taps, for the same bytes on every processor and GPU.

OpenCV's INTER_LINEAR on uint8 is part of the method (METHOD §1). On x86-64 it works in fixed point: weights in
1/2048, a row resized first and kept in 1/128, then two rows joined, the last bits dropped:

    row[x]  = (p[low] · w_low + p[high] · w_high) >> 4
    out[y]  = ((w_low · row_low >> 16) + (w_high · row_high >> 16) + 2) >> 2

`resize_by_taps` is that in numpy; it equals OpenCV bit for bit (the tests compare them), halving included. A photo of
375×500 takes it 2 ms and OpenCV 0.2, whose import takes 20. On ARM OpenCV's wheel calls other libraries (KleidiCV,
carotene): version 5.0 gave other bytes for 23 of 127 pairs of sizes, nearly all of those that shrink both sides and the
width to more than half (375×500 to 336×448: a quarter of the values, by up to 2).
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
    height, width, channels = image.shape
    # Values instead of pixels along a row: numpy copies single bytes faster than triples.
    low, high = ((columns[:, [side]] * channels + np.arange(channels)).ravel() for side in (0, 1))
    weight_low, weight_high = (np.repeat(columns[:, side], channels) for side in (2, 3))
    pixels = image.reshape(height, width * channels)
    resized = np.empty((shape[0], shape[1] * channels), np.uint8)
    for start in range(0, shape[0], _ROWS):
        taps = rows[start : start + _ROWS]
        sources, place = np.unique(taps[:, :2], return_inverse=True)
        place = place.reshape(-1, 2)
        source = pixels[sources]
        across = source.take(low, axis=1) * weight_low
        across += source.take(high, axis=1) * weight_high
        across >>= 4
        upper, lower = across[place[:, 0]], across[place[:, 1]]
        upper *= taps[:, 2:3]
        upper >>= 16
        lower *= taps[:, 3:4]
        lower >>= 16
        upper += lower
        upper += 2
        upper >>= 2
        resized[start : start + _ROWS] = upper
    return resized.reshape(*shape, channels)
