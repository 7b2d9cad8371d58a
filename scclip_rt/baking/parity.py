"""Images for comparing two runtimes, as a baked file takes them, and the labels of what it gives."""

from importlib import resources
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scclip_rt.baking.options import BakeOptions
from scclip_rt.decode.plan import label_type
from scclip_rt.image.geometry import resize
from scclip_rt.image.load import load_image


def check_images(size: tuple[int, int]) -> list[NDArray[np.uint8]]:
    """The packaged scene in that size, and smooth noise."""
    scene = load_image(str(resources.files("scclip_rt").joinpath("demo/scene.png")))
    coarse = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    return [resize(scene, size), resize(coarse, size)]


def as_input(image: NDArray[np.uint8], options: BakeOptions) -> NDArray[Any]:
    """An image (H, W, 3) uint8 as the file takes it, as many times as its batch says."""
    batch = np.repeat(image[None], options.batch or 1, axis=0)
    if options.channels_last:
        return batch
    planes = batch.transpose(0, 3, 1, 2).astype(np.float32)
    return np.ascontiguousarray(planes / np.float32(255) if options.pixels == "unit" else planes)


def labels_of(output: NDArray[Any], options: BakeOptions, num_classes: int) -> NDArray[Any]:
    """The labels (H, W) of the first image of a result."""
    labels = output[0] if options.result == "labels" else output[0].argmax(axis=0)
    return np.asarray(labels, label_type(num_classes)[0])
