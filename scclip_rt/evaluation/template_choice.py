"""The templates that suit each class, chosen by unlabelled images: those with the least entropy.

FLOSS (arXiv 2504.10487) finds that for each class some templates alone beat the average of all, and that the entropy of
the predictions tells which. There each class's templates make a classifier of their own, and the classifiers are
joined; here they are averaged to one vector a name, so that nothing else changes and decoding costs the same.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from scclip_rt.errors import OptionError
from scclip_rt.evaluation.class_use import check_probabilities, patch_probabilities
from scclip_rt.segmenter import Segmenter
from scclip_rt.vocabulary.file import Vocabulary

if TYPE_CHECKING:
    from scclip_rt.image.load import ImageSource


def template_entropies(
    segmenter: Segmenter, single: NDArray[np.float32], images: Iterable[ImageSource]
) -> NDArray[np.float64]:
    """Mean entropy of the patches that each template gives to each class.

    Args:
        segmenter: with the classes; its method's scale holds.
        single: (T, Q, E), unit rows: every name in every template alone.
        images: without labels.

    Returns:
        (T, C), infinite where a template gives a class to no patch.

    Raises:
        ImageError: an image that can't be read.
        OptionError: no image, or a method whose maps are stretched: those have no probabilities.
    """
    check_probabilities(segmenter.bundle, "template_images")
    vocabulary = segmenter.vocabulary
    shape = (len(single), len(vocabulary))
    sums, counts = np.zeros(shape), np.zeros(shape, np.int64)
    found = False
    for image in images:
        found = True
        encoded = segmenter.encode(image)
        for template, embeddings in enumerate(single):
            probabilities = patch_probabilities(encoded, segmenter, embeddings)
            entropy = -(probabilities * np.log(np.maximum(probabilities, 1e-30))).sum(axis=1)
            given = vocabulary.query_class[probabilities.argmax(axis=1)]
            sums[template] += np.bincount(given, weights=entropy, minlength=shape[1])
            counts[template] += np.bincount(given, minlength=shape[1])
    if not found:
        raise OptionError("no images to choose templates by", field="template_images")
    return np.where(counts > 0, sums / np.maximum(counts, 1), np.inf)


def choose_templates(
    vocabulary: Vocabulary, single: NDArray[np.float32], entropies: NDArray[np.float64], count: int
) -> Vocabulary:
    """The vocabulary with every name averaged over the `count` templates of least entropy of its class.

    A class that no template gives to any patch keeps all templates.

    Args:
        vocabulary: of all templates.
        single: (T, Q, E), unit rows.
        entropies: (T, C) of `template_entropies`.
        count: templates for each class, at most T.

    Raises:
        OptionError: `count` is out of range.
    """
    if not 1 <= count <= len(single):
        raise OptionError(
            f"template_count must be from 1 to {len(single)}, the number of templates; got {count}",
            field="template_count",
        )
    rows = vocabulary.embeddings.copy()
    order = entropies.argsort(axis=0, kind="stable")[:count]
    for query, owner in enumerate(vocabulary.query_class):
        chosen = order[np.isfinite(entropies[order[:, owner], owner]), owner]
        if len(chosen):
            mean = single[chosen, query].astype(np.float64).sum(axis=0)
            rows[query] = mean / np.linalg.norm(mean)
    name = f"{vocabulary.templates}, the {count} of least entropy for each class"
    return replace(vocabulary, embeddings=rows, templates=name)
