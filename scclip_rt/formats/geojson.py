"""GeoJSON of an image: a polygon a region along the edges of pixels, holes kept; exact.

Coordinates are pixels, x to the right and y down from the top left corner of the image, as QuPath and other viewers of
large images take them. For rasters with a place on Earth see `scclip_rt.raster`. Unlabelled and background pixels have
no polygon.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from scclip_rt.formats.base import FormatWriter, ImageName, JsonItems, LabelFormat, write_json_object
from scclip_rt.formats.polygons import Polygon, label_polygons
from scclip_rt.overlay import palette

if TYPE_CHECKING:
    from scclip_rt.segmentation import Segmentation

SUFFIX = ".geojson"


class GeoJsonWriter(FormatWriter):
    """Writes `STEM.geojson`."""

    def add(self, result: Segmentation, image: ImageName) -> None:
        """As `FormatWriter.add`."""
        features = JsonItems()
        for polygon in label_polygons(result.labels):
            if self.table.is_foreground(polygon.label):
                features.append(self._feature(polygon))
        with self.sink.open(image.stem + SUFFIX) as stream:
            write_json_object(stream, {"type": "FeatureCollection", "features": features})

    def _feature(self, polygon: Polygon) -> dict[str, Any]:
        name, colour = self.table.names[polygon.label], palette([polygon.label])[0].tolist()
        return {
            "type": "Feature",
            "geometry": {"type": "Polygon", "coordinates": [_closed(ring) for ring in polygon.rings]},
            "properties": {
                "class": name,
                "label": polygon.label,
                "area": polygon.area,
                "objectType": "annotation",
                "classification": {"name": name, "color": colour},  # QuPath's
            },
        }


def _closed(ring: NDArray[Any]) -> list[list[int]]:
    points: list[list[int]] = ring.tolist()
    return [*points, points[0]]


FORMAT = LabelFormat(
    name="geojson",
    summary=f"STEM{SUFFIX}: polygons in pixels, holes kept",
    writer=GeoJsonWriter,
    image_files=("{stem}" + SUFFIX,),
    media_type="application/geo+json",
    suffix=SUFFIX,
)
