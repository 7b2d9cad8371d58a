"""The pictures of docs/formats.md, docs/rasters.md and docs/video.md, from the demo model and its rendered scenes.

python -m benchmarks.demo.pictures [docs/images]
"""

import json
import sys
import tempfile
from pathlib import Path

import cv2
import matplotlib as mpl
import numpy as np
import rasterio
import shapely
from numpy.typing import NDArray

mpl.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import PathPatch, Rectangle
from matplotlib.path import Path as Outline
from pyogrio.raw import read as read_vectors

from scclip_rt import Segmenter
from scclip_rt.demo.scenes import render
from scclip_rt.formats import encode
from scclip_rt.overlay import palette
from scclip_rt.raster import PolygonOptions, RasterOptions, segment_raster
from scclip_rt.video import FrameSegmenter


def outline(polygon: shapely.Polygon) -> Outline:
    rings = [polygon.exterior, *polygon.interiors]
    return Outline.make_compound_path(*(Outline(np.asarray(ring.coords), closed=True) for ring in rings))


def draw(axes: Axes, polygon: shapely.Polygon, label: int) -> None:
    colour = palette([label])[0] / 255
    axes.add_patch(
        PathPatch(outline(polygon), facecolor=(*colour, 0.45), edgecolor=colour * 0.6, linewidth=0.9)
    )


def bare(axes: Axes, title: str) -> None:
    axes.set_title(title, fontsize=9)
    axes.set_xticks([])
    axes.set_yticks([])


def formats(segment: Segmenter, path: Path) -> None:
    """A scene, its regions as GeoJSON, and a corner of them with the pixels they follow."""
    scene = render(3, split="test", size=(240, 320), count=4).image
    result = segment(scene)
    features = json.loads(encode("geojson", result, file_name="scene.png").data)["features"]
    shapes = [(shapely.from_geojson(json.dumps(f["geometry"])), f["properties"]["label"]) for f in features]
    figure, axes = plt.subplots(1, 3, figsize=(9, 2.7), layout="constrained")
    axes[0].imshow(result.overlay(legend=False))
    bare(axes[0], "labels over the image")
    axes[1].imshow(scene, alpha=0.25)
    axes[2].imshow(scene, interpolation="nearest", extent=(0, scene.shape[1], scene.shape[0], 0))
    for shape, label in shapes:
        draw(axes[1], shape, label)
        draw(axes[2], shape, label)
    bare(axes[1], "--format geojson: a polygon a region")
    x, y = junction(result.labels)
    axes[2].set_xlim(x - 20, x + 20)
    axes[2].set_ylim(y + 15, y - 15)
    bare(axes[2], "borders follow the pixels' edges")
    figure.savefig(path, dpi=100, pil_kwargs={"quality": 85})


def junction(labels: NDArray[np.integer]) -> tuple[int, int]:
    """A place, away from the border, where three classes meet."""
    a, b, c, d = labels[:-1, :-1], labels[:-1, 1:], labels[1:, :-1], labels[1:, 1:]
    kinds = np.sort(np.stack([a, b, c, d]), axis=0)
    three = (np.diff(kinds, axis=0) != 0).sum(axis=0) >= 2
    three[:16] = three[-16:] = False
    three[:, :21] = three[:, -21:] = False
    rows, columns = np.nonzero(three) if three.any() else np.nonzero(a != b)
    return int(columns[len(columns) // 2]) + 1, int(rows[len(rows) // 2]) + 1


def rasters(segment: Segmenter, path: Path) -> None:
    """A mosaic with a place, its labels with the tiles, and polygons before and after simplification."""
    rows = [
        np.hstack([render(4 * r + c, split="test", size=(400, 400), count=3).image for c in range(3)])
        for r in range(2)
    ]
    mosaic = np.vstack(rows)
    mosaic[300:560, 520:560] = 0  # no data
    with tempfile.TemporaryDirectory() as folder:
        source, labels = Path(folder) / "mosaic.tif", Path(folder) / "labels.tif"
        profile = {"driver": "GTiff", "height": 800, "width": 1200, "count": 3, "dtype": "uint8", "nodata": 0}
        place = rasterio.Affine(0.5, 0, 400_000, 0, -0.5, 5_500_000)
        with rasterio.open(source, "w", crs="EPSG:32633", transform=place, **profile) as dataset:
            dataset.write(
                np.where((mosaic == 0).all(-1, keepdims=True), 0, np.maximum(mosaic, 1)).transpose(2, 0, 1)
            )
        polygons = PolygonOptions(path=Path(folder) / "p.gpkg", simplify=2, min_area=60)
        segment_raster(segment, source, labels, options=RasterOptions(tile=336), polygons=polygons)
        with rasterio.open(labels) as dataset:
            found = dataset.read(1)
        meta, _, shapes, values = read_vectors(polygons.path)
    numbers = values[list(meta["fields"]).index("label")]
    figure, axes = plt.subplots(1, 3, figsize=(9, 2.3), layout="constrained")
    axes[0].imshow(cv2.resize(mosaic, (600, 400), interpolation=cv2.INTER_AREA))
    bare(axes[0], "a mosaic, a strip without data")
    colours = np.zeros((256, 3), np.uint8)
    colours[: len(segment.vocabulary.classes)] = palette(range(len(segment.vocabulary.classes)))
    colours[255] = 255
    axes[1].imshow(colours[found], interpolation="nearest")
    for place_of_tile in range(336, 1200, 336):
        axes[1].axvline(place_of_tile, color="black", linewidth=0.6, linestyle=":")
        axes[1].axhline(place_of_tile, color="black", linewidth=0.6, linestyle=":")
    axes[1].set_xlim(0, 1200)
    axes[1].set_ylim(800, 0)
    bare(axes[1], "labels; dotted: the tiles")
    for wkb, label in zip(shapes, numbers, strict=True):
        draw(axes[2], shapely.from_wkb(wkb), int(label))
    axes[2].set_xlim(400_000, 400_600)
    axes[2].set_ylim(5_500_000 - 400, 5_500_000)
    axes[2].set_aspect("equal")
    bare(axes[2], "polygons, --simplify 2 --min-area 60")
    figure.savefig(path, dpi=100, pil_kwargs={"quality": 85})


def video(segment: Segmenter, path: Path) -> None:
    """Three frames of a still camera, and which windows were encoded for each."""
    scene = render(1, split="test", size=(375, 500), count=4).image
    step = FrameSegmenter(segment)
    figure, axes = plt.subplots(1, 3, figsize=(9, 2.5), layout="constrained")
    previous = None
    for number, (panel, middle) in enumerate(zip(axes, ((40, 40), (60, 60), (60, 60)), strict=True)):
        frame = scene.copy()
        cv2.circle(frame, middle, 26, (235, 205, 60), -1)
        result = step(frame)
        panel.imshow(result.overlay(legend=False))
        windows = segment.preparation(frame).windows
        changed = (
            [True] * len(windows)
            if previous is None
            else [(a != b).any() for a, b in zip(windows, previous, strict=True)]
        )
        previous = windows
        for index, encoded in enumerate(changed):
            top, left = (112 * (index // 3)) * 375 / 336, (112 * (index % 3)) * 500 / 448
            style = (
                {"edgecolor": "#d00000", "linewidth": 2.0}
                if encoded
                else {"edgecolor": "white", "linewidth": 0.7}
            )
            panel.add_patch(Rectangle((left + 3, top + 3), 244, 244, fill=False, **style))
        bare(panel, f"frame {number + 1}: {sum(changed)} of {len(windows)} windows encoded")
    figure.savefig(path, dpi=100, pil_kwargs={"quality": 85})


def main() -> None:
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "docs/images")
    segment = Segmenter("demo", classes=None)
    for name, make in (("formats", formats), ("rasters", rasters), ("video", video)):
        make(segment, folder / f"{name}.jpg")
        print(folder / f"{name}.jpg", f"{(folder / f'{name}.jpg').stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
