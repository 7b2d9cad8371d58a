"""What writing a label map costs: PNG by several settings, run lengths, raw; beside the decoding that made it.

    python -m benchmarks.serving.encode [--size 4000 3000] [--json table.json]

The map is the demo model's of a rendered scene, at the size of a 12-megapixel photo; a noisy map (every tenth pixel of
another class) stands for the worst case. Times are medians, in turn; the gate is that every PNG reads back equal.
"""

import io
import statistics
import sys
import zlib
from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.harness import Row, parser, take_turns, write_report
from scclip_rt import Segmenter
from scclip_rt.demo.scenes import test_scene
from scclip_rt.formats.rle import coco_masks
from scclip_rt.image.png import encode_indexed_png
from scclip_rt.segmentation import Segmentation
from scclip_rt.serving.render import json_bytes, labels_png, segments


def pillow(labels: NDArray[np.uint8], level: int, strategy: int) -> bytes:
    stream = io.BytesIO()
    image = Image.fromarray(labels)
    image.putpalette(bytes(768))
    image.save(stream, format="PNG", compress_level=level, compress_type=strategy)
    return stream.getvalue()


def opencv(labels: NDArray[np.uint8], level: int, strategy: int) -> bytes:
    options = [cv2.IMWRITE_PNG_COMPRESSION, level, cv2.IMWRITE_PNG_STRATEGY, strategy]
    return bytes(cv2.imencode(".png", labels, options)[1])


def writers(result: Segmentation) -> dict[str, Callable[[], bytes]]:
    """Name → what makes the bytes."""
    labels = result.labels
    return {
        "served PNG": lambda: labels_png(result),
        "written PNG": lambda: encode_indexed_png(labels, np.zeros((256, 3), np.uint8)),
        "Pillow, level 6 (its default)": lambda: pillow(labels, 6, zlib.Z_DEFAULT_STRATEGY),
        "Pillow, level 1": lambda: pillow(labels, 1, zlib.Z_DEFAULT_STRATEGY),
        "Pillow, level 1, run lengths": lambda: pillow(labels, 1, zlib.Z_RLE),
        "Pillow, level 1, Huffman only": lambda: pillow(labels, 1, zlib.Z_HUFFMAN_ONLY),
        "OpenCV, level 1, run lengths (grey)": lambda: opencv(labels, 1, cv2.IMWRITE_PNG_STRATEGY_RLE),
        "COCO run lengths, all classes": lambda: "".join(mask.counts for mask in coco_masks(labels)).encode(),
        "served JSON": lambda: json_bytes({"segments": segments(result, boxes=True)}),
        "raw": labels.tobytes,
    }


def main() -> None:
    """Check, measure, print, write."""
    options = parser(__doc__)
    options.add_argument("--size", type=int, nargs=2, default=(4000, 3000), metavar=("WIDTH", "HEIGHT"))
    options.add_argument("--rounds", type=int, default=5)
    args = options.parse_args()
    segment = Segmenter("demo")
    encoded = segment.encode(np.array(Image.fromarray(test_scene(0).image).resize(tuple(args.size))))
    smooth = segment.decode(encoded)
    rng = np.random.default_rng(0)
    labels = np.where(rng.random(smooth.labels.shape) < 0.1, np.uint8(rng.integers(0, 24)), smooth.labels)
    noisy = Segmentation(labels=labels, classes=smooth.classes, unlabelled=smooth.unlabelled)
    times = take_turns({"decode": lambda: segment.decode(encoded)}, args.rounds)["decode"]
    decode = statistics.median(times)
    table: dict[str, Row] = {"decode": {"seconds": decode}}
    for kind, result in (("model's map", smooth), ("noisy map", noisy)):
        made = writers(result)
        for name, write in made.items():
            if any(word in name for word in ("PNG", "Pillow", "OpenCV")):
                read = np.array(Image.open(io.BytesIO(write())))
                if not np.array_equal(read, result.labels):
                    sys.exit(f"{name} does not read back")
        for name, seconds in take_turns(made, args.rounds).items():
            median = statistics.median(seconds)
            size = len(made[name]())
            table[f"{kind}: {name}"] = {"seconds": median, "over_decode": median / decode, "bytes": size}
    for name, row in table.items():
        size = f"{row['bytes'] / 1e6:8.2f} MB" if "bytes" in row else ""
        print(f"{name:48} {1000 * row['seconds']:8.1f} ms {row.get('over_decode', 1):6.2f} × decode {size}")
    write_report(args.json, "what writing a label map costs", rows=table)


if __name__ == "__main__":
    main()
