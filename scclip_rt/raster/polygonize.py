"""Labels as polygons of the ground: made tile by tile, merged over the tiles' seams. Needs the extra `geo`."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyogrio
import shapely
from numpy.typing import NDArray

from scclip_rt.errors import OutputError
from scclip_rt.files import atomic_path
from scclip_rt.formats.polygons import label_polygons
from scclip_rt.raster.options import POLYGON_SUFFIXES, PolygonOptions

if TYPE_CHECKING:
    from scclip_rt.decode.best import Labels
    from scclip_rt.raster.source import Grid
    from scclip_rt.raster.tiles import Tile

Geometries = NDArray[Any]
"""shapely's polygons, an object array."""


@dataclass(frozen=True, slots=True, eq=False)
class _Regions:
    """Polygons and the label of each."""

    shapes: Geometries
    labels: NDArray[np.int64]


def write_polygons(
    options: PolygonOptions,
    tiles: list[list[Tile]],
    read: Callable[[Tile], Labels],
    *,
    grid: Grid,
    classes: tuple[str, ...],
    force: bool,
) -> None:
    """Write every region as a polygon with the fields `class`, `label` and `area` (m², or pixels without a CRS).

    Within a tile borders are simplified together, so that neighbours have no gaps between them; the seams themselves
    stay until regions of one class that meet there are made one.

    Args:
        options: file, smallest area, tolerance.
        tiles: all of them.
        read: the labels of one.
        grid: the label raster's place and size.
        classes: names, in the order of the labels.
        force: replace an existing file.

    Raises:
        OutputError: the file exists and `force` is not given, or can't be written.
    """
    across, down = grid.pixel_metres or (1.0, 1.0)
    pixel_area = across * down
    tolerance = options.simplify / math.sqrt(pixel_area)
    inner: list[_Regions] = []
    seam: list[_Regions] = []
    for tile in (tile for stripe in tiles for tile in stripe):
        regions = _tile_regions(read(tile), tile, len(classes), tolerance)
        touches = _touches_seam(regions.shapes, tile, grid)
        inner.append(_filtered(_chosen(regions, ~touches), options.min_area / pixel_area))
        seam.append(_chosen(regions, touches))
    merged = _filtered(_merged(_joined(seam)), options.min_area / pixel_area)
    regions = _joined([*inner, merged])
    areas = shapely.area(regions.shapes) * pixel_area
    fields = {
        "class": np.array([classes[label] for label in regions.labels.tolist()], object),
        "label": regions.labels.astype(np.int32),
        "area": areas,
    }
    ground = shapely.transform(regions.shapes, lambda points: _to_ground(points, grid))
    _write(options.path, shapely.to_wkb(ground), fields, grid, force=force)


def _tile_regions(labels: Labels, tile: Tile, num_classes: int, tolerance: float) -> _Regions:
    """A tile's polygons in pixels of the raster."""
    polygons = label_polygons(labels, junctions=tolerance > 0)
    shapes = np.array([shapely.Polygon(polygon.rings[0], polygon.rings[1:]) for polygon in polygons], object)
    found = np.array([polygon.label for polygon in polygons], np.int64)
    if tolerance > 0:
        # By Visvalingam and Whyatt: corners go whose triangle is smaller than the tolerance squared.
        shapes = shapely.coverage_simplify(shapes, tolerance, simplify_boundary=False)
    place = np.array([tile.left, tile.top], float)
    shapes = shapely.transform(shapes, lambda points: points + place)
    return _chosen(_Regions(shapes, found), found < num_classes)


def _touches_seam(shapes: Geometries, tile: Tile, grid: Grid) -> NDArray[np.bool_]:
    """Which polygons reach a border that the tile shares with another."""
    left, top, right, bottom = shapely.bounds(shapes).reshape(-1, 4).T
    touches: NDArray[np.bool_] = (
        ((left <= tile.left) & (tile.left > 0))
        | ((top <= tile.top) & (tile.top > 0))
        | ((right >= tile.left + tile.width) & (tile.left + tile.width < grid.width))
        | ((bottom >= tile.top + tile.height) & (tile.top + tile.height < grid.height))
    )
    return touches


def _merged(regions: _Regions) -> _Regions:
    """Polygons of one class that share an edge become one."""
    parts: list[_Regions] = []
    for label in np.unique(regions.labels):
        union = shapely.union_all(regions.shapes[regions.labels == label])
        shapes = shapely.get_parts(
            shapely.simplify(union, 0)
        )  # points within straight lines go, at the seams
        parts.append(_Regions(shapes, np.full(len(shapes), label)))
    return _joined(parts)


def _filtered(regions: _Regions, least: float) -> _Regions:
    """Without polygons, and without holes, of less than so many pixels."""
    if not least or not len(regions.shapes):
        return regions
    large = _chosen(regions, shapely.area(regions.shapes) >= least)
    return _Regions(np.array([_filled(shape, least) for shape in large.shapes], object), large.labels)


def _filled(shape: Any, least: float) -> Any:
    holes = [ring for ring in shape.interiors if shapely.area(shapely.Polygon(ring)) >= least]
    return shape if len(holes) == len(shape.interiors) else shapely.Polygon(shape.exterior, holes)


def _chosen(regions: _Regions, which: NDArray[np.bool_]) -> _Regions:
    return _Regions(regions.shapes[which], regions.labels[which])


def _joined(parts: list[_Regions]) -> _Regions:
    if not parts:
        return _Regions(np.array([], object), np.array([], np.int64))
    return _Regions(
        np.concatenate([part.shapes for part in parts]), np.concatenate([part.labels for part in parts])
    )


def _to_ground(points: NDArray[np.float64], grid: Grid) -> NDArray[np.float64]:
    """Columns and rows to the raster's CRS."""
    t = grid.transform
    x, y = points[:, 0], points[:, 1]
    return np.stack((t.a * x + t.b * y + t.c, t.d * x + t.e * y + t.f), axis=1)


def _write(
    path: Path,
    shapes: NDArray[Any],
    fields: dict[str, NDArray[Any]],
    grid: Grid,
    *,
    force: bool,
) -> None:
    driver = POLYGON_SUFFIXES[path.suffix.lower()]
    # RFC 7946 is what readers of GeoJSON expect today: longitude and latitude. Without a CRS there are only pixels.
    options = {"RFC7946": "YES"} if driver == "GeoJSON" and grid.crs is not None else {}
    with atomic_path(path, force=force) as temporary:
        temporary.unlink()  # GDAL makes its file itself
        try:
            pyogrio.raw.write(
                temporary,
                shapes,
                field_data=list(fields.values()),
                fields=list(fields),
                layer="labels",
                driver=driver,
                geometry_type="Polygon",
                crs=None if grid.crs is None else grid.crs.to_wkt(),
                layer_options=options,
            )
        except pyogrio.errors.DataSourceError as error:
            raise OutputError(f"can't write {path}: {error}") from error
