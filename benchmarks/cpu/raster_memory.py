"""Peak memory of a raster of 40,000 × 40,000 pixels, in three runs with a process each.

    python -m benchmarks.cpu.raster_memory [--side 40000] [--json benchmarks/results/raster-memory.json]

- `coarse`: the whole raster, full of scenes (JPEG in GeoTIFF, 0.5 m a pixel), at 8 m a pixel with the demo model: every
  block is read and averaged.
- `sparse`: at its own resolution with the demo model, a square of 3,000 pixels filled and the rest without data: every
  tile is visited, and label raster and overviews have the full size.
- `dense`: the full width and 4,096 rows of the filled raster at its own resolution. The encoder is replaced by one that
  gives features of the right shape at once, because the real one would take hours: this shows the memory of reading, of
  features kept between rows of tiles, of decoding and of writing, not the model's time.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import rasterio
from numpy.typing import NDArray

from benchmarks.harness import parser, write_report
from benchmarks.models import work_folder
from scclip_rt import Segmenter
from scclip_rt.demo.scenes import render
from scclip_rt.raster import RasterOptions, segment_raster

BLOCK = 1000
PLACE = rasterio.Affine(0.5, 0, 400_000, 0, -0.5, 5_500_000)
DENSE_ROWS = 4096
CLASSES = [f"class {number}" for number in range(20)]
MODES = ("coarse", "sparse", "dense")


def make_raster(path: Path, height: int, width: int, *, filled: int | None = None) -> Path:
    """Scenes side by side, or only in a square of `filled` pixels in the middle of a sparse file; made once."""
    if path.exists():
        return path
    scenes = [
        render(number, split="test", size=(BLOCK, BLOCK), count=4).image.transpose(2, 0, 1)
        for number in range(4)
    ]
    profile = {
        "driver": "GTiff", "height": height, "width": width, "count": 3, "dtype": "uint8", "crs": "EPSG:32633",
        "transform": PLACE, "tiled": True, "blockxsize": 512, "blockysize": 512, "bigtiff": "YES", "sparse_ok": True,
    }  # fmt: skip
    profile |= (
        {"compress": "JPEG", "photometric": "YCBCR"}
        if filled is None
        else {"compress": "DEFLATE", "nodata": 0}
    )
    temporary = path.with_suffix(".part.tif")
    middle = None if filled is None else range((height - filled) // 2, (height + filled) // 2)
    with rasterio.Env(GDAL_CACHEMAX=512), rasterio.open(temporary, "w", **profile) as dataset:
        for top in range(0, height, BLOCK):
            for left in range(0, width, BLOCK):
                if middle is not None and not (top in middle and left in middle):
                    continue
                rows, columns = min(BLOCK, height - top), min(BLOCK, width - left)
                scene = scenes[(top // BLOCK + left // BLOCK) % 4][:, :rows, :columns]
                dataset.write(scene, window=rasterio.windows.Window(left, top, columns, rows))
    temporary.rename(path)
    return path


class QuickEncoder:
    """Features of the real encoder's shape, from a window's mean colours: everything but the model's work."""

    def __init__(self, encoder: object, patches: int, width: int) -> None:
        self._encoder = encoder
        self._patches = patches
        self._mix = np.random.default_rng(0).standard_normal((3, width)).astype(np.float32)

    def __getattr__(self, name: str) -> object:
        return getattr(self._encoder, name)

    def features(self, windows: NDArray[np.uint8]) -> NDArray[np.float32]:
        """(B, H, W, 3) uint8 to (B, patches, width) unit rows."""
        side = int(self._patches**0.5)
        step = windows.shape[1] // side
        cells = windows[:, ::step, ::step][:, :side, :side].reshape(len(windows), self._patches, 3)
        mixed = (cells.astype(np.float32) - 100) @ self._mix
        return mixed / np.linalg.norm(mixed, axis=-1, keepdims=True)


def run_child(mode: str, folder: Path, side: int) -> None:
    """One run; prints a row of JSON."""
    segmenter = Segmenter("demo", classes=CLASSES)
    source = folder / f"{mode}-{side}.tif"
    options = RasterOptions(resolution=8.0) if mode == "coarse" else RasterOptions()
    if mode == "dense":
        patches = (segmenter.preparation.window // segmenter.preparation.patch) ** 2
        segmenter._encoder = QuickEncoder(segmenter.backend, patches, segmenter.preparation.embed_dim)
    target = folder / f"{mode}.labels.tif"
    start = time.perf_counter()
    result = segment_raster(segmenter, source, target, options=options, force=True)
    row = {
        "mode": mode,
        "source_bytes": source.stat().st_size,
        "labels": [result.height, result.width],
        "tiles": result.tiles,
        "windows": result.encoded,
        "seconds": round(time.perf_counter() - start, 1),
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }
    print(json.dumps(row))


def main() -> None:
    """Make the rasters, run each mode in a process of its own, print, write."""
    options = parser(__doc__)
    options.add_argument("--side", type=int, default=40_000, help="pixels (%(default)s)")
    options.add_argument("--modes", nargs="+", choices=MODES, default=list(MODES), help="(%(default)s)")
    options.add_argument("--child", help=argparse.SUPPRESS)
    args = options.parse_args()
    folder = work_folder()
    if args.child:
        run_child(args.child, folder, args.side)
        return
    make_raster(folder / f"coarse-{args.side}.tif", args.side, args.side)
    make_raster(folder / f"sparse-{args.side}.tif", args.side, args.side, filled=3000)
    make_raster(folder / f"dense-{args.side}.tif", min(DENSE_ROWS, args.side), args.side)
    rows = []
    for mode in args.modes:
        command = [
            sys.executable,
            "-m",
            "benchmarks.cpu.raster_memory",
            "--side",
            str(args.side),
            "--child",
            mode,
        ]
        row = json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)
        rows.append(row)
        height, width = row["labels"]
        work = f"{row['tiles']:,} tiles, {row['windows']:,} windows, {row['seconds']:.0f} s"
        print(f"{mode}: labels {width:,}×{height:,}, {work}, peak {row['peak_bytes'] / 1e9:.2f} GB")
    write_report(args.json, f"peak memory of rasters of {args.side:,} pixels", rows=rows)


if __name__ == "__main__":
    main()
