"""Image files, EXIF blocks and command lines: what the Python runtime makes of them."""

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from fixture_arrays import Fixtures
from PIL import Image, PngImagePlugin
from python_refusals import message_of

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
    late, xmp, gamma = PngImagePlugin.PngInfo(), PngImagePlugin.PngInfo(), PngImagePlugin.PngInfo()
    late.add(b"eXIf", exif_block(6)[6:], after_idat=True)
    xmp.add_itxt("XML:com.adobe.xmp", XMP.format('tiff:Orientation="8"'))
    gamma.add(b"gAMA", (100_000).to_bytes(4, "big"))
    for name, info in (("late", late), ("xmp", xmp), ("gamma", gamma)):
        yield f"{name}.png", rgb, {"pnginfo": info}
    packet = XMP.format('tiff:Orientation="5"').encode()
    yield "xmp.jpg", rgb, jpeg | {"xmp": packet}
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


def image_refusals(folder: Path) -> list[dict[str, str]]:
    """Files that are no images, or only half of one."""
    folder.mkdir()
    rgb = Image.fromarray(scene(61, 83, 3))
    for suffix in ("png", "jpg"):
        rgb.save(folder / f"whole.{suffix}")
        content = (folder / f"whole.{suffix}").read_bytes()
        (folder / f"half.{suffix}").write_bytes(content[: len(content) // 2])
    (folder / "empty.png").write_bytes(b"")
    (folder / "text.png").write_text("hello")
    paths = [folder / name for name in ("half.png", "half.jpg", "empty.png", "text.png", "nowhere.png", "")]
    return [{"path": str(path), "message": message_of(lambda path=path: load_image(path))} for path in paths]


def exif_cases(folder: Path, count: int = 1500) -> list[dict[str, Any]]:
    """EXIF blocks, most of them damaged, with the orientation that Pillow finds."""
    folder.mkdir()
    rng = np.random.default_rng(8)
    sound = [exif_block(value, more=more) for value in (2, 6, 8) for more in (False, True)]
    big = b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x07\0\0\0\0\0\0"
    sound += [big, b"Exif\0\0" * 2 + big, b"Exif\0\0" * 3 + big, b"II" + big[2:], b""]
    blocks = list(sound)
    while len(blocks) < count:
        block = bytearray(sound[rng.integers(len(sound) - 1)])
        for _ in range(rng.integers(1, 4)):
            place = int(rng.integers(len(block)))
            block[place] = rng.integers(256) if rng.random() < 0.5 else rng.integers(20)
        if rng.random() < 0.2:
            del block[int(rng.integers(1, len(block))) :]
        blocks.append(bytes(block))
    cases = []
    with (folder / "blocks").open("wb") as file:
        for block in blocks:
            file.write(block)
            cases.append([len(block), _orientation(block)])
    return cases


def _orientation(block: bytes) -> int:
    """As `images._upright` and `ImageOps.exif_transpose` use it; 1 for an image that stays as stored."""
    image = Image.new("RGB", (2, 1))
    image.info["exif"] = block
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            value = image.getexif().get(ORIENTATION, 1)
        except Exception:  # what Pillow raises on damaged data
            return 1
    return value if value in range(2, 9) else 1
