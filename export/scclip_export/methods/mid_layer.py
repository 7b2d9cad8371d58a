"""Methods whose last block reads earlier blocks: SC-CLIP and SFP (docs/methods.md, family B)."""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Literal

from scclip_export.methods.base import Defaults, Method, MethodOptions, option, scaled

if TYPE_CHECKING:  # with torch, which the help does without
    from scclip_export.model.calibration import CalibrationConfig, SfpConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class ScclipOptions(MethodOptions):
    """SC-CLIP (arXiv 2411.15869); None leaves a number to the paper, or to the checkpoint's metadata."""

    pre_layer: int | None = option(None, "block (from 0) whose similarities calibrate attention", metavar="I")
    post_layer: int | None = option(None, "block whose similarities smooth the result", metavar="I")
    fusion_layers: tuple[int, int] | None = option(None, "blocks summed into it, B exclusive", metavar="A:B")
    cls_residual: float | None = option(None, "weight of the class token (upstream res_cls)")
    similarity_floor: float | None = option(None, "least similarity kept (upstream beta; 0.4)")
    outlier_neighbors: int | None = option(None, "neighbours of the outlier factor (30)", metavar="K")
    outlier_fraction: float | None = option(None, "share of anomalous patches (0.05; 0: off)")
    stored: tuple[tuple[str, Any], ...] = ()  # what the checkpoint's metadata says

    def parts(self, *, layers: int, patch_size: int) -> "CalibrationConfig":
        """The paper's numbers, then the checkpoint's, then the user's."""
        from scclip_export.model.calibration import calibration_for

        base = calibration_for(layers, patch_size)
        if self.stored:
            try:
                base = replace(base, **dict(self.stored), source="checkpoint")
            except TypeError as error:
                raise ValueError(
                    f"the calibration in the checkpoint's metadata is not SC-CLIP's ({error})"
                ) from error
        given = _given(self)
        return replace(base, **given, source="overridden") if given else base

    def defaults(self, *, layers: int, patch_size: int) -> Defaults:  # noqa: ARG002
        """Its presets are the runtime's own."""
        return Defaults(whole_image="nearest")


@dataclass(frozen=True, slots=True, kw_only=True)
class SfpOptions(MethodOptions):
    """SFP (ICCV 2025), SC-CLIP's descendant: ViT-B/16's taps whatever the depth, as in its code.

    Models too shallow for them have them scaled.
    """

    detector: Literal["attention", "norm", "lof"] = option(
        "attention",
        "of outliers: attention: patches that the class token attends to; norm: the longest tokens; lof: SC-CLIP's",
        choices=("attention", "norm", "lof"),
    )
    salience: float = option(5.0, "factor of the detector by attention (upstream res_scale)")
    max_outliers: int = option(10, "most outliers of a window", metavar="K")
    cls_residual: float = option(0.3, "weight of the class token (upstream res_cls); the detector's as well")
    pre_layer: int | None = option(
        None, "block (from 0) whose similarities calibrate attention (8)", metavar="I"
    )
    post_layer: int | None = option(None, "block whose similarities smooth the result (3)", metavar="I")
    fusion_layers: tuple[int, int] | None = option(
        None, "blocks summed into it, B exclusive (3:10)", metavar="A:B"
    )
    similarity_floor: float = option(0.4, "least similarity kept (upstream beta)")

    def idle(self) -> Mapping[str, str]:
        """What only other detectors look at."""
        why = f"--detector {self.detector} does not look at it"
        unread = {"attention": (), "norm": ("salience",), "lof": ("salience", "max_outliers")}[self.detector]
        return dict.fromkeys(unread, why)

    def parts(self, *, layers: int, patch_size: int) -> "SfpConfig":
        """Its fixed numbers, or the user's."""
        from scclip_export.model.calibration import SfpConfig

        if layers < 2:
            raise ValueError("SFP reads blocks before the last; the model has 1 block")
        published = layers == 12 and patch_size == 16
        first, guide, last = (scaled(block, layers, needs=11) for block in (3, 8, 9))
        taps: dict[str, Any] = {"pre_layer": guide, "post_layer": first, "fusion_layers": (first, last + 1)}
        config = SfpConfig(**taps | _given(self), source="published" if published else "extrapolated")
        changed = any(getattr(self, item.name) != item.default for item in fields(self))
        return replace(config, source="overridden") if changed else config

    def defaults(self, *, layers: int, patch_size: int) -> Defaults:  # noqa: ARG002
        """Its configurations', and its comments' for ViT-L/14."""
        large = layers >= 24
        return Defaults(
            benchmarks={
                "voc21": {
                    "logit_scale": 50.0,
                    "prob_threshold": 0.2 if large else 0.15,
                    "area_threshold": 0.1,
                },
                "context60": {"prob_threshold": 0.15},
                "coco-object": {"logit_scale": 55.0, "prob_threshold": 0.25 if large else 0.35},
                "cityscapes": {"short_side": 560},
                "ade20k": {"short_side": 384},
            }
        )


def _given(options: MethodOptions) -> dict[str, Any]:
    return {
        item.name: value
        for item in fields(options)
        if item.metadata and (value := getattr(options, item.name)) is not None
    }


METHODS = (
    Method(name="scclip", title="SC-CLIP (default)", options=ScclipOptions),
    Method(name="sfp", title="SFP: SC-CLIP with another outlier detector and attention", options=SfpOptions),
)
