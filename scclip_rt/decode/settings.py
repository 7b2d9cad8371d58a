"""Settings of decoding: the bundle's numbers unless the user gives others, and the vocabulary's classes."""

from collections.abc import Hashable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Self

import numpy as np
from numpy.typing import NDArray

from scclip_rt.errors import OptionError
from scclip_rt.limits import in_range

if TYPE_CHECKING:
    from scclip_rt.bundle.manifest import DecodingSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeOptions:
    """From cosines to labels: the numbers of docs/bundle.md's `decoding`, and what else to compute.

    `area_threshold` 0 is off.
    """

    logit_scale: float
    prob_threshold: float
    area_threshold: float
    refine: Literal["pamr"] | None = None

    def __post_init__(self) -> None:
        for name in ("logit_scale", "prob_threshold", "area_threshold"):
            in_range(name, getattr(self, name))
        if self.refine not in (None, "pamr"):
            raise OptionError(f"unknown refinement {self.refine!r}; known: pamr", field="refine")

    @classmethod
    def over(
        cls,
        defaults: "DecodingSpec",
        *,
        logit_scale: float | None,
        prob_threshold: float | None,
        area_threshold: float | None,
        refine: Literal["pamr"] | None,
    ) -> Self:
        """The bundle's numbers, except for those that are given.

        Raises:
            OptionError: a number outside its range.
        """
        return cls(
            logit_scale=defaults.logit_scale if logit_scale is None else logit_scale,
            prob_threshold=defaults.prob_threshold if prob_threshold is None else prob_threshold,
            area_threshold=(defaults.area_threshold or 0.0) if area_threshold is None else area_threshold,
            refine=refine,
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class DecodeSettings:
    """From cosines to labels, all of it (METHOD §4): what the host's decode and the GPU's take.

    Attributes:
        query_class: (Q,) integers, class of each query.
        num_classes: more than any of them.
        logit_scale: factor on the cosines before the soft-max over queries; a class has its best query's
            probability.
        prob_threshold: pixels whose best probability is less become `background`, or unlabelled without one; 0 cuts
            nothing.
        area_threshold: foreground classes (without a background, all classes) with at most this share of all
            foreground pixels are removed; their pixels go to the best class that remains. 0 removes none.
        background: index of the background class, or None.
        with_confidence: also give each pixel's probability.

    Raises:
        ValueError: a class outside 0 .. num_classes - 1.
    """

    query_class: NDArray[np.integer]
    num_classes: int
    logit_scale: float = 40.0
    prob_threshold: float = 0.0
    area_threshold: float = 0.0
    background: int | None = None
    with_confidence: bool = False

    def __post_init__(self) -> None:
        classes = np.asarray(self.query_class)  # a list is taken too
        object.__setattr__(self, "query_class", classes)
        if classes.size and not 0 <= classes.min() <= classes.max() < self.num_classes:
            raise ValueError(f"query_class must lie in 0..{self.num_classes - 1}")

    @property
    def key(self) -> Hashable:
        """What tells these settings from others, for caches.

        The classes count by identity, as long as somebody keeps the array.
        """
        return (
            id(self.query_class),
            self.num_classes,
            self.logit_scale,
            self.prob_threshold,
            self.area_threshold,
            self.background,
            self.with_confidence,
        )

    @property
    def soft(self) -> bool:
        """Whether probabilities are needed."""
        return self.with_confidence or self.prob_threshold > 0
