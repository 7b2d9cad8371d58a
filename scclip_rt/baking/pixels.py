"""From an image tensor to the encoder's windows, in ONNX: the method's resize rule, byte for byte (METHOD §1).

Everything is exact in float32: bytes and the taps' weights are whole numbers, and no intermediate value needs more
than 24 bits. So the graph gives OpenCV's bytes on every runtime, also on those without integers.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from scclip_rt.baking.nodes import Nodes
from scclip_rt.baking.options import Pixels
from scclip_rt.image.geometry import Tiling
from scclip_rt.image.resize import resize_taps


def windows_of(nodes: Nodes, image: str, *, pixels: Pixels, size: tuple[int, int], tiling: Tiling) -> str:
    """Bytes as float32, resized and cut.

    Args:
        nodes: what is added to.
        image: the tensor, as `BakeOptions.pixels` says.
        pixels: its kind.
        size: (height, width) of the image.
        tiling: how it is resized and cut.

    Returns:
        (B · windows, h, w, 3) float32, whole numbers from 0 to 255, the windows of an image row by row.
    """
    return _cut(nodes, _resized(nodes, _bytes(nodes, image, pixels), size, tiling), tiling)


def _bytes(nodes: Nodes, image: str, pixels: Pixels) -> str:
    """(B, H, W, 3) float32 whole numbers; floats between two bytes go to the nearest."""
    if pixels == "uint8":
        return nodes.cast(image, np.float32)
    if pixels == "unit":
        image = nodes("Mul", image, nodes.floats(255))
    rounded = nodes("Floor", nodes("Add", image, nodes.floats(0.5)))
    clipped = nodes("Clip", rounded, nodes.floats(0), nodes.floats(255))
    return nodes.transpose(clipped, (0, 2, 3, 1))


def _resized(nodes: Nodes, image: str, size: tuple[int, int], tiling: Tiling) -> str:
    """`scclip_rt.image.resize.resize_by_taps` in float32."""
    if size == (tiling.height, tiling.width):
        return image
    columns = resize_taps(tiling.width, size[1], horizontal=True)
    across = nodes("Add", *(_column_tap(nodes, image, columns, tap) for tap in (0, 1)))
    across = _floor_over(nodes, across, 16)
    rows = resize_taps(tiling.height, size[0], horizontal=False)
    # A row has 15 bits, its weight 12: their product is taken in two halves.
    upper = _floor_over(nodes, across, 256)
    lower = nodes("Sub", across, nodes("Mul", upper, nodes.floats(256)))
    joined = nodes("Add", *(_row_tap(nodes, upper, lower, rows, tap) for tap in (0, 1)))
    return _floor_over(nodes, nodes("Add", joined, nodes.floats(2)), 4)


def _column_tap(nodes: Nodes, image: str, taps: NDArray[np.int32], tap: int) -> str:
    pixel = nodes("Gather", image, nodes.integers(taps[:, tap]), axis=2)
    return nodes("Mul", pixel, nodes.floats(taps[:, 2 + tap, None]))


def _row_tap(nodes: Nodes, upper: str, lower: str, taps: NDArray[np.int32], tap: int) -> str:
    """floor((256 · upper + lower) · weight / 65536)."""
    index, weight = nodes.integers(taps[:, tap]), nodes.floats(taps[:, 2 + tap, None, None])
    first, second = (nodes("Mul", nodes("Gather", half, index, axis=1), weight) for half in (upper, lower))
    whole = _floor_over(nodes, first, 256)
    rest = nodes("Sub", first, nodes("Mul", whole, nodes.floats(256)))
    rest = nodes("Add", nodes("Mul", rest, nodes.floats(256)), second)
    return nodes("Add", whole, _floor_over(nodes, rest, 65536))


def _floor_over(nodes: Nodes, value: str, power: int) -> str:
    """floor(value / power) for a power of two, whose reciprocal is exact."""
    return nodes("Floor", nodes("Mul", value, nodes.floats(1 / power)))


def _cut(nodes: Nodes, resized: str, tiling: Tiling) -> str:
    height, width = tiling.input
    if len(tiling) == 1 and (height, width) == (tiling.height, tiling.width):
        return resized
    windows = []
    for top in tiling.rows:
        row = nodes.slice(resized, top, top + height, 1)
        windows += [nodes.slice(row, left, left + width, 2) for left in tiling.columns]
    if len(windows) == 1:
        return windows[0]
    stacked = nodes("Concat", *(nodes("Unsqueeze", window, nodes.integers(1)) for window in windows), axis=1)
    return nodes.reshape(stacked, (-1, height, width, 3))
