"""What to read from a raster, at which resolution, and what to write."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from scclip_rt.errors import OptionError
from scclip_rt.limits import in_range

POLYGON_SUFFIXES = {".gpkg": "GPKG", ".geojson": "GeoJSON"}
"""GDAL's driver for each kind of polygon file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PolygonOptions:
    """Polygons beside the label raster.

    Attributes:
        path: `.gpkg`, in the raster's CRS, or `.geojson`, in longitude and latitude.
        min_area: smaller regions are left out and smaller holes filled; m², or pixels without a CRS.
        simplify: corners of borders go whose triangle with the next ones is smaller than this squared; metres, or
            pixels without a CRS. Neighbours keep their common borders. 0 is exact.
    """

    path: Path
    min_area: float = 0.0
    simplify: float = 0.0

    def __post_init__(self) -> None:
        if self.path.suffix.lower() not in POLYGON_SUFFIXES:
            raise OptionError(f"polygons go to a file in {' or '.join(POLYGON_SUFFIXES)}; got {self.path}")
        for name in ("min_area", "simplify"):
            in_range(name, getattr(self, name))


@dataclass(frozen=True, slots=True, kw_only=True)
class RasterOptions:
    """How a raster is read.

    Attributes:
        bands: the bands for red, green and blue, from 1; None takes those the file names so, else the first three, or
            the only one thrice.
        value_range: values that become 0 and 255; None takes bytes as they are, and of other types the percentiles.
        percentiles: of valid values, for each band by itself, taken from samples of the whole raster.
        resolution: metres a pixel to work at and to write; None takes the raster's.
        tile: largest side of the tiles that are worked on and can be resumed, pixels.
    """

    bands: tuple[int, int, int] | None = None
    value_range: tuple[float, float] | None = None
    percentiles: tuple[float, float] = (2.0, 98.0)
    resolution: float | None = None
    tile: int = 1024

    def __post_init__(self) -> None:
        if self.bands is not None and (len(self.bands) != 3 or min(self.bands) < 1):
            raise OptionError(f"bands are three numbers from 1 (red, green, blue); got {self.bands}")
        if self.value_range is not None and not self.value_range[0] < self.value_range[1]:
            raise OptionError(f"value_range goes from a lower to a higher value; got {self.value_range}")
        if not 0 <= self.percentiles[0] < self.percentiles[1] <= 100:
            raise OptionError(f"percentiles go upwards from 0 to 100; got {self.percentiles}")
        if self.resolution is not None:
            in_range("resolution", self.resolution)
        in_range("tile", self.tile)
