"""From whatever the user passes to the windows an encoder takes (METHOD §1 and §7)."""

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from scclip_rt.bundle.manifest import GridSpec
from scclip_rt.errors import ImageError, OptionError
from scclip_rt.image.device_array import array_shape, is_device_array
from scclip_rt.image.geometry import (
    MAX_PIXELS,
    MAX_WINDOWS,
    Tiling,
    check_pixels,
    check_windows,
    cut_windows,
    resize,
    resize_shape,
    whole_image_shape,
)
from scclip_rt.image.load import load_image

if TYPE_CHECKING:
    from scclip_rt.image.load import ImageSource

MAX_WHOLE_PATCHES = 8192
"""Most patches of an image encoded whole: the memory of attention grows with their square (3 GiB here)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedImage:
    """An image ready for the encoder.

    `image` is (H, W, 3) uint8 as loaded, `resized` what the tiling refers to, `windows` (W, h, w, 3) uint8
    and `grid` the (rows, columns) of patches in each window.
    """

    name: str | None
    image: NDArray[np.uint8]
    resized: NDArray[np.uint8]
    tiling: Tiling
    windows: NDArray[np.uint8]
    grid: tuple[int, int]
    embed_dim: int

    @property
    def held_bytes(self) -> int:
        """Bytes that this image keeps alive until it is decoded, its features to come included."""
        features = len(self.windows) * self.grid[0] * self.grid[1] * self.embed_dim * 4
        return self.image.nbytes + self.resized.nbytes + self.windows.nbytes + features


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedImage:
    """An image as loaded, with how it is to be resized and cut.

    `image` is (H, W, 3) uint8, or an array of that kind in CUDA memory, untouched; `grid` as in `PreparedImage`.
    """

    name: str | None
    image: object
    tiling: Tiling
    grid: tuple[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Preparation:
    """How images become windows for one encoder: lengths in pixels."""

    grid: GridSpec
    patch: int
    embed_dim: int
    short_side: int
    long_side: int
    window: int
    stride: int
    max_pixels: int = MAX_PIXELS
    max_windows: int = MAX_WINDOWS

    def __post_init__(self) -> None:
        for name in ("short_side", "stride", "max_pixels", "max_windows"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise OptionError(f"{name} must be a whole number of at least 1; got {value!r}", field=name)
        if self.stride > self.window:
            raise OptionError(
                f"a stride of {self.stride} leaves gaps between windows of {self.window} pixels; "
                f"use {self.window} or less",
                field="stride",
            )

    def __call__(self, image: "ImageSource") -> PreparedImage:
        """Load, resize and cut one image.

        Args:
            image: a path, the bytes of an image file, a PIL image, or a uint8 RGB array (H, W, 3).

        Raises:
            ImageError: unreadable, of another kind, or above a limit; the message names the image.
        """
        path = _path_of(image)
        pixels = load_image(image, max_pixels=self.max_pixels)
        tiling = self._tiling(pixels.shape[0], pixels.shape[1], path or "the image")
        resized = resize(pixels, (tiling.height, tiling.width))
        return PreparedImage(
            name=path,
            image=pixels,
            resized=resized,
            tiling=tiling,
            windows=cut_windows(resized, tiling),
            grid=self._grid(tiling),
            embed_dim=self.embed_dim,
        )

    def load(self, image: "ImageSource") -> LoadedImage:
        """Load one image and leave resizing and cutting to the backend.

        Args:
            image: as for `__call__`, or a uint8 (H, W, 3) array in CUDA memory, of which only the shape is looked at.

        Raises:
            ImageError: as `__call__`.
        """
        if is_device_array(image):
            shape = array_shape(image)
            if len(shape) != 3:
                raise ImageError(f"an image on the GPU must be (height, width, 3); got {shape}")
            check_pixels(shape[0], shape[1], max_pixels=self.max_pixels)
            tiling = self._tiling(shape[0], shape[1], "the image")
            return LoadedImage(name=None, image=image, tiling=tiling, grid=self._grid(tiling))
        path = _path_of(image)
        pixels = load_image(image, max_pixels=self.max_pixels)
        tiling = self._tiling(pixels.shape[0], pixels.shape[1], path or "the image")
        return LoadedImage(name=path, image=pixels, tiling=tiling, grid=self._grid(tiling))

    def _grid(self, tiling: Tiling) -> tuple[int, int]:
        return tiling.window[0] // self.patch, tiling.window[1] // self.patch

    def _tiling(self, height: int, width: int, name: str) -> Tiling:
        if self.grid.kind == "window":
            shape = resize_shape(
                height, width, short_side=self.short_side, long_side=self.long_side, min_side=self.window
            )
            check_windows(
                shape, window=self.window, stride=self.stride, max_windows=self.max_windows, name=name
            )
            return Tiling.windows(*shape, window=self.window, stride=self.stride)
        if self.grid.rows is not None and self.grid.columns is not None:
            return Tiling.whole(self.grid.rows * self.patch, self.grid.columns * self.patch)
        shape = whole_image_shape(
            height, width, patch=self.patch, short_side=self.short_side, long_side=self.long_side
        )
        patches = (shape[0] // self.patch) * (shape[1] // self.patch)
        if patches > MAX_WHOLE_PATCHES:
            raise ImageError(
                f"{name} would be {patches:,} patches at {shape[1]}×{shape[0]}, encoded whole; the limit is "
                f"{MAX_WHOLE_PATCHES:,}. Lower --short-side (short_side=), or use windows"
            )
        return Tiling.whole(*shape)


def _path_of(image: "ImageSource") -> str | None:
    return os.fspath(image) if isinstance(image, str | os.PathLike) else None
