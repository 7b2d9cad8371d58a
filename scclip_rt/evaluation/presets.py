"""The settings that the published benchmarks are run with, apart for the two backbones they were tuned on."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from scclip_rt.bundle.manifest import ModelSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """From image to labels; None leaves a number to the bundle.

    Attributes:
        short_side: the short side that images are resized to, pixels.
        logit_scale: factor on cosines before the soft-max.
        prob_threshold: probability under which a pixel becomes background or unlabelled.
        area_threshold: share of the foreground up to which a class is dropped; 0 is off.
    """

    short_side: int | None = None
    logit_scale: float | None = None
    prob_threshold: float | None = None
    area_threshold: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Preset:
    """A benchmark's settings for every backbone.

    Attributes:
        short_side: pixels.
        logit_scale: factor on cosines.
        prob_threshold: (for ViT-B/16, for ViT-L/14).
        area_threshold: share of the foreground.
    """

    short_side: int | None = None
    logit_scale: float | None = None
    prob_threshold: tuple[float, float] | None = None
    area_threshold: float | None = None

    def settings(self, model: ModelSpec) -> Settings:
        """The settings for a model: L/14's for whatever is as deep or as wide, else B/16's."""
        threshold = None
        if self.prob_threshold is not None:
            threshold = self.prob_threshold[is_large(model)]
        return Settings(
            short_side=self.short_side,
            logit_scale=self.logit_scale,
            prob_threshold=threshold,
            area_threshold=self.area_threshold,
        )


def is_large(model: ModelSpec) -> bool:
    """Whether thresholds tuned on ViT-L/14 (24 blocks, 1024 wide) fit a model better than those for B/16."""
    return model.layers >= 24 or model.width >= 1024


published = partial(Preset, short_side=336, logit_scale=40.0, prob_threshold=(0.0, 0.0), area_threshold=0.0)
"""A preset that leaves nothing to the bundle; the defaults are those of most benchmarks."""
