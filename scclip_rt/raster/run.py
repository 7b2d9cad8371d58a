"""A raster from the file to labels and polygons, tile by tile; a run that was stopped goes on where it was."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np

from scclip_rt.decode.plan import label_type
from scclip_rt.errors import ImageError, OptionError, OutputError
from scclip_rt.files import atomic_path, check_replaceable
from scclip_rt.image.geometry import Tiling
from scclip_rt.image.png import encode_png
from scclip_rt.raster.libraries import check_polygon_libraries, gdal_settings
from scclip_rt.raster.options import PolygonOptions, RasterOptions
from scclip_rt.raster.output import category_file, write_cog
from scclip_rt.raster.source import Grid, open_raster
from scclip_rt.raster.tiles import Tile, TileLabeller, cut_tiles, walk

if TYPE_CHECKING:
    from scclip_rt.decode.best import Labels
    from scclip_rt.segmenter import Segmenter

_JOB = "job.json"
Progress = Callable[[int, int], None]
"""Called after each tile with those done and all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RasterResult:
    """What became of a raster.

    Attributes:
        labels: the label raster.
        polygons: the polygon file, or None.
        height: of the labels, pixels.
        width: of the labels, pixels.
        shares: of each class that is present in all pixels that hold data, largest first.
        tiles: all of them.
        resumed: those that an earlier run had finished.
        encoded: windows encoded.
    """

    labels: Path
    polygons: Path | None
    height: int
    width: int
    shares: dict[str, float]
    tiles: int
    resumed: int
    encoded: int


def segment_raster(
    segmenter: Segmenter,
    raster: str | os.PathLike[str],
    labels: str | os.PathLike[str],
    *,
    options: RasterOptions | None = None,
    polygons: PolygonOptions | None = None,
    force: bool = False,
    progress: Progress | None = None,
) -> RasterResult:
    """Segment a raster of any size.

    Each tile that is done is a file in a folder beside `labels`. If the same run is started again, it goes on after
    them; the folder goes when all is written.

    Args:
        segmenter: with its classes; it must use windows and no refinement. The area rule is not applied: it would need
            all labels at once.
        raster: GeoTIFF, COG, VRT, or what else GDAL reads.
        labels: the `.tif` to write; missing folders are made.
        options: how to read.
        polygons: also write these.
        force: replace existing files.
        progress: told about each tile.

    Raises:
        ImageError: the raster can't be read, or is smaller than one window.
        OptionError: options that don't fit the raster or the segmenter.
        OutputError: an output exists and `force` is not given, or can't be written.
        BackendError: rasterio, or for polygons shapely or pyogrio, is not installed.

    Example:
        >>> from scclip_rt.raster import PolygonOptions, RasterOptions, segment_raster
        >>> options = RasterOptions(bands=(4, 3, 2), resolution=0.5)
        >>> result = segment_raster(segment, "big.tif", "out/big.labels.tif", options=options)
    """
    options = options or RasterOptions()
    target = Path(labels)
    _check_segmenter(segmenter)
    for path in (target, category_file(target), *([polygons.path] if polygons else [])):
        check_replaceable(path, force=force)
    if polygons is not None:
        check_polygon_libraries()
    with gdal_settings(), open_raster(raster, options) as source:
        tiling = _tiling(segmenter, source.grid, raster)
        tiles = cut_tiles(tiling, options.tile, segmenter.preparation.stride)
        store = TileStore.open(target, _fingerprint(segmenter, raster, options), force=force)
        labeller = TileLabeller(segmenter, source, tiling, tiles)
        resumed = _label_all(tiles, labeller, store, progress)
        classes = segmenter.vocabulary.classes
        counts = np.zeros(label_type(len(classes))[1] + 1, np.int64)

        def counted() -> Iterator[tuple[Tile, Labels]]:
            for _, _, tile in walk(tiles):
                found = store.read(tile)
                counts[:] += np.bincount(found.ravel(), minlength=len(counts))
                yield tile, found

        write_cog(target, counted(), grid=source.grid, classes=classes, force=force)
        if polygons is not None:
            from scclip_rt.raster.polygonize import write_polygons

            write_polygons(polygons, tiles, store.read, grid=source.grid, classes=classes, force=force)
        store.remove()
    return RasterResult(
        labels=target,
        polygons=polygons.path if polygons else None,
        height=source.grid.height,
        width=source.grid.width,
        shares=_shares(counts, classes),
        tiles=sum(map(len, tiles)),
        resumed=resumed,
        encoded=labeller.encoded,
    )


@dataclass(frozen=True, slots=True)
class TileStore:
    """Labels of finished tiles, a PNG each, in a folder beside the label raster."""

    folder: Path

    @classmethod
    def open(cls, labels: Path, job: dict[str, object], *, force: bool) -> TileStore:
        """The folder of this job, with the tiles that an earlier run of it left.

        Raises:
            OutputError: it holds the tiles of another job, and `force` is not given.
        """
        folder = labels.with_name(f".{labels.stem}.tiles")
        note = folder / _JOB
        if note.exists():
            if json.loads(note.read_text("utf-8")) == job:
                return cls(folder)
            if not force:
                raise OutputError(
                    f"{folder} holds tiles of a run with another bundle, classes, raster or options; "
                    "start that run again to finish it, or pass --force to drop them"
                )
            shutil.rmtree(folder)
        with atomic_path(note, force=True) as temporary:
            temporary.write_text(json.dumps(job, indent=1), "utf-8")
        return cls(folder)

    def has(self, tile: Tile) -> bool:
        """Whether a tile is finished."""
        return self._path(tile).exists()

    def write(self, tile: Tile, labels: Labels) -> None:
        """Finish a tile."""
        with atomic_path(self._path(tile), force=True) as temporary:
            temporary.write_bytes(encode_png(labels))

    def read(self, tile: Tile) -> Labels:
        """(height, width) labels of a finished tile."""
        from PIL import Image

        return cast("Labels", np.asarray(Image.open(self._path(tile))))

    def remove(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self.folder)

    def _path(self, tile: Tile) -> Path:
        return self.folder / f"{tile.name}.png"


def _label_all(
    tiles: list[list[Tile]], labeller: TileLabeller, store: TileStore, progress: Progress | None
) -> int:
    """Label the tiles that aren't done; how many were."""
    resumed, total = 0, sum(map(len, tiles))
    for done, (row, column, tile) in enumerate(walk(tiles), 1):
        if store.has(tile):
            resumed += 1
        else:
            store.write(tile, labeller.label(row, column))
        if progress is not None:
            progress(done, total)
    return resumed


def _check_segmenter(segmenter: Segmenter) -> None:
    if segmenter.preparation.grid.kind != "window":
        raise OptionError("rasters are segmented by windows; leave out --whole-image (whole_image=)")
    if segmenter.options.refine is not None:
        raise OptionError("rasters are segmented without refinement; use --refine none (refine='none')")
    if (
        segmenter.options.maps != "cosine"
        or segmenter.options.class_weighting != "none"
        or segmenter.options.class_threshold
    ):
        raise OptionError(
            "this method compares over a whole image, which a raster's tiles are not; use another"
        )


def _tiling(segmenter: Segmenter, grid: Grid, raster: str | os.PathLike[str]) -> Tiling:
    window, stride = segmenter.preparation.window, segmenter.preparation.stride
    if min(grid.height, grid.width) < window:
        raise ImageError(
            f"{os.fspath(raster)} is {grid.width}×{grid.height} pixels at the resolution to work at, less than one "
            f"window of {window}; choose a finer --resolution"
        )
    return Tiling.windows(grid.height, grid.width, window=window, stride=stride)


def _fingerprint(
    segmenter: Segmenter, raster: str | os.PathLike[str], options: RasterOptions
) -> dict[str, object]:
    """What the labels of a tile depend on: a folder of tiles is of one such run."""
    vocabulary, backend, path = segmenter.vocabulary, segmenter.backend.describe(), Path(raster)
    stat = path.stat() if path.exists() else None  # GDAL reads addresses, too
    document = {
        "bundle": segmenter.bundle.model.checkpoint_sha256,
        "encoder": {key: backend[key] for key in ("backend", "version", "precision", "device", "encoder")},
        "classes": vocabulary.classes,
        "queries": hashlib.sha256(np.ascontiguousarray(vocabulary.embeddings).tobytes()).hexdigest(),
        "background": vocabulary.background,
        "decode": asdict(segmenter.options),
        "window": [segmenter.preparation.window, segmenter.preparation.stride],
        "raster": [os.fspath(path.absolute()), stat and stat.st_size, stat and stat.st_mtime_ns],
        "options": asdict(options),
    }
    return cast("dict[str, object]", json.loads(json.dumps(document)))


def _shares(counts: np.ndarray, classes: tuple[str, ...]) -> dict[str, float]:
    known = counts[: len(classes)]
    total = max(int(known.sum()), 1)
    order = np.argsort(-known, kind="stable")
    return {classes[label]: float(known[label] / total) for label in order if known[label]}
