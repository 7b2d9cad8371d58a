"""Options of decoding: the bundle's numbers unless the user gives others."""

from dataclasses import dataclass
from typing import Literal, Self

from scclip_rt.bundle.manifest import DecodingSpec
from scclip_rt.errors import OptionError


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
        if not 0 < self.logit_scale < float("inf"):
            raise OptionError(f"logit_scale must be above 0; got {self.logit_scale}", field="logit_scale")
        for name in ("prob_threshold", "area_threshold"):
            if not 0 <= getattr(self, name) <= 1:
                raise OptionError(f"{name} must be from 0 to 1; got {getattr(self, name)}", field=name)
        if self.refine not in (None, "pamr"):
            raise OptionError(f"unknown refinement {self.refine!r}; known: pamr", field="refine")

    @classmethod
    def over(
        cls,
        defaults: DecodingSpec,
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
