"""What an export is asked to do: calibration, geometry, and their published values."""

from dataclasses import dataclass, replace
from typing import Literal

from scclip_kernels import num_outliers

Method = Literal["scclip", "maskclip", "none"]
Source = Literal["published", "extrapolated", "checkpoint", "overridden"]

# In 0..255 units, as the reference preprocessing states them (METHOD: CLIP's mean and std times 255).
CLIP_MEAN = (122.771, 116.746, 104.094)
CLIP_STD = (68.501, 66.632, 70.323)


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationConfig:
    """The parameters of SC-CLIP (paper §3; the published values are those of Table "implementation details").

    Layers are block outputs counted from 0; `fusion_layers` is half open.
    """

    pre_layer: int  # upstream `pre`: affinity before the last block, and the attention weights
    post_layer: int  # upstream `post`: affinity after the last block
    fusion_layers: tuple[int, int]  # upstream `multi`
    cls_residual: float  # upstream `res_cls`
    similarity_floor: float = 0.4  # upstream `beta`
    outlier_neighbors: int = 30  # upstream `lof_neighbors`
    outlier_fraction: float = 0.05  # upstream `contamination`; 0 switches anomaly resolution off
    source: Source = "published"

    def __post_init__(self) -> None:
        start, end = self.fusion_layers
        if min(self.pre_layer, self.post_layer, start) < 0 or not start < end:
            raise ValueError(
                f"layers must be >= 0 and fusion_layers A:B needs A < B; got pre_layer={self.pre_layer}, "
                f"post_layer={self.post_layer}, fusion_layers={start}:{end}"
            )
        if not -1.0 <= self.similarity_floor <= 1.0:
            raise ValueError(f"similarity_floor must be in [-1, 1]; got {self.similarity_floor}")
        if self.outlier_neighbors < 1:
            raise ValueError(f"outlier_neighbors must be at least 1; got {self.outlier_neighbors}")
        if not 0.0 <= self.outlier_fraction < 1.0:
            raise ValueError(f"outlier_fraction must be in [0, 1); got {self.outlier_fraction}")
        if not -100.0 < self.cls_residual < 100.0:
            raise ValueError(f"cls_residual must be a finite number of modest size; got {self.cls_residual}")

    def check(self, *, layers: int, num_patches: int) -> None:
        """Check the parameters against a model.

        Args:
            layers: number of transformer blocks; the calibration reads the outputs of blocks 0 .. layers - 2.
            num_patches: patches of the smallest window.

        Raises:
            ValueError: a layer does not exist, or there are too few patches for the neighbours.
        """
        last = layers - 2
        highest = max(self.pre_layer, self.post_layer, self.fusion_layers[1] - 1)
        if highest > last:
            raise ValueError(
                f"the model has {layers} blocks, so layers run from 0 to {last} (the last block is calibrated, not "
                f"read); got layer {highest}"
            )
        if num_patches <= self.outlier_neighbors + 1:
            raise ValueError(
                f"{self.outlier_neighbors} outlier neighbours need windows of more than "
                f"{self.outlier_neighbors + 1} patches; this window has {num_patches}. "
                "Use a larger --window or fewer --outlier-neighbors"
            )

    def outliers(self, num_patches: int) -> int:
        """Return m, the number of outliers among `num_patches`."""
        return num_outliers(num_patches, self.outlier_fraction)


_BASE = CalibrationConfig(pre_layer=8, post_layer=3, fusion_layers=(3, 10), cls_residual=0.3)
_LARGE = CalibrationConfig(pre_layer=16, post_layer=6, fusion_layers=(8, 19), cls_residual=0.1)


def calibration_for(layers: int, patch_size: int) -> CalibrationConfig:
    """Return the calibration of a depth: published for ViT-B/16 and ViT-L/14, else extrapolated.

    Another depth scales ViT-L/14's layers; twelve blocks with another patch keep ViT-B/16's.

    Raises:
        ValueError: fewer than four blocks, too few to have a mid-layer at all.
    """
    if layers < 4:
        raise ValueError(f"SC-CLIP needs at least 4 transformer blocks; the model has {layers}")
    if layers == 12:
        return _BASE if patch_size == 16 else replace(_BASE, source="extrapolated")
    if layers == 24:
        return _LARGE if patch_size == 14 else replace(_LARGE, source="extrapolated")

    def scaled(layer: int) -> int:
        return min(round(layer * layers / 24), layers - 2)

    start = scaled(_LARGE.fusion_layers[0])
    return replace(
        _LARGE,
        pre_layer=scaled(_LARGE.pre_layer),
        post_layer=scaled(_LARGE.post_layer),
        fusion_layers=(start, max(scaled(_LARGE.fusion_layers[1]), start + 1)),
        source="extrapolated",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Geometry:
    """How an image becomes windows, in pixels of the resized image (METHOD §1)."""

    window: int
    stride: int
    short_side: int = 336
    long_side: int = 2048

    def __post_init__(self) -> None:
        if not 0 < self.stride <= self.window:
            raise ValueError(
                f"--stride must be in 1..window, or pixels between windows are never seen; got stride {self.stride} "
                f"for window {self.window}"
            )
        if not 0 < self.short_side <= self.long_side:
            raise ValueError(f"--short-side must be in 1..{self.long_side}; got {self.short_side}")

    def check(self, patch_size: int) -> None:
        """Raise ValueError unless the window is a multiple of the patch."""
        if self.window % patch_size:
            near = max(self.window // patch_size, 1) * patch_size
            raise ValueError(
                f"--window must be a multiple of the patch ({patch_size} pixels); got {self.window}, "
                f"the nearest below is {near}"
            )
