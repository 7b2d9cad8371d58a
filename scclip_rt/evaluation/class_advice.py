"""What to change in a class list, from the texts alone or with what images say; the user decides."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from scclip_rt.evaluation.class_use import ClassUse
from scclip_rt.vocabulary.classes import Classes
from scclip_rt.vocabulary.file import Vocabulary

NEAR = 0.9
"""Cosine from which names of two classes count as near-duplicates."""
MIXED = 0.3
"""Part of the rarer class's patches from which two near classes count as mixed up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """Two classes by their nearest names.

    Attributes:
        first: index of a class; of the two the one that was given to more pixels, or the earlier one.
        second: index of the other.
        names: the nearest two of their names, in that order.
        cosine: of those names' embeddings.
        mixed: `ClassUse.mixed`; None without images.
    """

    first: int
    second: int
    names: tuple[str, str]
    cosine: float
    mixed: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Advice:
    """Changes to a class list.

    Attributes:
        merged: pairs to make one class: `second`'s names become synonyms of `first`.
        unused: indices of classes that no image picked.
        classes: the list with both done, in its order.
        background: index of the background in it, or None.
    """

    merged: tuple[Pair, ...]
    unused: tuple[int, ...]
    classes: Classes
    background: int | None


def nearest_pairs(vocabulary: Vocabulary, use: ClassUse | None = None) -> list[Pair]:
    """Every two classes, the nearest first.

    Args:
        vocabulary: the classes.
        use: what images say of them, or None.
    """
    cosines = vocabulary.embeddings @ vocabulary.embeddings.T
    of_class = [np.flatnonzero(vocabulary.query_class == index) for index in range(len(vocabulary))]
    pairs = []
    for first in range(len(of_class)):
        for second in range(first + 1, len(of_class)):
            a, b = first, second
            if use is not None and use.shares[second] > use.shares[first]:
                a, b = second, first
            block = cosines[np.ix_(of_class[a], of_class[b])]
            row, column = np.unravel_index(int(block.argmax()), block.shape)
            names = (
                vocabulary.queries[of_class[a][int(row)]],
                vocabulary.queries[of_class[b][int(column)]],
            )
            pairs.append(
                Pair(
                    first=a,
                    second=b,
                    names=names,
                    cosine=float(block[row, column]),
                    mixed=None if use is None else use.mixed(a, b),
                )
            )
    return sorted(pairs, key=lambda pair: -pair.cosine)


def advise(
    vocabulary: Vocabulary,
    pairs: Sequence[Pair],
    use: ClassUse | None = None,
    *,
    near: float = NEAR,
    mixed: float = MIXED,
) -> Advice:
    """Which classes to merge and which to leave out; the background is left as it is.

    Classes are merged whose names are near, and which images mix up where there are images; a class that no image
    picked is left out unless it is merged.

    Args:
        vocabulary: the classes.
        pairs: of `nearest_pairs`.
        use: what images say of them, or None.
        near: least cosine of a merge.
        mixed: least `Pair.mixed` of a merge, where there are images.
    """
    leader = list(range(len(vocabulary)))
    merged: list[Pair] = []
    for pair in pairs:
        a, b = _root(leader, pair.first), _root(leader, pair.second)
        confused = pair.mixed is None or pair.mixed >= mixed
        if pair.cosine < near or not confused or a == b or vocabulary.background in (a, b):
            continue
        merged.append(pair)
        leader[b] = a
    roots = [_root(leader, index) for index in range(len(vocabulary))]
    picked = {roots[i] for i in range(len(roots)) if use is None or use.seen[i] > 0}
    unused = tuple(
        index for index, root in enumerate(roots) if root not in picked and root != vocabulary.background
    )
    kept = [i for i, root in enumerate(roots) if root == i and i not in unused]
    return Advice(
        merged=tuple(merged),
        unused=unused,
        classes=tuple(
            _names(vocabulary, [i, *(j for j, root in enumerate(roots) if root == i != j)]) for i in kept
        ),
        background=kept.index(vocabulary.background) if vocabulary.background is not None else None,
    )


def _root(leader: list[int], index: int) -> int:
    while leader[index] != index:
        index = leader[index]
    return index


def _names(vocabulary: Vocabulary, classes: Sequence[int]) -> tuple[str, ...]:
    return tuple(
        query
        for index in classes
        for query, owner in zip(vocabulary.queries, vocabulary.query_class, strict=True)
        if owner == index
    )
