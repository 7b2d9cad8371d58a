"""Images of every kind to uint8 RGB, as a viewer shows them."""

from __future__ import annotations

import io
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from scclip_rt.errors import ImageError
from scclip_rt.image.geometry import MAX_PIXELS, check_pixels

if TYPE_CHECKING:
    from PIL import Image

ImageSource: TypeAlias = "str | os.PathLike[str] | bytes | Image.Image | NDArray[Any]"
IMAGE_SUFFIXES = frozenset(
    {".bmp", ".gif", ".jpeg", ".jpg", ".jp2", ".png", ".pgm", ".ppm", ".tif", ".tiff", ".webp"}
)
"""What files in a folder must end in to count as images, in lower case."""
_pillow_limit = threading.Lock()


def load_image(source: ImageSource, *, max_pixels: int = MAX_PIXELS) -> NDArray[np.uint8]:
    """An image as the model takes it.

    Files and PIL images: EXIF orientation applied, transparency over white, 16-bit grey scaled to 8 bits,
    CMYK converted, the first frame of animations.

    Args:
        source: a path, the bytes of an image file, a PIL image, or a uint8 array (H, W, 3) RGB or (H, W) grey.
        max_pixels: largest image taken; checked on the header, before a file is decoded.

    Returns:
        (H, W, 3) uint8 RGB, C-contiguous.

    Raises:
        ImageError: unreadable, of another kind, or too large; names the file.
    """
    if isinstance(source, np.ndarray):
        return _from_array(source, max_pixels)
    if isinstance(source, str | os.PathLike):
        return _from_file(Path(source), max_pixels)
    if isinstance(source, bytes):
        return _from_bytes(source, max_pixels)
    from PIL import Image

    if isinstance(source, Image.Image):
        return _from_pillow(source, "the image", max_pixels)
    if hasattr(source, "__cuda_array_interface__") or hasattr(source, "__dlpack__"):
        raise ImageError(
            f"this {type(source).__name__} is not a numpy array. One on a GPU is taken as it is by --backend tensorrt "
            '(backend="tensorrt") with a bundle that has kernels for that GPU, a vocabulary within the engine\'s '
            "queries and no refinement; else copy it to the host (.get(), .cpu().numpy())"
        )
    raise ImageError(
        f"an image must be a path, the bytes of a file, a PIL image or a uint8 array; got {type(source).__name__}"
    )


def _from_array(array: NDArray[Any], max_pixels: int) -> NDArray[np.uint8]:
    if array.dtype != np.uint8 or not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] == 3)):
        hint = ""
        if array.dtype.kind == "f":
            hint = "; scale it to 0..255 and round: (array * 255).round().astype(np.uint8) if it goes from 0 to 1"
        elif array.ndim == 3 and array.shape[2] == 4:
            hint = "; pass PIL.Image.fromarray(array), which knows about transparency, or drop the fourth channel"
        elif array.ndim == 3 and array.shape[0] == 3:
            hint = "; move the channels last: array.transpose(1, 2, 0)"
        raise ImageError(
            "an image array must be uint8 of shape (height, width, 3) RGB or (height, width) grey; "
            f"got {array.dtype} {tuple(array.shape)}{hint}"
        )
    check_pixels(array.shape[0], array.shape[1], max_pixels=max_pixels)
    if array.ndim == 2:
        array = np.repeat(array[..., None], 3, axis=2)
    return np.ascontiguousarray(array)


def _from_file(path: Path, max_pixels: int) -> NDArray[np.uint8]:
    name = str(path)
    try:
        if not path.is_file():  # a pipe or a device would block
            reason = "it is not a regular file" if path.exists() else "there is no such file"
            raise ImageError(f"can't read the image {name}: {reason}")
        if path.stat().st_size == 0:
            raise ImageError(f"can't read the image {name}: the file is empty")
    except OSError as error:
        raise ImageError(f"can't read the image {name}: {_reason(error)}") from error
    with _open(path, name) as image:
        return _from_pillow(image, name, max_pixels)


def _from_bytes(data: bytes, max_pixels: int) -> NDArray[np.uint8]:
    if not data:
        raise ImageError("can't read the image: it has no bytes")
    with _open(io.BytesIO(data), "the image") as image:
        return _from_pillow(image, "the image", max_pixels)


def _open(source: Path | io.BytesIO, name: str) -> Image.Image:
    """Read an image's header."""
    from PIL import Image, UnidentifiedImageError

    try:
        with _without_pillow_limit():
            return Image.open(source)
    except UnidentifiedImageError as error:
        raise ImageError(
            f"can't read {name}: not an image in a known format (JPEG, PNG, TIFF, WebP, …)"
        ) from error
    except Exception as error:  # decoders raise many kinds on damaged headers
        raise ImageError(f"can't read the image {name}: {_reason(error)}") from error


def _from_pillow(image: Image.Image, name: str, max_pixels: int) -> NDArray[np.uint8]:
    check_pixels(image.height, image.width, max_pixels=max_pixels, name=name)
    try:
        image.load()
        rgb = _to_rgb(_upright(image))
    except ImageError as error:
        raise ImageError(f"can't use {name}: {error}") from error
    except Exception as error:  # decoders raise OSError, SyntaxError, struct.error, … on damaged data
        raise ImageError(
            f"can't decode {name}: {_reason(error)}; the file may be damaged or cut off"
        ) from error
    return np.array(rgb, dtype=np.uint8, order="C")


def _upright(image: Image.Image) -> Image.Image:
    from PIL import ExifTags, ImageOps

    try:
        if image.getexif().get(ExifTags.Base.Orientation, 1) == 1:
            return image  # exif_transpose would copy it
        return ImageOps.exif_transpose(image)
    except Exception:  # a damaged EXIF block: viewers show such images as stored
        return image


def _to_rgb(image: Image.Image) -> Image.Image:
    from PIL import Image

    if image.mode.startswith("I"):
        return _from_16_bit(image)
    if image.mode == "F":
        raise ImageError("it holds floating-point values, whose range is unknown; convert it to 8 bits")
    if "A" in image.mode or "a" in image.mode or "transparency" in image.info:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def _from_16_bit(image: Image.Image) -> Image.Image:
    """Grey of 16 bits (modes I;16, and I from some formats); Pillow's own conversion would clip it at 255."""
    from PIL import Image

    values = np.asarray(image)
    if values.dtype.itemsize > 2 and (values.min() < 0 or values.max() > 65535):
        raise ImageError("it holds 32-bit values, whose range is unknown; convert it to 8 or 16 bits")
    grey = ((values.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8)
    return Image.fromarray(grey).convert("RGB")


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


@contextmanager
def _without_pillow_limit() -> Iterator[None]:
    """Pillow has a fixed limit on pixels, with warnings; ours is an option and is checked right after the header."""
    from PIL import Image

    with _pillow_limit:
        before = Image.MAX_IMAGE_PIXELS
        Image.MAX_IMAGE_PIXELS = None
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = before
