"""Image files: what the Python runtime makes of them."""

import io
import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from fixture_arrays import Fixtures
from PIL import Image, PngImagePlugin

from scclip_rt.image.load import load_image
from synthetic import scene

ORIENTATION = 0x0112
XMP = "<x:xmpmeta><rdf:Description {}/></x:xmpmeta>"


def exif_block(orientation: int, *, more: bool = False) -> bytes:
    """As a camera writes it; `more`: other tags, some with values outside the directory."""
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    if more:
        exif.update(
            {0x010F: "Maker of cameras", 0x0110: "Model", 0x011A: 72.0, 0x0132: "2026:11:22 23:00:00"}
        )
    return exif.tobytes()


def image_file_cases(out: Fixtures) -> list[dict[str, Any]]:
    """Files and their pixels. JPEG decoders may differ by a grey level in a few places."""
    folder = out.folder / "images"
    folder.mkdir()
    for name, image, options in _images():
        image.save(folder / name, **options)
    deep = np.random.default_rng(7).integers(0, 65536, (21, 34, 3), dtype=np.uint16)
    cv2.imwrite(str(folder / "deep-rgb.png"), deep)
    cases = []
    for path in sorted(folder.iterdir()):
        pixels = out.array(load_image(path))
        cases.append({"path": str(path), "pixels": pixels, "tolerance": 2 if path.suffix == ".jpg" else 0})
    return cases


def _images() -> Iterator[tuple[str, Image.Image, dict[str, Any]]]:
    rng = np.random.default_rng(6)
    rgb = Image.fromarray(scene(61, 83, 3))
    jpeg: dict[str, Any] = {"quality": 98, "subsampling": 0}
    for orientation in range(10):
        block = exif_block(orientation, more=orientation % 2 == 0)
        yield f"turned-{orientation}.png", rgb, {"exif": block}
        yield f"turned-{orientation}.jpg", rgb, jpeg | {"exif": block}
    late, gamma = PngImagePlugin.PngInfo(), PngImagePlugin.PngInfo()
    late.add(b"eXIf", exif_block(6)[6:], after_idat=True)
    gamma.add(b"gAMA", (100_000).to_bytes(4, "big"))
    for name, info in (("late", late), ("gamma", gamma)):
        yield f"{name}.png", rgb, {"pnginfo": info}
    packet = XMP.format('tiff:Orientation="5"').encode()
    yield "both.jpg", rgb, jpeg | {"exif": exif_block(3), "xmp": packet}
    yield "damaged.jpg", rgb, jpeg | {"exif": b"Exif\0\0XX*\0damaged", "xmp": packet}
    yield "grey.jpg", rgb.convert("L"), jpeg
    yield "plain.png", rgb, {}
    yield "grey.png", rgb.convert("L"), {}
    yield "bits.png", rgb.convert("1"), {}
    palette = rgb.convert("P", palette=Image.Palette.ADAPTIVE, colors=14)
    yield "palette.png", palette, {}
    yield "palette-clear.png", palette, {"transparency": bytes(range(0, 252, 18))}
    yield "grey-clear.png", rgb.convert("L"), {"transparency": 128}
    alpha = Image.fromarray(rng.integers(0, 256, (256, 256, 4), dtype=np.uint8), "RGBA")
    yield "alpha.png", alpha, {}
    yield "grey-alpha.png", alpha.convert("LA"), {}
    yield "deep.png", Image.fromarray(rng.integers(0, 65536, (40, 50), dtype=np.uint16)), {}


def image_refusals(folder: Path) -> list[str]:
    """Files that are no images, or only half of one; a pipe, a folder, and nothing at all."""
    folder.mkdir()
    rgb = Image.fromarray(scene(61, 83, 3))
    for suffix in ("png", "jpg"):
        rgb.save(folder / f"whole.{suffix}")
        content = (folder / f"whole.{suffix}").read_bytes()
        (folder / f"half.{suffix}").write_bytes(content[: len(content) // 2])
    (folder / "empty.png").write_bytes(b"")
    (folder / "text.png").write_text("hello")
    os.mkfifo(folder / "pipe.png")
    names = ("half.png", "half.jpg", "empty.png", "text.png", "pipe.png", "nowhere.png", "")
    return [str(folder / name) for name in names]


def image_claims(folder: Path) -> list[str]:
    """A PNG and a JPEG of some bytes that claim 30,000 × 30,000 pixels."""
    folder.mkdir()
    side = 30_000
    header = b"IHDR" + struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    png = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    for kind, data in ((b"IDAT", zlib.compress(b"")), (b"IEND", b"")):
        png += struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    (folder / "large.png").write_bytes(png)
    small = io.BytesIO()
    Image.new("RGB", (8, 8)).save(small, "JPEG")
    jpeg = small.getvalue()
    at = jpeg.index(b"\xff\xc0") + 5  # of the frame's height and width
    (folder / "large.jpg").write_bytes(jpeg[:at] + struct.pack(">HH", side, side) + jpeg[at + 4 :])
    return [str(path) for path in sorted(folder.iterdir())]
