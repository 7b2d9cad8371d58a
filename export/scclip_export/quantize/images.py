"""The windows that calibration looks at: of the user's photos, or of rendered scenes."""

import math
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from scclip_export.config import Geometry
from scclip_export.errors import ExportError
from scclip_export.verification import IMAGE_SUFFIXES
from scclip_rt.geometry import Tiling, cut_windows, resize, resize_shape

_PER_SCENE = 2
_SCENE_SIZE = (336, 448)


def calibration_windows(
    directory: Path | None, geometry: Geometry, *, count: int
) -> tuple[NDArray[np.uint8], str]:
    """Cut calibration windows as the runtime cuts them.

    Args:
        directory: a folder of images, taken evenly from its sorted names; None: scenes of the demo's training split.
        geometry: of the bundle.
        count: how many windows, at least 1.

    Returns:
        uint8 (W, window, window, 3) with W ≤ count (few images may not have that many), and where they are from.

    Raises:
        ExportError: no such folder, or no image in it.
        ImageError: an image can't be read; names it.
    """
    if directory is None:
        return _scene_windows(geometry, count)
    files = image_files(directory)
    from scclip_rt.images import load_image

    chosen = [files[i] for i in np.unique(np.linspace(0, len(files) - 1, count).round().astype(int))]
    each = math.ceil(count / len(chosen))
    windows = np.concatenate(
        [_spread(load_image(path), geometry, each, turn) for turn, path in enumerate(chosen)]
    )
    return windows[:count], f"{len(chosen)} images of {directory.name}"


def image_files(directory: Path) -> list[Path]:
    """Return the images of a folder, sorted by name.

    Raises:
        ExportError: no such folder, or no image in it.
    """
    if not directory.is_dir():
        raise ExportError(f"--calibration-images {directory}: no such folder")
    files = sorted(path for path in directory.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES)
    if not files:
        raise ExportError(
            f"--calibration-images {directory}: no image in it ({', '.join(sorted(IMAGE_SUFFIXES))})"
        )
    return files


def _scene_windows(geometry: Geometry, count: int) -> tuple[NDArray[np.uint8], str]:
    from scclip_rt.demo.scenes import render

    scenes = math.ceil(count / _PER_SCENE)
    windows = [
        # Neither the scenes the demo model is measured on, nor those its calibration was tuned on.
        _spread(render(seed, split="train", size=_SCENE_SIZE, count=3).image, geometry, _PER_SCENE, seed)
        for seed in range(scenes)
    ]
    return np.concatenate(windows)[:count], f"{scenes} rendered demo scenes"


def _spread(image: NDArray[np.uint8], geometry: Geometry, count: int, turn: int) -> NDArray[np.uint8]:
    """At most `count` windows of one image, evenly spread; `turn` varies where they start."""
    shape = resize_shape(
        *image.shape[:2],
        short_side=geometry.short_side,
        long_side=geometry.long_side,
        min_side=geometry.window,
    )
    tiling = Tiling.windows(*shape, window=geometry.window, stride=geometry.stride)
    cut = cut_windows(resize(image, shape), tiling)
    number = min(count, len(cut))
    places = (turn + np.arange(number) * len(cut) // number) % len(cut)
    return cut[places]
