"""Labels as a Cloud Optimized GeoTIFF: place, classes, colours, overviews."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.sax.saxutils import escape

from scclip_rt.decode.plan import label_type
from scclip_rt.files import atomic_path
from scclip_rt.overlay import palette
from scclip_rt.raster.libraries import load_rasterio

if TYPE_CHECKING:
    from scclip_rt.decode.best import Labels
    from scclip_rt.raster.source import Grid
    from scclip_rt.raster.tiles import Tile

_BLOCK = 512
_TRANSPARENT = (0, 0, 0, 0)


def write_cog(
    path: Path,
    tiles: Iterable[tuple[Tile, Labels]],
    *,
    grid: Grid,
    classes: tuple[str, ...],
    force: bool,
) -> None:
    """Write the label raster and, beside it, `PATH.aux.xml` with the categories' names, where GDAL keeps them.

    The raster has one band of uint8, or uint16 above 254 classes; its nodata value is unlabelled. The classes are also
    in its tag `CLASSES`, a JSON list.

    Args:
        path: of the `.tif`.
        tiles: all of them, each with its labels, in the order of `cut_tiles`.
        grid: the raster's place and size.
        classes: names, in the order of the labels.
        force: replace existing files.

    Raises:
        OutputError: a file exists and `force` is not given, or can't be written.
    """
    rasterio = load_rasterio()
    from rasterio.shutil import copy

    with (
        atomic_path(category_file(path), force=force) as categories,
        atomic_path(path, force=force) as finished,
        tempfile.TemporaryDirectory(prefix=".tmp-", dir=path.parent) as folder,
    ):
        plain = Path(folder) / "labels.tif"
        categories.write_text(_categories(classes), "utf-8")
        with rasterio.open(plain, "w", **_profile(grid, len(classes))) as dataset:
            dataset.update_tags(1, CLASSES=json.dumps(classes, ensure_ascii=False))
            dataset.set_band_description(1, "class")
            dataset.write_colormap(1, _colours(len(classes)))
            for tile, labels in tiles:
                dataset.write(
                    labels, 1, window=rasterio.windows.Window(tile.left, tile.top, tile.width, tile.height)
                )
        # Most frequent class, not nearest: overviews of labels keep what fills a place.
        copy(
            plain,
            finished,
            driver="COG",
            compress="DEFLATE",
            blocksize=_BLOCK,
            bigtiff="IF_SAFER",
            overview_resampling="MODE",
        )


def category_file(path: Path) -> Path:
    """Where GDAL looks for what a GeoTIFF can't hold itself."""
    return path.with_name(path.name + ".aux.xml")


def _profile(grid: Grid, num_classes: int) -> dict[str, Any]:
    dtype, unlabelled = label_type(num_classes)
    return {
        "driver": "GTiff",
        "width": grid.width,
        "height": grid.height,
        "count": 1,
        "dtype": dtype,
        "nodata": unlabelled,
        "crs": grid.crs,
        "transform": grid.transform,
        "tiled": True,
        "blockxsize": _BLOCK,
        "blockysize": _BLOCK,
        "compress": "DEFLATE",
        "zlevel": 1,
        "bigtiff": "IF_SAFER",
    }


def _colours(num_classes: int) -> dict[int, tuple[int, ...]]:
    """The colour table: a class has the colour it has in overlays; unlabelled is transparent."""
    _, unlabelled = label_type(num_classes)
    colours = {label: (*colour, 255) for label, colour in enumerate(palette(range(num_classes)).tolist())}
    return colours | {unlabelled: _TRANSPARENT}


def _categories(classes: tuple[str, ...]) -> str:
    names = "".join(f"      <Category>{escape(name)}</Category>\n" for name in classes)
    return (
        f'<PAMDataset>\n  <PAMRasterBand band="1">\n    <CategoryNames>\n{names}    </CategoryNames>\n'
        "  </PAMRasterBand>\n</PAMDataset>\n"
    )
