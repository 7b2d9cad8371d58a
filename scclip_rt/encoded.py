"""What the encoder made of one image."""

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from scclip_rt.image.geometry import Tiling
from scclip_rt.image.preparation import PreparedImage


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoded:
    """An image's dense features: all that a change of vocabulary needs.

    Attributes:
        features: (windows, N, E) float32, unit rows; N = rows · columns patches of a window, row by row.
        tiling: where each window lies in the resized image.
        grid: (rows, columns) of patches in a window.
        image: (H, W, 3) uint8, the image as loaded.
        resized: (h, w, 3) uint8, what the tiling refers to.
        name: the path it was loaded from; None for an image from memory.
    """

    features: NDArray[np.float32]
    tiling: Tiling
    grid: tuple[int, int]
    image: NDArray[np.uint8]
    resized: NDArray[np.uint8]
    name: str | None

    @classmethod
    def of(cls, prepared: PreparedImage, features: NDArray[np.float32]) -> Self:
        """Join a prepared image with its features (windows, N, E)."""
        return cls(
            features=features,
            tiling=prepared.tiling,
            grid=prepared.grid,
            image=prepared.image,
            resized=prepared.resized,
            name=prepared.name,
        )
