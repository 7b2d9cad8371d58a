"""Images of every kind to uint8 RGB, as a viewer shows them."""

from __future__ import annotations

import contextlib
import errno
import functools
import importlib
import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from scclip_rt.errors import ImageError
from scclip_rt.image.files import FORMAT_NAMES, FORMATS, IMAGE_SUFFIXES
from scclip_rt.image.geometry import MAX_PIXELS, check_pixels

if TYPE_CHECKING:
    from PIL import Image, ImageFile

__all__ = ["IMAGE_SUFFIXES", "ImageSource", "image_size", "load_image", "open_pillow"]

ImageSource: TypeAlias = (
    "str | os.PathLike[str] | bytes | bytearray | memoryview | IO[bytes] | Image.Image | NDArray[Any]"
)
_MEMORY_ERRORS = ("out of memory", "cannot allocate", "not enough memory", "bad_alloc")
_PLUGINS = ("Png", "Jpeg", "WebP", "Gif", "Bmp", "Tiff", "Avif", "Jpeg2K", "Ppm")
"""Pillow's modules for `FORMATS`, imported one by one until an image is known: all take longer than a small photo."""


def load_image(
    source: ImageSource, *, max_pixels: int = MAX_PIXELS, name: str | None = None
) -> NDArray[np.uint8]:
    """An image as the model takes it.

    Files and PIL images: EXIF orientation applied, transparency over white, 16-bit grey scaled to 8 bits,
    CMYK converted, the first frame of animations.

    Args:
        source: a path, the bytes of a file, a file object, a PIL image, or a uint8 array (H, W, 3) RGB or (H, W) grey.
        max_pixels: largest image taken; checked on the header, before a file is decoded.
        name: what to call it in messages; None takes its path.

    Returns:
        (H, W, 3) uint8 RGB, C-contiguous.

    Raises:
        ImageError: unreadable, of another kind, or too large; names the file.
        MemoryError: decoding it takes more memory than there is.
    """
    if isinstance(source, np.ndarray):
        return _from_array(source, max_pixels)
    if isinstance(source, str | os.PathLike):
        path = Path(source)
        with open_pillow(path) as image:
            return _from_pillow(image, name or str(path), max_pixels)
    if isinstance(source, bytes | bytearray | memoryview) or hasattr(source, "read"):
        called = name or "the image"
        with _open_stream(_stream(source), called) as image:
            return _from_pillow(image, called, max_pixels)
    from PIL import Image

    if isinstance(source, Image.Image):
        return _from_pillow(source, name or "the image", max_pixels)
    if hasattr(source, "__cuda_array_interface__") or hasattr(source, "__dlpack__"):
        raise ImageError(
            f"this {type(source).__name__} is not a numpy array. One on a GPU is taken as it is by --backend tensorrt "
            '(backend="tensorrt") with a bundle that has kernels for that GPU, a vocabulary within the engine\'s '
            "queries and no refinement; else copy it to the host (.get(), .cpu().numpy())",
            field="image",
        )
    raise ImageError(
        "an image must be a path, the bytes of a file, a file object, a PIL image or a uint8 array; "
        f"got {type(source).__name__}",
        field="image",
    )


def image_size(source: ImageSource) -> tuple[int, int] | None:
    """(height, width) as stored, from the header alone; None where it can't be told without reading all of it."""
    if isinstance(source, np.ndarray):
        return (source.shape[0], source.shape[1]) if source.ndim >= 2 else None
    try:
        if isinstance(source, str | os.PathLike):
            with open_pillow(Path(source)) as image:
                return image.height, image.width
        if isinstance(source, bytes | bytearray | memoryview):
            with _open_stream(io.BytesIO(source), "the image") as image:
                return image.height, image.width
    except ImageError:
        return None
    height, width = getattr(source, "height", None), getattr(source, "width", None)
    return (height, width) if isinstance(height, int) and isinstance(width, int) else None


@contextlib.contextmanager
def open_pillow(path: Path) -> Iterator[ImageFile.ImageFile]:
    """Open an image file with one of `FORMATS`' decoders, whatever its name; only its header is read.

    Raises:
        ImageError: no such file, empty, or in another format; names the file.
    """
    try:
        if not path.is_file():  # a pipe or a device would block
            reason = "it is not a regular file" if path.exists() else "there is no such file"
            raise ImageError(f"can't read the image {path}: {reason}", field="image")
        stream = path.open("rb")
    except (OSError, ValueError) as error:  # ValueError: a null byte in the name
        raise ImageError(f"can't read the image {path}: {_reason(error)}", field="image") from error
    with stream, _open_stream(stream, str(path)) as image:
        yield image


def _stream(source: Any) -> IO[bytes]:
    """A seekable stream of a file's bytes: what can't seek (standard input, a socket) is read whole."""
    if isinstance(source, bytes | bytearray | memoryview):
        return io.BytesIO(source)
    seekable = getattr(source, "seekable", None)
    if seekable is not None and seekable():
        return source  # type: ignore[no-any-return]
    data = source.read()
    if not isinstance(data, bytes):
        raise ImageError("a file object with an image must be opened in binary mode", field="image")
    return io.BytesIO(data)


def _decoders() -> Iterator[tuple[Any, Any]]:
    """The constructor and the test of the first bytes of each of `FORMATS` that this Pillow has."""
    from PIL import Image

    for plugin in _PLUGINS:
        _import_plugin(plugin)
        yield from (Image.OPEN[name] for name in FORMATS if name in Image.OPEN)


@functools.cache
def _import_plugin(name: str) -> None:
    with contextlib.suppress(ImportError):  # AVIF came with Pillow 11.3
        importlib.import_module(f"PIL.{name}ImagePlugin")


def _open_stream(stream: IO[bytes], name: str) -> ImageFile.ImageFile:
    # The constructors of the formats and not Image.open: that one would try every reader it knows, and it has a
    # fixed limit on pixels that only a switch for the whole process lifts; ours is checked right after the header.
    try:
        prefix = stream.read(16)
        if not isinstance(prefix, bytes):
            raise ImageError("a file object with an image must be opened in binary mode", field="image")
        if not prefix:
            raise ImageError(f"can't read the image {name}: the file is empty", field="image")
        for construct, accepts in _decoders():
            if accepts is None or accepts(prefix) is True:
                stream.seek(0)
                image: ImageFile.ImageFile = construct(stream, "")
                return image
    except (ImageError, MemoryError):
        raise
    except Exception as error:  # decoders raise many kinds on damaged headers
        _raise_if_memory(error, name)
        raise ImageError(
            f"can't read the image {name}: {_reason(error)}; its header is damaged", field="image"
        ) from error
    raise ImageError(
        f"can't read {name}: not an image in a known format ({FORMAT_NAMES}), whatever its name says; convert it first",
        field="image",
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
            f"got {array.dtype} {tuple(array.shape)}{hint}",
            field="image",
        )
    check_pixels(array.shape[0], array.shape[1], max_pixels=max_pixels)
    if array.ndim == 2:
        array = np.repeat(array[..., None], 3, axis=2)
    return np.ascontiguousarray(array)


def _from_pillow(image: Image.Image, name: str, max_pixels: int) -> NDArray[np.uint8]:
    check_pixels(image.height, image.width, max_pixels=max_pixels, name=name)
    try:
        _check_lazy(image, max_pixels)
        image.load()
        rgb = _to_rgb(_upright(image))
        return np.array(rgb, dtype=np.uint8, order="C")
    except ImageError as error:
        raise ImageError(f"can't use {name}: {error}", field="image") from error
    except MemoryError as error:
        raise MemoryError(f"not enough memory to decode {name}") from error
    except Exception as error:  # decoders raise OSError, SyntaxError, struct.error, … on damaged data
        _raise_if_memory(error, name)
        raise ImageError(
            f"can't decode {name}: {_reason(error)}; the file may be damaged or cut off", field="image"
        ) from error


def _check_lazy(image: Image.Image, max_pixels: int) -> None:
    """What loading an opened file would do: only `FORMATS` may, and a TIFF's tiles are part of its size."""
    from PIL import ImageFile

    if not isinstance(image, ImageFile.ImageFile):
        return
    if image.format not in (*FORMATS, "MPO"):
        raise ImageError(f"its format is {image.format}; load it yourself and pass image.convert('RGB')")
    tags = getattr(image, "tag_v2", {})
    width, height = tags.get(322), tags.get(323)  # of a tile, which is decoded whole
    if isinstance(width, int) and isinstance(height, int):
        check_pixels(max(height, 1), max(width, 1), max_pixels=max_pixels, name="a tile of the image")


def _raise_if_memory(error: Exception, name: str) -> None:
    """Out of memory is the machine's fault, not the file's: it must not pass for a damaged image."""
    text = str(error).lower()
    if getattr(error, "errno", None) == errno.ENOMEM or any(words in text for words in _MEMORY_ERRORS):
        raise MemoryError(f"not enough memory to decode {name}") from error


def _upright(image: Image.Image) -> Image.Image:
    from PIL import ExifTags

    try:
        if image.getexif().get(ExifTags.Base.Orientation, 1) == 1:
            return image  # exif_transpose would copy it
        from PIL import ImageOps

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
