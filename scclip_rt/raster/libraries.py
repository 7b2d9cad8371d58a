"""rasterio, or the message that it is missing; GDAL's settings for all that is read and written here."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

from scclip_rt.errors import optional_module

_CACHE_MEGABYTES = 256
"""GDAL would take 5 % of the machine's memory for blocks it has read."""


def load_rasterio() -> ModuleType:
    """The module `rasterio`.

    Raises:
        BackendError: it is not installed.
    """
    return optional_module("rasterio", "rasters need rasterio", "geo")


def check_polygon_libraries() -> None:
    """Refuse polygons before any work where what makes and writes them is missing.

    Raises:
        BackendError: shapely or pyogrio is not installed.
    """
    for name in ("shapely", "pyogrio"):
        optional_module(name, f"polygons need {name}", "geo")


@contextmanager
def gdal_settings() -> Iterator[None]:
    """GDAL keeps to a fixed cache and uses all cores; rasterio doesn't warn of rasters without a place."""
    rasterio = load_rasterio()
    with (
        warnings.catch_warnings(),
        rasterio.Env(GDAL_CACHEMAX=_CACHE_MEGABYTES, GDAL_NUM_THREADS="ALL_CPUS"),
    ):
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        yield
