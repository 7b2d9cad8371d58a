"""The windows that calibration looks at: of the user's photos, or of rendered scenes."""

import math
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from scclip_export.model.geometry import Geometry
from scclip_export.verification import image_files, image_windows

CALIBRATION_OPTION = "--calibration-images"
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
    files = image_files(directory, CALIBRATION_OPTION)
    from scclip_rt.image.load import load_image

    chosen = [files[i] for i in np.unique(np.linspace(0, len(files) - 1, count).round().astype(int))]
    each = math.ceil(count / len(chosen))
    windows = np.concatenate(
        [_spread(load_image(path), geometry, each, turn) for turn, path in enumerate(chosen)]
    )
    return windows[:count], f"{len(chosen)} images of {directory.name}"


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
    cut = image_windows(image, geometry)
    number = min(count, len(cut))
    places = (turn + np.arange(number) * len(cut) // number) % len(cut)
    return cut[places]
