"""`scclip segment` with rasters that have a place on Earth, or are too large for an image."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scclip_rt.cli.inputs import find_images, output_names
from scclip_rt.cli.parsers import Options
from scclip_rt.errors import OptionError
from scclip_rt.files import check_replaceable

if TYPE_CHECKING:
    from scclip_rt.raster import PolygonOptions, RasterOptions
    from scclip_rt.segmenter import Segmenter

_SUFFIXES = frozenset({".tif", ".tiff"})
_GEO_KEYS = 34735
"""The TIFF tag of a GeoTIFF's coordinate system."""
_OPTIONS = ("bands", "value_range", "resolution", "polygons", "min_area", "simplify")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options for rasters."""
    group = Options(parser, "rasters (docs/rasters.md)")
    group.text("--bands", "R,G,B", "bands for red, green and blue, from 1 (default: by name)")
    group.text(
        "--range",
        "LOW,HIGH",
        "values that become black and white (default: bytes as they are; else percentiles 2 and 98)",
        dest="value_range",
    )
    group.number("--resolution", "METRES", "metres a pixel to work at (default: the raster's)")
    group.file("--polygons", "FILE", "also write regions as polygons, .gpkg or .geojson")
    group.number("--min-area", "M2", "leave out smaller polygons, fill smaller holes (default: 0)")
    group.number("--simplify", "METRES", "smooth the polygons' borders by about this (default: 0)")


def wanted(args: argparse.Namespace) -> bool:
    """Whether the command line asks for rasters, or names a file that only can be one."""
    return any(getattr(args, name) is not None for name in _OPTIONS) or any(map(_is_raster, args.images))


def _is_raster(image: str) -> bool:
    from PIL import Image

    path = Path(image)
    if path.suffix.lower() == ".vrt":
        return True
    if path.suffix.lower() not in _SUFFIXES or not path.is_file():
        return False
    try:
        with path.open("rb") as stream:  # not Image.open(path): the limit on pixels warns
            return _GEO_KEYS in Image.open(stream, formats=["TIFF"]).tag_v2  # type: ignore[attr-defined]
    except Exception:  # no TIFF that Pillow knows: it says so when the image is read
        return False


def check(args: argparse.Namespace) -> None:
    """Refuse what can't work, before the model is loaded.

    Raises:
        OptionError: options or inputs that don't go together.
        OutputError: an output exists and there is no --force.
        BackendError: rasterio is not installed.
    """
    from scclip_rt.raster.libraries import load_rasterio

    if args.format != "png" or args.confidence:
        raise OptionError("rasters become GeoTIFFs and polygons; leave out --format and --confidence")
    if args.skip_existing:
        raise OptionError("--skip-existing is for images; a raster's run goes on by itself")
    if args.area_threshold:
        raise OptionError("the area rule needs the whole raster at once; leave out --area-threshold")
    if args.polygons is not None and len(args.images) > 1:
        raise OptionError("--polygons names one file; give one raster at a time")
    if args.polygons is None and (args.min_area is not None or args.simplify is not None):
        raise OptionError("--min-area and --simplify are for --polygons FILE, which is missing")
    _options(args)
    _polygons(args)
    for path in [*_targets(args).values(), *([args.polygons] if args.polygons else [])]:
        check_replaceable(path, force=args.force)
    load_rasterio()


def run(args: argparse.Namespace, segmenter: "Segmenter") -> list[dict[str, Any]]:
    """Segment each raster; rows of the report."""
    from tqdm import tqdm

    from scclip_rt.raster import segment_raster

    rows = []
    for path, target in _targets(args).items():
        with tqdm(unit="tile", desc=f"segmenting {path.name}", file=sys.stderr) as bar:

            def advance(done: int, total: int, bar: Any = bar) -> None:
                bar.total = total
                bar.update(done - bar.n)

            result = segment_raster(
                segmenter,
                path,
                target,
                options=_options(args),
                polygons=_polygons(args),
                force=args.force,
                progress=advance,
            )
        rows.append(
            {
                "input": str(path),
                "labels": str(result.labels),
                "polygons": None if result.polygons is None else str(result.polygons),
                "height": result.height,
                "width": result.width,
                "shares": {name: round(share, 6) for name, share in result.shares.items()},
                "tiles": {"all": result.tiles, "resumed": result.resumed},
                "windows": {"encoded": result.encoded},
            }
        )
    return rows


def _targets(args: argparse.Namespace) -> dict[Path, Path]:
    """Each raster and its label raster."""
    images = find_images(args.images)
    return {
        image.path: args.output / f"{name}.labels.tif"
        for image, name in zip(images, output_names(images), strict=True)
    }


def _options(args: argparse.Namespace) -> "RasterOptions":
    from scclip_rt.raster import RasterOptions

    bands = None if args.bands is None else _numbers("--bands", args.bands, 3, int)
    limits = None if args.value_range is None else _numbers("--range", args.value_range, 2, float)
    return RasterOptions(bands=bands, value_range=limits, resolution=args.resolution)


def _polygons(args: argparse.Namespace) -> "PolygonOptions | None":
    from scclip_rt.raster import PolygonOptions

    if args.polygons is None:
        return None
    return PolygonOptions(path=args.polygons, min_area=args.min_area or 0.0, simplify=args.simplify or 0.0)


def _numbers(option: str, text: str, count: int, kind: type) -> Any:
    try:
        numbers = tuple(kind(part) for part in text.split(","))
    except ValueError:
        numbers = ()
    if len(numbers) != count:
        example = "3,2,1" if count == 3 else "0,3000"
        raise OptionError(
            f"{option} takes {count} numbers with commas between, such as {example}; got {text!r}"
        )
    return numbers
