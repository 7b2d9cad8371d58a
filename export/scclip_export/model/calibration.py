"""SC-CLIP's calibration of the last block: its parameters with their published values, and the method itself.

Paper: arXiv 2411.15869, section 3. METHOD is docs/method.md, whose names the code keeps.
"""

import functools
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from scclip_export.model.blocks import LastBlock, SplitLastBlock
from scclip_export.model.dtypes import saturate
from scclip_export.model.parts import Positions
from scclip_kernels import num_outliers, outlier_indices
from scclip_kernels.operations import Operations, repair_positive
from scclip_kernels.wide import wide
from scclip_rt.limits import in_range

Source = Literal["published", "extrapolated", "checkpoint", "overridden"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationConfig:
    """The parameters of SC-CLIP (paper §3; the published values are those of Table "implementation details").

    Layers are block outputs counted from 0; `fusion_layers` is half open.
    """

    pre_layer: int  # upstream `pre`: similarity before the last block, and of the attention
    post_layer: int  # upstream `post`: similarity after the last block
    fusion_layers: tuple[int, int]  # upstream `multi`
    cls_residual: float  # upstream `res_cls`
    similarity_floor: float = 0.4  # upstream `beta`
    outlier_neighbors: int = 30  # upstream `lof_neighbors`
    outlier_fraction: float = 0.05  # upstream `contamination`; 0 switches outlier repair off
    source: Source = "published"

    positions: ClassVar[Positions] = "bicubic"
    pads: ClassVar[bool] = False
    class_weight: ClassVar[float] = 0.0

    def __post_init__(self) -> None:
        start, end = self.fusion_layers
        if min(self.pre_layer, self.post_layer, start) < 0 or not start < end:
            raise ValueError(
                f"layers must be >= 0 and fusion_layers A:B needs A < B; got pre_layer={self.pre_layer}, "
                f"post_layer={self.post_layer}, fusion_layers={start}:{end}"
            )
        for name in ("similarity_floor", "outlier_neighbors", "outlier_fraction", "cls_residual"):
            in_range(name, getattr(self, name))

    def check(self, *, layers: int, num_patches: int) -> None:
        """Check the parameters against a model.

        Args:
            layers: number of transformer blocks; the calibration reads the outputs of blocks 0 .. layers - 2.
            num_patches: patches of the smallest window, or of the smallest image that is encoded whole.

        Raises:
            ValueError: a layer does not exist, or there are too few patches for the neighbours or the outliers.
        """
        last = layers - 2
        highest = max(self.pre_layer, self.post_layer, self.fusion_layers[1] - 1)
        if highest > last:
            raise ValueError(
                f"the model has {layers} blocks, so layers run from 0 to {last} (the last block is calibrated, not "
                f"read); got layer {highest}"
            )
        if self.uses_neighbors and num_patches <= self.outlier_neighbors + 1:
            raise ValueError(
                f"{self.outlier_neighbors} outlier neighbours need windows and whole images of more than "
                f"{self.outlier_neighbors + 1} patches; the smallest have {num_patches}. "
                "Use a larger --window or fewer --outlier-neighbors"
            )
        if self.outliers(num_patches) > num_patches:
            raise ValueError(
                f"{self.outliers(num_patches)} outliers need windows and whole images of as many patches; the smallest "
                f"have {num_patches}. Use a larger --window or fewer --max-outliers"
            )

    @property
    def uses_neighbors(self) -> bool:
        """Whether outliers are found by the local outlier factor."""
        return True

    def outliers(self, num_patches: int) -> int:
        """Return m, the number of outliers among `num_patches`; at most so many where the method decides."""
        return num_outliers(num_patches, self.outlier_fraction)

    @property
    def finds_all(self) -> bool:
        """Whether there are always `outliers` of them."""
        return True

    def taps(self, layers: int) -> frozenset[int]:  # noqa: ARG002
        """No block's queries, keys or values are kept."""
        return frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class SfpConfig(CalibrationConfig):
    """The parameters of SFP, SC-CLIP's skeleton with other steps (docs/methods.md, family B).

    Attributes:
        detector: `attention`: patches that the class token attends to more than they to themselves; `norm`: the longest
            tokens; `lof`: SC-CLIP's.
        salience: a patch is salient when salience · cls_residual · M[0, p] > M[p, p], M the attention of block L-2.
        max_outliers: of `attention`, at most so many; of `norm`, so many.
    """

    detector: Literal["attention", "norm", "lof"] = "attention"
    salience: float = 5.0
    max_outliers: int = 10

    positions: ClassVar[Positions] = "bicubic-step"

    def __post_init__(self) -> None:
        CalibrationConfig.__post_init__(self)  # super() fails in a class with slots (Python 3.11)
        in_range("salience", self.salience)
        in_range("max_outliers", self.max_outliers)

    @property
    def uses_neighbors(self) -> bool:
        """Whether outliers are found by the local outlier factor."""
        return self.detector == "lof"

    @property
    def finds_all(self) -> bool:
        """Whether there are always `outliers` of them."""
        return self.detector != "attention"

    def outliers(self, num_patches: int) -> int:
        """Return the most outliers among `num_patches`."""
        return CalibrationConfig.outliers(self, num_patches) if self.uses_neighbors else self.max_outliers


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


def calibrate(
    config: CalibrationConfig,
    hidden: list[Tensor],
    *,
    last: LastBlock | SplitLastBlock,
    columns: int,
    operations: Operations,
    salience: tuple[Tensor, Tensor] | None = None,
    with_outliers: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """The last block of SC-CLIP (METHOD §2): repair outliers, pre-adjust, attend, fuse levels, post-adjust.

    Args:
        config: the parameters.
        hidden: the outputs F_0 .. F_{L-2}, each (B, 1 + N, D).
        last: the last block.
        columns: of the patch grid.
        operations: plain torch, Triton kernels, or nodes for an engine's plug-ins.
        salience: what SFP's detector by attention goes by, (B, N) each: `Trunk.salience` of the encoder.
        with_outliers: whether to return the outliers.

    Returns:
        Patch tokens (B, N, D) before ln_post, and the outliers (B, m) if they are asked for.
    """
    count = hidden[-1].shape[1] - 1
    # narrow, not [:, 1:]: that one is traced as two Slices.
    class_token, patches = hidden[-1].narrow(1, 0, 1), hidden[-1].narrow(1, 1, count)
    guide = hidden[config.pre_layer].narrow(1, 1, count)
    outliers = None
    if config.outlier_fraction > 0:  # paper §3.2: anomaly detection and outlier repair
        num = config.outliers(count)
        scores = outlier_scores(config, patches, salience, operations)
        outliers = _found(config, scores, num) if with_outliers else None
        repair = operations.repair_outliers if config.finds_all else repair_positive
        patches, guide = repair(patches, guide, scores, num_outliers=num, columns=columns)
    similarity = operations.similarity(guide)  # paper §3.3: S, of mid-level features

    def average(x: Tensor, by: Any) -> Tensor:
        narrow = saturate(x, last.policy.aggregation)
        return operations.aggregate(narrow, by, config.similarity_floor).to(last.policy.residual)

    adjusted = average(patches, similarity)  # pre-adjustment
    levels = functools.reduce(torch.add, hidden[slice(*config.fusion_layers)])  # multi-level fusion: R
    attended = last(adjusted, levels.narrow(1, 1, count), similarity, operations)
    residual = config.cls_residual * (class_token + levels.narrow(1, 0, 1))
    after = operations.similarity(hidden[config.post_layer].narrow(1, 1, count))
    return average(attended + residual, after), outliers  # post-adjustment


def outlier_scores(
    config: CalibrationConfig, patches: Tensor, salience: tuple[Tensor, Tensor] | None, operations: Operations
) -> Tensor:
    """How far each patch (B, N, D) stands out, (B, N) float32; the detector by attention gives 0 to sound ones."""
    if config.uses_neighbors or not isinstance(config, SfpConfig):
        return operations.anomaly_scores(patches, config.outlier_neighbors)
    if config.detector == "norm":
        return torch.linalg.vector_norm(wide(patches), dim=-1)
    if salience is None:
        raise ValueError("the detector by attention needs the salience of block L-2")
    to_class, to_itself = salience
    salient = config.salience * config.cls_residual * to_class > to_itself
    return torch.where(salient, to_class, 0.0)


def _found(config: CalibrationConfig, scores: Tensor, count: int) -> Tensor:
    """Indices (B, count) of the outliers, -1 where a detector found fewer."""
    if config.finds_all:
        return outlier_indices(scores, count)
    best = torch.topk(scores, count, dim=-1, largest=True, sorted=True)
    return torch.where(best.values > 0.0, best.indices, -1)
