"""Sizes: how an image is resized and cut into windows (METHOD §1), or taken whole (§7)."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from scclip_rt.errors import ImageError, OptionError
from scclip_rt.image.resize import resize_by_taps

LONG_SIDE = 2048
MIN_PATCHES = 6
MAX_PIXELS = 128_000_000
"""Largest image taken by default: above an 8K frame (33 MP) and a medium-format photo (102 MP)."""
MAX_WINDOWS = 1024
"""Most windows an image may be cut into by default (an ordinary photo has 6 to 72)."""


def resize_shape(
    height: int, width: int, *, short_side: int, long_side: int = LONG_SIDE, min_side: int
) -> tuple[int, int]:
    """Size to resize an image to before windows are cut: ratio kept, METHOD §1.

    The short side becomes `short_side` unless the long side would pass `long_side`. Images so elongated
    that this leaves the short side under `min_side` (the window) are scaled up until it reaches `min_side`,
    past `long_side` if need be; the reference feeds a smaller window there.

    Args:
        height: of the image, pixels.
        width: of the image, pixels.
        short_side: wanted short side, pixels.
        long_side: largest long side, pixels.
        min_side: smallest short side, pixels; 0 for none.

    Returns:
        (height, width) in pixels, rounded half up.
    """
    if height < 1 or width < 1:
        raise ImageError(f"the image has no pixels: its size is {height}×{width}", field="image")
    scale = min(long_side / max(height, width), short_side / min(height, width))
    scale = max(scale, min_side / min(height, width))
    return int(height * scale + 0.5), int(width * scale + 0.5)


def whole_image_shape(
    height: int, width: int, *, patch: int, short_side: int, long_side: int = LONG_SIDE
) -> tuple[int, int]:
    """Size for one pass over the whole image (METHOD §7).

    Resized as for windows (but never scaled up past `long_side`), then each side goes to the nearest multiple
    of `patch` (half up), at least six patches.
    """
    shape = resize_shape(height, width, short_side=short_side, long_side=long_side, min_side=0)
    rows, columns = (max(int(side / patch + 0.5), MIN_PATCHES) * patch for side in shape)
    return rows, columns


def resize(image: NDArray[np.uint8], shape: tuple[int, int]) -> NDArray[np.uint8]:
    """Resize (H, W, 3) uint8 to `shape` (height, width), bilinear without antialiasing, as the method wants.

    Antialiasing changes CLIP's features (cosine about 0.94), so the rule is part of the model.
    The bytes are the same on every processor. An image that has that size already is returned as it is.
    """
    _check_image(image)
    if image.shape[:2] == shape:
        return image
    return resize_by_taps(image, shape)


def window_starts(length: int, window: int, stride: int) -> tuple[int, ...]:
    """Where windows start along one axis of `length` pixels; the last one ends at the border (METHOD §1)."""
    if stride < 1 or window < 1:
        raise OptionError(f"window and stride must be at least 1 pixel; got window {window}, stride {stride}")
    if length == window:
        return (0,)
    if length < window:
        raise OptionError(f"a window of {window} pixels doesn't fit into {length}")
    if stride > window:
        raise OptionError(
            f"a stride of {stride} leaves gaps between windows of {window}; use {window} or less"
        )
    count = max(length - window + stride - 1, 0) // stride + 1
    return tuple(min(stride * i + window, length) - window for i in range(count))


@dataclass(frozen=True, slots=True, kw_only=True)
class Tiling:
    """How a resized image of `height` × `width` pixels is covered by equal windows.

    Windows go row by row: window `i * len(columns) + j` starts at (`rows[i]`, `columns[j]`).

    Attributes:
        height: of the resized image, pixels.
        width: of the resized image, pixels.
        rows: where windows start, from the top.
        columns: where windows start, from the left.
        window: (height, width) of a window, which its patches' logits are stretched over.
        padding: what the encoder adds to a window before it has patches: (above, below), (left, right), pixels.
        seen: (height, width) of the part of a window, from its top left corner, that the encoder gets; None: all of it.
    """

    height: int
    width: int
    rows: tuple[int, ...]
    columns: tuple[int, ...]
    window: tuple[int, int]
    padding: tuple[tuple[int, int], tuple[int, int]] = ((0, 0), (0, 0))
    seen: tuple[int, int] | None = None

    @classmethod
    def windows(
        cls, height: int, width: int, *, window: int | tuple[int, int], stride: int | None = None
    ) -> Tiling:
        """Sliding windows; `stride` is half of the window unless given."""
        window_h, window_w = (window, window) if isinstance(window, int) else window
        return cls(
            height=height,
            width=width,
            rows=window_starts(height, window_h, window_h // 2 if stride is None else stride),
            columns=window_starts(width, window_w, window_w // 2 if stride is None else stride),
            window=(window_h, window_w),
        )

    @classmethod
    def whole(cls, height: int, width: int) -> Tiling:
        """One window that is the whole image."""
        return cls(height=height, width=width, rows=(0,), columns=(0,), window=(height, width))

    @property
    def input(self) -> tuple[int, int]:
        """(height, width) in pixels of what the encoder gets of a window."""
        return self.seen or self.window

    def padded(self, patch: int) -> Tiling:
        """The same where the encoder pads to whole patches, the smaller half above and to the left."""
        missing = [-side % patch for side in self.window]
        vertical, horizontal = ((pixels // 2, pixels - pixels // 2) for pixels in missing)
        return replace(self, padding=(vertical, horizontal))

    def __len__(self) -> int:
        return len(self.rows) * len(self.columns)


def cut_windows(resized: NDArray[np.uint8], tiling: Tiling) -> NDArray[np.uint8]:
    """Windows of a resized image.

    Args:
        resized: (tiling.height, tiling.width, 3) uint8.
        tiling: where the windows are.

    Returns:
        (windows, window height, window width, 3) uint8, row by row, C-contiguous.
    """
    _check_image(resized)
    if resized.shape[:2] != (tiling.height, tiling.width):
        raise ValueError(
            f"the tiling is for {tiling.height}×{tiling.width}; got an image of {resized.shape[:2]}"
        )
    h, w = tiling.input
    out = np.empty((len(tiling), h, w, 3), np.uint8)
    for index, (top, left) in enumerate((top, left) for top in tiling.rows for left in tiling.columns):
        out[index] = resized[top : top + h, left : left + w]
    return out


def check_pixels(height: int, width: int, *, max_pixels: int = MAX_PIXELS, name: str = "the image") -> None:
    """Refuse an image of more than `max_pixels` pixels, before it is decoded or copied.

    Raises:
        ImageError: it is too large, or has no pixels.
    """
    if height < 1 or width < 1:
        raise ImageError(f"{name} has no pixels: its size is {height}×{width}", field="image")
    if height * width > max_pixels:
        raise ImageError(
            f"{name} is {width}×{height}, {height * width / 1e6:,.1f} million pixels; the limit is "
            f"{max_pixels / 1e6:,.1f} million. Shrink it, or raise the limit with --max-pixels (max_pixels=).",
            field="max_pixels",
        )


def check_windows(
    shape: tuple[int, int],
    *,
    window: int | tuple[int, int],
    stride: int,
    max_windows: int = MAX_WINDOWS,
    name: str = "the image",
) -> None:
    """Refuse an image that would be cut into more than `max_windows`, before it is resized.

    Args:
        shape: (height, width) after `resize_shape`.
        window: side, or (height, width).
        stride: pixels.
        max_windows: the limit.
        name: what to call the image in the message.

    Raises:
        ImageError: too many windows.
    """
    sides = (window, window) if isinstance(window, int) else window
    count = 1
    for length, side in zip(shape, sides, strict=True):
        # Not window_starts: a line of 20,000 pixels has 40,000 windows and need not list them.
        count *= max(length - side + stride - 1, 0) // stride + 1
    if count > max_windows:
        raise ImageError(
            f"{name} needs {count:,} windows at {shape[1]}×{shape[0]}; the limit is {max_windows:,}. "
            "It is very elongated or the short side is very large: crop it, lower --short-side, "
            "or raise the limit with --max-windows (max_windows=).",
            field="max_windows",
        )


def _check_image(image: NDArray[np.uint8]) -> None:
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ImageError(
            f"expected a uint8 array of shape (height, width, 3); got {image.dtype} {tuple(image.shape)}"
        )
