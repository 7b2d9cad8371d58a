"""Georeferenced rasters of any size: read by windows, labels as Cloud Optimized GeoTIFF and polygons (extra `geo`)."""

from scclip_rt.raster.options import PolygonOptions, RasterOptions
from scclip_rt.raster.run import RasterResult, segment_raster

__all__ = ["PolygonOptions", "RasterOptions", "RasterResult", "segment_raster"]
