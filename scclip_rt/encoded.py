"""What the encoder made of one image."""

from dataclasses import dataclass
from typing import Literal, Self

import numpy as np
from numpy.typing import NDArray

from scclip_rt.image.geometry import Tiling
from scclip_rt.image.preparation import PreparedImage


def class_weights(class_features: NDArray[np.float32], text: NDArray[np.float32]) -> NDArray[np.float32]:
    """CLIP Surgery's weight per query: softmax over queries of 2 c·t, divided by its mean.

    Args:
        class_features: (windows, E) float32, unit rows; c is their mean, made a unit vector.
        text: (Q, E) float32, unit rows.

    Returns:
        (Q,) float32, with mean 1.
    """
    mean = class_features.mean(axis=0)
    scores = 2.0 * (text @ (mean / max(float(np.linalg.norm(mean)), 1e-12)))
    weights = np.exp(scores - scores.max())
    return np.asarray(weights / weights.mean(), np.float32)


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoded:
    """An image's dense features: all that a change of vocabulary needs.

    Attributes:
        features: (windows, N, E) float32, mostly unit rows; N = rows · columns patches of a window, row by row.
        tiling: where each window lies in the resized image.
        grid: (rows, columns) of patches in a window.
        image: (H, W, 3) uint8, the image as loaded.
        resized: (h, w, 3) uint8, what the tiling refers to.
        class_features: (windows, E) float32, the class token's, where the method gives them (docs/bundle.md, "Class
            weights"); else None.
        name: the path it was loaded from; None for an image from memory.
    """

    features: NDArray[np.float32]
    tiling: Tiling
    grid: tuple[int, int]
    image: NDArray[np.uint8]
    resized: NDArray[np.uint8]
    name: str | None
    class_features: NDArray[np.float32] | None = None

    def text(
        self, embeddings: NDArray[np.float32], weighting: Literal["none", "surgery"]
    ) -> NDArray[np.float32]:
        """The queries (Q, E) as this image is compared with them: times their weights where the method has some."""
        if weighting == "none" or self.class_features is None:
            return embeddings
        return embeddings * class_weights(self.class_features, embeddings)[:, None]

    @classmethod
    def of(cls, prepared: PreparedImage, features: NDArray[np.float32]) -> Self:
        """Join a prepared image with its features (windows, N, E), or (windows, 1 + N, E) with a class row."""
        class_features = None
        if features.shape[1] == prepared.grid[0] * prepared.grid[1] + 1:
            class_features, features = features[:, 0], features[:, 1:]
        return cls(
            features=features,
            class_features=class_features,
            tiling=prepared.tiling,
            grid=prepared.grid,
            image=prepared.image,
            resized=prepared.resized,
            name=prepared.name,
        )
