"""A raster as RGB bytes: bands chosen, values scaled, at the resolution to work at, and where it holds anything."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scclip_rt.errors import ImageError, OptionError
from scclip_rt.raster.libraries import load_rasterio
from scclip_rt.raster.options import RasterOptions

_METRES_PER_DEGREE = 111_320.0
_SAMPLES = 16
"""Windows along each side that values are sampled from."""
_SAMPLE_SIDE = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """The pixels to work on.

    Attributes:
        height: pixels.
        width: pixels.
        transform: affine, from (column, row) to the CRS.
        crs: rasterio's, or None.
        pixel_metres: (across, down) metres a pixel; None without a CRS.
    """

    height: int
    width: int
    transform: Any
    crs: Any
    pixel_metres: tuple[float, float] | None


class RasterSource:
    """An open raster. Read by one thread at a time.

    Attributes:
        grid: the pixels that `read` counts.
    """

    def __init__(self, dataset: Any, grid: Grid, options: RasterOptions) -> None:
        self.grid = grid
        self._dataset = dataset
        self._palette = _palette(dataset)
        self._bands = (1, 1, 1) if self._palette is not None else _bands(dataset, options.bands)
        self._scale = None if self._palette is not None else self._scaling(options)

    def read(
        self, top: int, left: int, height: int, width: int
    ) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        """A part of the raster.

        Returns:
            (height, width, 3) uint8 RGB, and (height, width) bool: where the raster holds data.

        Raises:
            ImageError: the file is damaged.
        """
        values, valid = self._read(left, top, width, height)
        if self._palette is not None:
            return self._palette[values[0]], valid
        if values.dtype.kind == "f":
            valid &= np.isfinite(values).all(axis=0)
        return np.ascontiguousarray(self._bytes(values, valid).transpose(1, 2, 0)), valid

    def _read(self, left: int, top: int, width: int, height: int) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        rasterio = load_rasterio()
        window = rasterio.windows.Window(left, top, width, height)
        distinct = sorted(set(self._bands))
        try:
            values = self._dataset.read(distinct, window=window)
            mask = self._dataset.dataset_mask(window=window)
        except rasterio.errors.RasterioError as error:
            raise ImageError(f"can't read {self._dataset.name}: {error}; the file may be damaged") from error
        return values[[distinct.index(band) for band in self._bands]], mask > 0

    def _bytes(self, values: NDArray[Any], valid: NDArray[np.bool_]) -> NDArray[np.uint8]:
        if self._scale is None:
            return np.asarray(values, np.uint8)
        low, high = (limit[:, None, None] for limit in self._scale)
        usable = np.where(valid, values, 0).astype(np.float32)
        scaled = (usable - low) * (np.float32(255) / (high - low))
        return (np.clip(scaled, 0, 255) + np.float32(0.5)).astype(np.uint8)

    def _scaling(self, options: RasterOptions) -> tuple[NDArray[np.float32], NDArray[np.float32]] | None:
        """Per band the values that become 0 and 255; None for bytes as they are."""
        if options.value_range is not None:
            low, high = (np.full(3, limit, np.float32) for limit in options.value_range)
            return low, high
        if all(self._dataset.dtypes[band - 1] == "uint8" for band in self._bands):
            return None
        samples = self._samples()
        low, high = np.percentile(samples, options.percentiles, axis=1).astype(np.float32)
        return low, np.maximum(high, np.nextafter(low, np.float32(np.inf)))

    def _samples(self) -> NDArray[np.float32]:
        """(3, values): valid pixels from a lattice of small windows, the same in every run."""
        found = []
        for top in _lattice(self.grid.height):
            for left in _lattice(self.grid.width):
                height = min(_SAMPLE_SIDE, self.grid.height - top)
                width = min(_SAMPLE_SIDE, self.grid.width - left)
                values, valid = self._read(left, top, width, height)
                if values.dtype.kind == "f":
                    valid &= np.isfinite(values).all(axis=0)
                found.append(values[:, valid].astype(np.float32))
        samples = np.concatenate(found, axis=1)
        if not samples.shape[1]:
            raise ImageError(
                f"{self._dataset.name} is {self._dataset.dtypes[0]}, and its samples hold no data to scale by; "
                "give the values that are to be black and white with --range LOW,HIGH (value_range=)"
            )
        return samples


@contextmanager
def open_raster(path: str | os.PathLike[str], options: RasterOptions) -> Iterator[RasterSource]:
    """Open a raster at the resolution to work at.

    Raises:
        ImageError: not a raster, or damaged.
        OptionError: bands that it doesn't have, or a resolution in metres without a CRS.
        BackendError: rasterio is not installed.
    """
    rasterio = load_rasterio()
    with ExitStack() as stack:
        try:
            dataset = stack.enter_context(rasterio.open(os.fspath(path)))
        except rasterio.errors.RasterioError as error:
            raise ImageError(f"can't read {os.fspath(path)} as a raster: {error}") from error
        native = _native_grid(dataset)
        grid = native if options.resolution is None else _coarser(native, options.resolution, dataset.name)
        if (grid.height, grid.width) != (native.height, native.width):
            if (level := _overview(dataset, native, grid)) is not None:
                dataset = stack.enter_context(rasterio.open(os.fspath(path), overview_level=level))
            dataset = stack.enter_context(_resampled(dataset, native, grid))
        yield RasterSource(dataset, grid, options)


def _native_grid(dataset: Any) -> Grid:
    transform = dataset.transform
    metres = None
    if dataset.crs is not None:
        across, down = math.hypot(transform.a, transform.d), math.hypot(transform.b, transform.e)
        if dataset.crs.is_geographic:
            latitude = transform.d * dataset.width / 2 + transform.e * dataset.height / 2 + transform.f
            metres = (
                across * _METRES_PER_DEGREE * math.cos(math.radians(latitude)),
                down * _METRES_PER_DEGREE,
            )
        else:
            factor = dataset.crs.linear_units_factor[1]
            metres = (across * factor, down * factor)
    return Grid(
        height=dataset.height, width=dataset.width, transform=transform, crs=dataset.crs, pixel_metres=metres
    )


def _coarser(native: Grid, resolution: float, name: str) -> Grid:
    """The same ground in pixels of `resolution` metres."""
    from rasterio import Affine

    if native.pixel_metres is None:
        raise OptionError(
            f"{name} has no CRS, so that a resolution in metres means nothing; leave out --resolution"
        )
    across, down = native.pixel_metres
    width = max(1, round(native.width * across / resolution))
    height = max(1, round(native.height * down / resolution))
    wider, taller, place = native.width / width, native.height / height, native.transform
    return Grid(
        height=height,
        width=width,
        transform=Affine(
            place.a * wider, place.b * taller, place.c, place.d * wider, place.e * taller, place.f
        ),
        crs=native.crs,
        pixel_metres=(across * wider, down * taller),
    )


def _overview(dataset: Any, native: Grid, grid: Grid) -> int | None:
    """The coarsest overview that is fine enough to work at: averaging all of a large file is slow."""
    ratio = min(native.height / grid.height, native.width / grid.width)
    levels = [level for level, factor in enumerate(dataset.overviews(1)) if factor <= ratio]
    return levels[-1] if levels else None


def _resampled(dataset: Any, native: Grid, grid: Grid) -> Any:
    """A view in another resolution, computed block by block: what is read doesn't depend on the windows read."""
    from rasterio.enums import ColorInterp, MaskFlags, Resampling
    from rasterio.vrt import WarpedVRT

    if dataset.colorinterp[0] is ColorInterp.palette:
        resampling = Resampling.nearest
    else:
        resampling = Resampling.average if grid.width < native.width else Resampling.bilinear
    flags = {flag for band in dataset.mask_flag_enums for flag in band}
    return WarpedVRT(
        dataset,
        crs=native.crs,
        transform=grid.transform,
        width=grid.width,
        height=grid.height,
        resampling=resampling,
        # A mask beside the bands is lost by warping; as an alpha band it stays.
        add_alpha=MaskFlags.per_dataset in flags and MaskFlags.alpha not in flags,
    )


def _bands(dataset: Any, asked: tuple[int, int, int] | None) -> tuple[int, int, int]:
    from rasterio.enums import ColorInterp

    count = dataset.count
    if asked is not None:
        if max(asked) > count:
            raise OptionError(f"{dataset.name} has {count} bands; --bands asks for band {max(asked)}")
        return asked
    named = {kind: band for band, kind in enumerate(dataset.colorinterp, 1)}
    colours = (ColorInterp.red, ColorInterp.green, ColorInterp.blue)
    if all(colour in named for colour in colours):
        return (named[colours[0]], named[colours[1]], named[colours[2]])
    return (1, 2, 3) if count >= 3 else (1, 1, 1)


def _palette(dataset: Any) -> NDArray[np.uint8] | None:
    """(values, 3) the colours that a raster's single band numbers, or None."""
    from rasterio.enums import ColorInterp

    if dataset.colorinterp[0] is not ColorInterp.palette:
        return None
    colours = np.zeros((1 << 8 * np.dtype(dataset.dtypes[0]).itemsize, 3), np.uint8)
    for value, colour in dataset.colormap(1).items():
        colours[value] = colour[:3]
    return colours


def _lattice(length: int) -> list[int]:
    """Where sample windows begin along a side: all of it where it is short."""
    if length <= _SAMPLES * _SAMPLE_SIDE:
        return list(range(0, length, _SAMPLE_SIDE))
    return [int(start) for start in np.linspace(0, length - _SAMPLE_SIDE, _SAMPLES)]
