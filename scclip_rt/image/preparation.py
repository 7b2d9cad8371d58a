"""From whatever the user passes to the windows an encoder takes (METHOD §1 and §7)."""

import math
import os
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from scclip_rt.bundle.manifest import GridSpec
from scclip_rt.errors import ImageError, OptionError
from scclip_rt.image.device_array import array_shape, is_device_array
from scclip_rt.image.geometry import (
    MAX_PIXELS,
    MAX_WINDOWS,
    MIN_PATCHES,
    Tiling,
    check_pixels,
    check_windows,
    cut_windows,
    resize,
    resize_shape,
    whole_image_shape,
)
from scclip_rt.image.load import image_size, load_image
from scclip_rt.image.memory import EncoderCost, check_memory, held_bytes
from scclip_rt.limits import in_range

if TYPE_CHECKING:
    from scclip_rt.image.load import ImageSource

_LEAST_SIDE = 2  # of a window that the encoder pads, docs/bundle.md
MAX_WHOLE_PATCHES = 8192
"""Most patches of an image encoded whole: the memory of attention grows with their square (5 GB here)."""


SMALL_ENCODER = EncoderCost(heads=1, width=1, batch=1)


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
    """How images become windows for one encoder: lengths in pixels, memory in bytes (None: most of what is free)."""

    grid: GridSpec
    patch: int
    embed_dim: int
    short_side: int
    long_side: int
    window: int
    stride: int
    max_pixels: int = MAX_PIXELS
    max_windows: int = MAX_WINDOWS
    max_memory: int | None = None
    cost: EncoderCost = SMALL_ENCODER
    padding: Literal["none", "patch"] = "none"  # as the following, docs/bundle.md
    whole_image: Literal["nearest", "floor"] = "nearest"

    @property
    def whole_windows(self) -> bool:
        """Whether encoders get windows as they are cut: none are padded, and no remainder is left out."""
        return self.padding == "none" and (self.grid.kind != "dynamic" or self.whole_image == "nearest")

    def __post_init__(self) -> None:
        for name in ("short_side", "stride", "max_pixels", "max_windows"):
            in_range(name, getattr(self, name))
        if self.max_memory is not None:
            in_range("max_memory", self.max_memory)
        if self.short_side > self.long_side:
            raise OptionError(
                f"a short side of {self.short_side} is above {self.long_side}, to which the bundle limits the long "
                f"side; use {self.long_side} or less",
                field="short_side",
            )
        if self.stride > self.window:
            raise OptionError(
                f"a stride of {self.stride} leaves gaps between windows of {self.window} pixels; "
                f"use {self.window} or less",
                field="stride",
            )

    def __call__(self, image: "ImageSource") -> PreparedImage:
        """Load, resize and cut one image.

        Args:
            image: a path, the bytes of an image file, a file object, a PIL image, or a uint8 RGB array (H, W, 3).

        Raises:
            ImageError: unreadable, of another kind, or above a limit; the message names the image.
        """
        path = _path_of(image)
        pixels = load_image(image, max_pixels=self.max_pixels)
        tiling = self._tiling(pixels.shape[0], pixels.shape[1], path or "the image")
        self._check_memory(pixels.shape[0], pixels.shape[1], tiling, path or "the image")
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

    def held_bytes(self, image: "ImageSource") -> int:
        """About how many bytes an image will keep alive until it is labelled, from its header; 0 where that fails."""
        size = image_size(image)
        if size is None or 0 in size or size[0] * size[1] > self.max_pixels:
            return 0
        try:
            tiling = self._tiling(*size, "the image")
        except ImageError:
            return 0
        rows, columns = self._grid(tiling)
        return held_bytes(*size, tiling, rows * columns, self.embed_dim)

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

    def _check_memory(self, height: int, width: int, tiling: Tiling, name: str) -> None:
        rows, columns = self._grid(tiling)
        need = held_bytes(height, width, tiling, rows * columns, self.embed_dim)
        need += self.cost.workspace(len(tiling), rows * columns)
        check_memory(need, self.max_memory, name, whole=self.grid.kind != "window")

    def _grid(self, tiling: Tiling) -> tuple[int, int]:
        if self.padding == "patch":
            return -(-tiling.window[0] // self.patch), -(-tiling.window[1] // self.patch)
        return tiling.input[0] // self.patch, tiling.input[1] // self.patch

    def _tiling(self, height: int, width: int, name: str) -> Tiling:
        pads = self.padding == "patch"
        if self.grid.kind == "window":
            shape = resize_shape(
                height,
                width,
                short_side=self.short_side,
                long_side=self.long_side,
                min_side=_LEAST_SIDE if pads else self.window,
            )
            window = (min(shape[0], self.window), min(shape[1], self.window))
            check_windows(shape, window=window, stride=self.stride, max_windows=self.max_windows, name=name)
            tiling = Tiling.windows(*shape, window=window, stride=self.stride)
            return tiling.padded(self.patch) if pads else tiling
        if self.grid.rows is not None and self.grid.columns is not None:
            return Tiling.whole(self.grid.rows * self.patch, self.grid.columns * self.patch)
        tiling = self._whole(height, width)
        shape, patches = (tiling.height, tiling.width), math.prod(self._grid(tiling))
        if patches > MAX_WHOLE_PATCHES:
            raise ImageError(
                f"{name} would be {patches:,} patches at {shape[1]}×{shape[0]}, encoded whole; the limit is "
                f"{MAX_WHOLE_PATCHES:,}. Lower --short-side (short_side=), or use windows"
            )
        return tiling

    def _whole(self, height: int, width: int) -> Tiling:
        """One window that is the whole image, of a size that the encoder takes (docs/bundle.md, "Whole images")."""
        if self.padding == "none" and self.whole_image == "nearest":
            return Tiling.whole(
                *whole_image_shape(
                    height, width, patch=self.patch, short_side=self.short_side, long_side=self.long_side
                )
            )
        pads = self.padding == "patch"
        shape = resize_shape(
            height,
            width,
            short_side=self.short_side,
            long_side=self.long_side,
            min_side=_LEAST_SIDE if pads else MIN_PATCHES * self.patch,
        )
        tiling = Tiling.whole(*shape)
        if pads:
            return tiling.padded(self.patch)
        rows, columns = (side // self.patch * self.patch for side in shape)
        return tiling if (rows, columns) == shape else replace(tiling, seen=(rows, columns))


def _path_of(image: "ImageSource") -> str | None:
    return os.fspath(image) if isinstance(image, str | os.PathLike) else None
