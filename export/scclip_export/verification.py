"""Windows to verify an export on: cut from the user's images, or generated."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from scclip_export.errors import ExportError
from scclip_export.model.geometry import Geometry
from scclip_rt.image.files import IMAGE_SUFFIXES, images_below
from scclip_rt.image.geometry import Tiling, cut_windows, resize, resize_shape

_IMAGES, _WINDOWS = 3, 6


def generated_image(height: int, width: int, seed: int) -> NDArray[np.uint8]:
    """Return a random picture with what moves a CLIP: gradients, textured ellipses and boxes, grain.

    Returns:
        uint8 (height, width, 3), the same for the same arguments.
    """
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width] / max(height, width)
    corners = rng.uniform(0, 255, (3, 3))
    image = corners[0] + (corners[1] - corners[0]) * y[..., None] + (corners[2] - corners[0]) * x[..., None]
    for _ in range(int(rng.integers(6, 14))):
        center, radius = rng.uniform(0, 1, 2), rng.uniform(0.08, 0.35, 2)
        offset_y, offset_x = (y - center[0]) / radius[0], (x - center[1]) / radius[1]
        inside = (
            offset_y**2 + offset_x**2 < 1
            if rng.random() < 0.5
            else np.maximum(abs(offset_y), abs(offset_x)) < 1
        )
        angle, frequency = rng.uniform(0, np.pi), rng.uniform(5, 150)
        stripes = np.sin(frequency * (np.cos(angle) * x[inside] + np.sin(angle) * y[inside]))
        image[inside] = rng.uniform(0, 255, 3) + rng.uniform(10, 60) * stripes[:, None]
    image += rng.normal(0, 6, image.shape)
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)


def verification_images(directory: Path | None) -> list[NDArray[np.uint8]]:
    """Return the images of a folder (the first three, sorted by name), or generated ones.

    Raises:
        ExportError: the folder does not exist or holds no image.
    """
    if directory is None:
        return [generated_image(375, 500, seed) for seed in range(_IMAGES)]
    from scclip_rt.image.load import load_image

    return [load_image(path) for path in image_files(directory, "--verify-images")[:_IMAGES]]


def image_files(directory: Path, option: str) -> list[Path]:
    """Return the images of a folder and all below it, sorted by path: by the rule of `scclip segment`.

    Args:
        directory: the folder.
        option: the command's option that named it, for the message.

    Raises:
        ExportError: no such folder, or no image in it.
    """
    if not directory.is_dir():
        raise ExportError(f"{option} {directory}: no such folder")
    files = images_below(directory).images
    if not files:
        raise ExportError(f"{option} {directory}: no image in it ({', '.join(sorted(IMAGE_SUFFIXES))})")
    return files


def image_windows(image: NDArray[np.uint8], geometry: Geometry) -> NDArray[np.uint8]:
    """Cut all windows of an image as the runtime does: uint8 (H, W, 3) to (windows, window, window, 3)."""
    shape = resize_shape(
        *image.shape[:2],
        short_side=geometry.short_side,
        long_side=geometry.long_side,
        min_side=geometry.window,
    )
    tiling = Tiling.windows(*shape, window=geometry.window, stride=geometry.stride)
    return cut_windows(resize(image, shape), tiling)


def verification_windows(images: list[NDArray[np.uint8]], geometry: Geometry) -> NDArray[np.uint8]:
    """Windows spread over the images: uint8 (6, window, window, 3)."""
    per_image = -(-_WINDOWS // len(images))
    windows = []
    for image in images:
        cut = image_windows(image, geometry)
        windows.append(cut[np.linspace(0, len(cut) - 1, per_image).round().astype(int)])
    return np.concatenate(windows)[:_WINDOWS]
