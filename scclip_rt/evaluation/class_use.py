"""What a set of unlabelled images says about a class list: which classes they pick, and which they mix up."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from scclip_rt.bundle.bundle import Bundle
from scclip_rt.encoded import Encoded
from scclip_rt.errors import OptionError
from scclip_rt.segmenter import Segmenter
from scclip_rt.vocabulary.file import Vocabulary

if TYPE_CHECKING:
    from scclip_rt.image.load import ImageSource

CONTESTED = 0.5
"""A patch is contested where its second class has at least this share of the first one's probability."""
UNSURE = 0.5
"""A pixel is unsure below this probability."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ClassUse:
    """How a class list fares on images.

    Attributes:
        images: how many.
        shares: (C,) float64, part of all pixels that each class was given.
        seen: (C,) int64, images in which it was given to some pixel.
        best: (C,) float32, its highest probability in any patch of any image.
        patches: (C,) int64, patches whose first class it is.
        contested: (C, C) int64, patches whose two first classes are row and column, the second close behind.
        unsure: part of all pixels below `UNSURE`.
        unlabelled: part of all pixels without a class.
    """

    images: int
    shares: NDArray[np.float64]
    seen: NDArray[np.int64]
    best: NDArray[np.float32]
    patches: NDArray[np.int64]
    contested: NDArray[np.int64]
    unsure: float
    unlabelled: float

    def mixed(self, first: int, second: int) -> float:
        """How much two classes contest, of the patches where the rarer of them is first or close: from 0 to 1.

        As names of one class the two would not contest anything.
        """
        both = int(self.contested[first, second] + self.contested[second, first])
        rarer = min(
            int(self.patches[first] + self.contested[second, first]),
            int(self.patches[second] + self.contested[first, second]),
        )
        return both / max(rarer, 1)


def class_use(segmenter: Segmenter, images: Iterable[ImageSource]) -> ClassUse:
    """Segment images and count.

    Labels are those that the segmenter gives, thresholds included. Contested patches go by the probabilities of single
    patches, before they are resized.

    Raises:
        ImageError: an image that can't be read.
        OptionError: no image, or a method whose maps are stretched: those have no probabilities.
    """
    check_probabilities(segmenter.bundle, "images")
    vocabulary, number = segmenter.vocabulary, len(segmenter.vocabulary)
    pixels = np.zeros(number, np.int64)
    seen, patches = np.zeros(number, np.int64), np.zeros(number, np.int64)
    best, contested = np.zeros(number, np.float32), np.zeros((number, number), np.int64)
    count = total = unsure = 0
    for image in images:
        encoded = segmenter.encode(image)
        result = segmenter.decode(encoded, confidence=True)
        inside = result.labels != result.unlabelled
        here = np.bincount(result.labels[inside], minlength=number)
        pixels += here
        seen += here > 0
        total += result.labels.size
        if result.confidence is not None:
            unsure += int((result.confidence < UNSURE).sum())
        of_class = class_probabilities(
            patch_probabilities(encoded, segmenter, vocabulary.embeddings), vocabulary
        )
        np.maximum(best, of_class.max(axis=0), out=best)
        _count_contested(of_class, patches, contested)
        count += 1
    if not count:
        raise OptionError("no images to look at", field="images")
    return ClassUse(
        images=count,
        shares=pixels / total,
        seen=seen,
        best=best,
        patches=patches,
        contested=contested,
        unsure=unsure / total,
        unlabelled=1.0 - float(pixels.sum()) / total,
    )


def check_probabilities(bundle: Bundle, field: str) -> None:
    """Refuse a bundle whose patches have no probabilities.

    Args:
        bundle: whose method it is.
        field: the option that needs them.

    Raises:
        OptionError: the method's maps are stretched.
    """
    if bundle.decoding.maps != "cosine":
        raise OptionError(
            f"the maps of {bundle.name}'s method are stretched for each image, so its probabilities tell nothing of "
            "single classes. Take a bundle of another method",
            field=field,
        )


def patch_probabilities(
    encoded: Encoded, segmenter: Segmenter, embeddings: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Soft-max over queries (Q, E) in every patch of every window: (patches, Q) float32."""
    options = segmenter.options
    weighting = "none" if segmenter.vocabulary.has_empty_text else options.class_weighting
    text = encoded.text(embeddings, weighting)
    features = encoded.features.reshape(-1, encoded.features.shape[-1])
    logits = np.float32(options.logit_scale) * (features @ text.T)
    logits -= logits.max(axis=1, keepdims=True)
    np.exp(logits, out=logits)
    logits /= logits.sum(axis=1, keepdims=True)
    return logits


def class_probabilities(of_query: NDArray[np.float32], vocabulary: Vocabulary) -> NDArray[np.float32]:
    """A class has its best query's probability: (patches, Q) → (patches, C)."""
    found = np.zeros((len(vocabulary), len(of_query)), np.float32)
    np.maximum.at(found, vocabulary.query_class, of_query.T)
    return found.T


def _count_contested(
    of_class: NDArray[np.float32], patches: NDArray[np.int64], contested: NDArray[np.int64]
) -> None:
    first = of_class.argmax(axis=1)
    patches += np.bincount(first, minlength=len(patches))
    if len(patches) < 2:
        return
    rows = np.arange(len(of_class))
    rest = of_class.copy()
    rest[rows, first] = -1.0
    second = rest.argmax(axis=1)
    close = of_class[rows, second] >= CONTESTED * of_class[rows, first]
    np.add.at(contested, (first[close], second[close]), 1)
