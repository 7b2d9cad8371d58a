"""Images of every kind come out as a viewer shows them, or with a clear error."""

import io
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from scclip_rt.errors import ImageError
from scclip_rt.image.load import load_image

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (20, 30, 3), np.uint8)


def saved(tmp_path: Path, image: Image.Image, name: str, **options: object) -> Path:
    path = tmp_path / name
    image.save(path, **options)
    return path


def test_paths_pillow_images_and_arrays_agree(tmp_path):
    path = saved(tmp_path, Image.fromarray(PIXELS), "a.png")
    for source in (path, str(path), path.read_bytes(), Image.open(path), PIXELS):
        loaded = load_image(source)
        assert loaded.dtype == np.uint8
        assert loaded.flags.c_contiguous
        assert np.array_equal(loaded, PIXELS)


def test_pillow_and_opencv_decode_jpegs_to_the_same_bits():
    # Both use libjpeg-turbo with the same settings (Pillow 13, OpenCV 5), so that either may prepare images.
    data = pytest.importorskip("skimage").__path__[0]
    photos = sorted(Path(data, "data").glob("*.jpg"))
    assert photos
    for photo in photos:
        assert np.array_equal(load_image(photo), cv2.imread(str(photo), cv2.IMREAD_COLOR_RGB))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = saved(tmp_path, Image.fromarray(PIXELS), "a.png", exif=exif)
    turned = {
        1: PIXELS,
        2: PIXELS[:, ::-1],
        3: PIXELS[::-1, ::-1],
        4: PIXELS[::-1],
        5: PIXELS.transpose(1, 0, 2),
        6: np.rot90(PIXELS, -1),
        7: PIXELS[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(PIXELS),
    }
    assert np.array_equal(load_image(path), turned[orientation])


def test_damaged_exif_is_ignored(tmp_path):
    path = saved(tmp_path, Image.fromarray(PIXELS), "a.jpg", exif=b"Exif\0\0II*\0garbage")
    assert load_image(path).shape == PIXELS.shape


@pytest.mark.parametrize("suffix", ["png", "tiff"])
def test_16_bit_grey_is_scaled_not_clipped(tmp_path, suffix):
    values = RNG.integers(0, 65536, (20, 30), np.uint16)
    path = tmp_path / f"a.{suffix}"
    cv2.imwrite(str(path), values)
    expected = np.floor(values / 257 + 0.5).astype(np.uint8)
    assert np.array_equal(load_image(path), np.repeat(expected[..., None], 3, axis=2))


@pytest.mark.parametrize("suffix", ["png", "tiff"])
def test_16_bit_rgb_is_scaled(tmp_path, suffix):
    values = RNG.integers(0, 65536, (20, 30, 3), np.uint16)
    path = tmp_path / f"a.{suffix}"
    cv2.imwrite(str(path), values[..., ::-1])
    assert np.abs(load_image(path) - values / 257).max() <= 1


def test_grey_palette_and_bilevel(tmp_path):
    grey = Image.fromarray(PIXELS[..., 0])
    assert np.array_equal(load_image(saved(tmp_path, grey, "l.png"))[..., 1], PIXELS[..., 0])
    bilevel = load_image(saved(tmp_path, grey.convert("1"), "1.png"))
    assert set(np.unique(bilevel)) <= {0, 255}
    palette = Image.fromarray(PIXELS).quantize(8)
    assert np.array_equal(load_image(saved(tmp_path, palette, "p.png")), np.asarray(palette.convert("RGB")))


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparency_lies_over_white(tmp_path, mode):
    image = Image.fromarray(PIXELS).convert(mode)
    alpha = np.zeros((20, 30), np.uint8)
    alpha[:, 15:] = 255
    image.putalpha(Image.fromarray(alpha))
    loaded = load_image(saved(tmp_path, image, "a.png"))
    assert (loaded[:, :15] == 255).all()
    assert np.array_equal(
        loaded[:, 15:], np.asarray(Image.fromarray(PIXELS).convert(mode[:-1]).convert("RGB"))[:, 15:]
    )


def test_transparent_palette_entry_lies_over_white(tmp_path):
    image = Image.fromarray(np.repeat(np.array([[0, 1]], np.uint8), 4, axis=0), mode=None).convert("P")
    image.putpalette([10, 20, 30, 40, 50, 60])
    loaded = load_image(saved(tmp_path, image, "p.png", transparency=0))
    assert loaded[0].tolist() == [[255, 255, 255], [40, 50, 60]]


def test_cmyk_jpegs_are_not_inverted(tmp_path):
    red = Image.new("RGB", (16, 16), (220, 20, 20)).convert("CMYK")
    loaded = load_image(saved(tmp_path, red, "c.jpg", quality=95))
    assert np.abs(loaded.astype(int) - (220, 20, 20)).max() < 12


def test_first_frame_of_an_animation(tmp_path):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    path = tmp_path / "a.gif"
    frames[0].save(path, save_all=True, append_images=frames[1:])
    assert load_image(path)[0, 0].tolist() == [255, 0, 0]


def test_bad_files_are_named(tmp_path):
    buffer = io.BytesIO()
    Image.fromarray(PIXELS).save(buffer, "PNG")
    cases = {
        "empty.png": (b"", "is empty"),
        "text.jpg": (b"hello there", "known format"),
        "cut.png": (buffer.getvalue()[:-700], "damaged or cut off"),
        "header.png": (buffer.getvalue()[:20], "header.png"),
    }
    for name, (data, message) in cases.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(ImageError, match=message) as caught:
            load_image(tmp_path / name)
        assert name in str(caught.value)
    with pytest.raises(ImageError, match="no such file"):
        load_image(tmp_path / "missing.png")
    with pytest.raises(ImageError, match="not a regular file"):
        load_image(tmp_path)


def test_pixels_are_limited_by_the_header(tmp_path):
    # A 20,000 × 20,000 PNG of 50 kB: decoding it would take 1.2 GB.
    path = saved(tmp_path, Image.new("1", (20_000, 20_000)), "bomb.png")
    with pytest.raises(ImageError, match=r"bomb\.png is 20000×20000, 400\.0 million pixels.*--max-pixels"):
        load_image(path)
    before = Image.MAX_IMAGE_PIXELS
    assert load_image(PIXELS, max_pixels=600).shape == (20, 30, 3)
    with pytest.raises(ImageError, match="limit"):
        load_image(PIXELS, max_pixels=599)
    assert before == Image.MAX_IMAGE_PIXELS


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (PIXELS / 255.0, "round"),
        (PIXELS.transpose(2, 0, 1), "transpose"),
        (np.zeros((4, 4, 4), np.uint8), "fourth channel"),
        (np.zeros((2, 4, 4, 3), np.uint8), "got uint8"),
        (np.zeros((0, 4, 3), np.uint8), "no pixels"),
        (PIXELS.astype(np.int32), "got int32"),
    ],
)
def test_wrong_arrays_say_what_to_do(array, message):
    with pytest.raises(ImageError, match=message):
        load_image(array)


def test_other_types_and_float_images_are_refused():
    with pytest.raises(ImageError, match="list"):
        load_image([1, 2])  # type: ignore[arg-type]
    with pytest.raises(ImageError, match="floating-point"):
        load_image(Image.new("F", (4, 4)))
    with pytest.raises(ImageError, match="32-bit"):
        load_image(Image.fromarray(np.full((4, 4), 1 << 20, np.int32)))


def test_grey_array_and_one_pixel():
    assert load_image(PIXELS[..., 0]).shape == (20, 30, 3)
    assert load_image(PIXELS[:1, :1]).shape == (1, 1, 3)


@pytest.mark.parametrize("data", [b"", b"no image", b"\x89PNG\r\n\x1a\nshort"])
def test_bytes_that_are_no_image_are_refused(data):
    with pytest.raises(ImageError, match=r"can't (read|decode)"):
        load_image(data)


def test_a_pillow_image_is_left_as_it_was():
    exif = Image.Exif()
    exif[0x0112] = 6
    for image in (Image.fromarray(PIXELS), Image.fromarray(PIXELS).convert("CMYK")):
        image.getexif().update(exif)
        before = (image.size, image.mode, image.tobytes())
        load_image(image)
        assert (image.size, image.mode, image.tobytes()) == before
