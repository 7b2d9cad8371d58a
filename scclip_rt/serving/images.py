"""Images as they come over a wire: only the usual formats, and the size is looked at before anything is decoded."""

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from scclip_rt.errors import ImageError
from scclip_rt.image import files
from scclip_rt.serving.errors import TooLargeError, UnsupportedMediaError

Image.init()
FORMATS = tuple(name for name in files.FORMATS if name in Image.OPEN)
"""How Pillow was built decides on AVIF, WebP and JPEG 2000."""

WireImage = bytes | NDArray[np.uint8]


def open_image(data: bytes, *, max_pixels: int) -> Image.Image:
    """Read an encoded image's header.

    Args:
        data: the file's bytes.
        max_pixels: largest image taken.

    Returns:
        The image, not decoded yet.

    Raises:
        UnsupportedMediaError: not one of `FORMATS`.
        TooLargeError: more pixels than `max_pixels`.
        ImageError: empty, or a damaged header.
    """
    if not data:
        raise ImageError("the image is empty (0 bytes)")
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError:
        raise UnsupportedMediaError(
            f"the {len(data):,} bytes are not an image in a known format ({', '.join(FORMATS)})"
        ) from None
    except Image.DecompressionBombError as error:  # Pillow's own limit, which the process may have set lower
        raise TooLargeError(str(error)) from error
    except Exception as error:  # decoders raise many kinds on damaged headers
        raise ImageError(f"the image's header is damaged: {error or type(error).__name__}") from error
    check_size(image.height, image.width, max_pixels=max_pixels)
    return image


def check_size(height: int, width: int, *, max_pixels: int) -> None:
    """Refuse an image above the limit.

    Raises:
        TooLargeError: it has more pixels.
    """
    if height * width > max_pixels:
        raise TooLargeError(
            f"the image has {height * width:,} pixels ({width}×{height}); this server takes {max_pixels:,}"
        )
