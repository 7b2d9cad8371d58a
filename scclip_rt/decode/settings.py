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

    `area_threshold` 0 is off. `maps`, `class_weighting` and `rest_class` are the method's: docs/bundle.md, "Format 2".
    """

    logit_scale: float
    prob_threshold: float
    area_threshold: float
    refine: Literal["pamr"] | None = None
    maps: Literal["cosine", "minmax"] = "cosine"
    class_weighting: Literal["none", "surgery"] = "none"
    rest_class: int | None = None
    class_threshold: float = 0.0

    def __post_init__(self) -> None:
        for name in ("logit_scale", "prob_threshold", "area_threshold", "class_threshold"):
            in_range(name, getattr(self, name))
        if self.refine not in (None, "pamr"):
            raise OptionError(f"unknown refinement {self.refine!r}; known: pamr", field="refine")
        if self.refine is not None and self.maps != "cosine":
            raise OptionError("PAMR and stretched maps exclude each other; use refine 'none'", field="refine")

    @property
    def on_device(self) -> bool:
        """Whether each pixel is decided without a look at the whole image, the area rule apart: what GPUs decode."""
        return self.maps == "cosine" and self.class_weighting == "none" and self.class_threshold == 0

    @classmethod
    def over(
        cls,
        defaults: "DecodingSpec",
        *,
        logit_scale: float | None,
        prob_threshold: float | None,
        area_threshold: float | None,
        refine: Literal["pamr", "none"] | None,
        rest_class: int | None = None,
        class_threshold: float | None = None,
    ) -> Self:
        """The bundle's numbers, except for those that are given.

        Raises:
            OptionError: a number outside its range.
        """
        return cls(
            logit_scale=defaults.logit_scale if logit_scale is None else logit_scale,
            prob_threshold=defaults.prob_threshold if prob_threshold is None else prob_threshold,
            area_threshold=(defaults.area_threshold or 0.0) if area_threshold is None else area_threshold,
            refine=defaults.refine if refine is None else None if refine == "none" else refine,
            maps=defaults.maps,
            class_weighting=defaults.class_weighting,
            rest_class=defaults.rest_class if rest_class is None else rest_class,
            class_threshold=class_threshold or 0.0,
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
        maps: `minmax` stretches each query's map to 0..1 over the image before the scale.
        class_threshold: foreground classes whose best pixel in the image has less than this probability are removed, as
            those of a small area; 0 removes none.

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
    maps: Literal["cosine", "minmax"] = "cosine"
    class_threshold: float = 0.0

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
            self.maps,
            self.class_threshold,
        )

    @property
    def drops(self) -> bool:
        """Whether whole classes may be removed."""
        return self.area_threshold > 0 or self.class_threshold > 0

    @property
    def soft(self) -> bool:
        """Whether probabilities are needed."""
        return self.with_confidence or self.prob_threshold > 0 or self.class_threshold > 0
