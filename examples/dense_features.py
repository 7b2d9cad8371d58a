"""Dense features: encode an image once, then ask as often as you like.

    python examples/dense_features.py demo scclip_rt/demo/scene.png out --point 200 100

Writes the labels of two vocabularies from one run of the encoder, and how like each patch is to the one under a point:
features are unit vectors, so the dot product of two is their cosine.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from scclip_rt import Encoded, Segmenter


def similarity_to(encoded: Encoded, row: int, column: int) -> NDArray[np.float32]:
    """Cosines with the patch under a pixel, one per patch of that pixel's window.

    Args:
        encoded: of an image.
        row: of a pixel of the image as it was loaded.
        column: of the same pixel.

    Returns:
        (rows, columns) of patches in the window, float32 in [-1, 1].
    """
    height, width = encoded.image.shape[:2]
    tiling, (rows, columns) = encoded.tiling, encoded.grid
    # The pixel's place in the resized image, and the first window that covers it.
    y, x = row * encoded.resized.shape[0] // height, column * encoded.resized.shape[1] // width
    top, left = next(
        (top, left)
        for top in tiling.rows
        for left in tiling.columns
        if top <= y < top + tiling.window[0] and left <= x < left + tiling.window[1]
    )
    window = tiling.rows.index(top) * len(tiling.columns) + tiling.columns.index(left)
    patch = (y - top) * rows // tiling.window[0] * columns + (x - left) * columns // tiling.window[1]
    features = encoded.features[window]  # (patches, dimensions), unit rows
    cosines: NDArray[np.float32] = (features @ features[patch]).reshape(rows, columns)
    return cosines


def main() -> int:
    """Parse, encode once, write three pictures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bundle", help="bundle directory, or demo for the packaged one")
    parser.add_argument("image", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--point", type=int, nargs=2, metavar=("ROW", "COLUMN"), default=(200, 100))
    args = parser.parse_args()

    segment = Segmenter(args.bundle)
    encoded = segment.encode(args.image)
    print("features", encoded.features.shape, encoded.features.dtype)
    for stem, classes in (
        ("coarse", ["animal, giraffe", "plant, grass"]),
        ("fine", ["giraffe", "zebra", "grass"]),
    ):
        result = segment.with_classes(classes).decode(encoded)
        result.save(args.output, stem, force=True)
        print(stem, {name: round(share, 3) for name, share in result.shares().items()})
    cosines = similarity_to(encoded, *args.point)
    grey = Image.fromarray((cosines.clip(0, 1) * 255).astype(np.uint8))
    grey.resize((224, 224), Image.Resampling.NEAREST).save(args.output / "similarity.png")
    return 0


if __name__ == "__main__":
    sys.exit(main())
