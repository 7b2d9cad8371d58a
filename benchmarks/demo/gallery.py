"""The README's gallery: demo scenes, their masks, and what each calibration makes of them.

    python -m benchmarks.demo.gallery [--scenes 3 8 14] [--output docs/images/gallery.jpg]

Exports the demo checkpoint once per calibration, to a temporary folder.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from scclip_export.cli.main import run
from scclip_rt import Segmentation, Segmenter
from scclip_rt.demo.scenes import CLASSES, test_scene

CHECKPOINT = Path(__file__).with_name("demo_clip.safetensors")
METHODS = {"scclip": "SC-CLIP", "maskclip": "MaskCLIP", "none": "plain CLIP"}
WIDTH, HEADER, GAP = 300, 26, 6


def segmenters(directory: Path) -> dict[str, Segmenter]:
    """One segmenter per calibration of the demo checkpoint."""
    loaded = {}
    for method in METHODS:
        bundle = directory / f"{method}.scclip"
        if run(["--checkpoint", str(CHECKPOINT), "--calibration", method, "--output", str(bundle)]):
            sys.exit(f"exporting {method} failed")
        loaded[method] = Segmenter(bundle, classes=list(CLASSES))
    return loaded


def row(index: int, loaded: dict[str, Segmenter]) -> list[NDArray[np.uint8]]:
    """Scene, ground truth and one overlay per calibration, each uint8 (H, W, 3)."""
    scene = test_scene(index)
    truth = Segmentation(labels=scene.mask, classes=CLASSES, unlabelled=255, image=scene.image)
    results = [truth, *(segmenter(scene.image) for segmenter in loaded.values())]
    # Long legends of wrong classes would dwarf the pictures; those of the truth and of SC-CLIP name the colours.
    return [scene.image, *(r.overlay(scene.image, legend=i < 2) for i, r in enumerate(results))]


def compose(rows: list[list[NDArray[np.uint8]]], titles: list[str]) -> Image.Image:
    """Lay the cells out under their titles; overlays keep their legends, so rows differ in height."""
    cells = [[Image.fromarray(cell) for cell in cells] for cells in rows]
    cells = [
        [c.resize((WIDTH, round(c.height * WIDTH / c.width)), Image.Resampling.LANCZOS) for c in r]
        for r in cells
    ]
    heights = [max(cell.height for cell in row) for row in cells]
    size = (len(titles) * (WIDTH + GAP) + GAP, HEADER + sum(heights) + GAP * len(heights))
    sheet = Image.new("RGB", size, "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(16)
    for column, title in enumerate(titles):
        draw.text((GAP + column * (WIDTH + GAP), 4), title, fill="black", font=font)
    top = HEADER
    for row_cells, height in zip(cells, heights, strict=True):
        for column, cell in enumerate(row_cells):
            sheet.paste(cell, (GAP + column * (WIDTH + GAP), top))
        top += height + GAP
    return sheet


def main() -> None:
    """Parse, render, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--scenes", type=int, nargs="+", default=[3, 8, 14], help="indices of held-out scenes"
    )
    parser.add_argument("--output", type=Path, default=Path("docs/images/gallery.jpg"))
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        loaded = segmenters(Path(directory))
        sheet = compose(
            [row(index, loaded) for index in args.scenes], ["scene", "ground truth", *METHODS.values()]
        )
    args.output.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(args.output, quality=88)
    print(args.output)


if __name__ == "__main__":
    main()
