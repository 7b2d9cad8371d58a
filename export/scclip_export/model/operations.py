"""The calibration on fused operations: `CalibratedEncoder.calibrate` step by step, S never written out."""

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from scclip_export.model.dtypes import saturate
from scclip_kernels import outlier_indices
from scclip_kernels.fastest import use_triton

if TYPE_CHECKING:
    from scclip_export.model.encoder import CalibratedEncoder

# Keys and values (passes, B, N, D) of the last block and its number of heads to their sum (B, N, D).
FusedAttention = Callable[[Tensor, Tensor, int], Tensor]


class Operations(Protocol):
    """Functions of `scclip_kernels.triton`, or others of the same names: `similarity` makes what two of them take."""

    @property
    def anomaly_scores(self) -> Callable[..., Tensor]: ...  # noqa: D102
    @property
    def resolve_outliers(self) -> Callable[..., tuple[Tensor, Tensor]]: ...  # noqa: D102
    @property
    def similarity(self) -> Callable[[Tensor], Any]: ...  # noqa: D102
    @property
    def aggregate(self) -> Callable[..., Tensor]: ...  # noqa: D102
    @property
    def calibrated_attention(self) -> Callable[..., Tensor]: ...  # noqa: D102


def fused_operations(encoder: "CalibratedEncoder", tokens: Tensor, count: int) -> Operations | None:
    """The operations that an encoder runs its calibration on; None for plain torch.

    Args:
        encoder: its `operations`, else what its `kernels` choose.
        tokens: (B, 1 + N, D); their device and B count.
        count: N.
    """
    if encoder.operations is not None or encoder.kernels == "reference":
        return encoder.operations
    dtype, windows = encoder.policy.attention, tokens.shape[0]
    if not use_triton(
        encoder.kernels, device=tokens.device, dtype=dtype, num_patches=count, num_windows=windows
    ):
        return None
    from scclip_kernels.triton import operations

    return operations


def calibrate_fused(
    encoder: "CalibratedEncoder", hidden: list[Tensor], rows: int, columns: int, operations: Operations
) -> tuple[Tensor, Tensor | None]:
    """SC-CLIP proper (paper §3.2 and §3.3).

    Args:
        encoder: whose parameters and last block are used.
        hidden: the outputs F_0 .. F_{L-2}, each (B, 1 + N, D).
        rows: of the patch grid.
        columns: of the patch grid.
        operations: what computes it: Triton kernels, or nodes for an engine's plug-ins.

    Returns:
        Patch tokens (B, N, D) before ln_post, and the outliers (B, m) if they are asked for.
    """
    config, policy, count = encoder.calibration, encoder.policy, rows * columns
    # narrow, not [:, 1:]: that one is traced as two Slices.
    class_token, patches = hidden[-1].narrow(1, 0, 1), hidden[-1].narrow(1, 1, count)
    guide = hidden[config.pre_layer].narrow(1, 1, count)
    outliers = None
    if config.outlier_fraction > 0:
        scores = operations.anomaly_scores(patches, config.outlier_neighbors)
        num_outliers = config.outliers(count)
        outliers = outlier_indices(scores, num_outliers) if encoder.debug_outputs else None
        patches, guide = operations.resolve_outliers(
            patches, guide, scores, num_outliers=num_outliers, columns=columns
        )

    def average(x: Tensor, by: Any) -> Tensor:
        narrow = saturate(x, policy.aggregation)
        return operations.aggregate(narrow, by, config.similarity_floor).to(policy.residual)

    mid = operations.similarity(guide)
    adjusted = average(patches, mid)

    def attend(key: Tensor, value: Tensor, num_heads: int) -> Tensor:
        return operations.calibrated_attention(key, value, mid, num_heads)

    start, end = config.fusion_layers
    levels = functools.reduce(torch.add, hidden[start:end])
    attended = encoder.last(adjusted, levels.narrow(1, 1, count), attend)
    residual = config.cls_residual * (class_token + levels.narrow(1, 0, 1))
    after = operations.similarity(hidden[config.post_layer].narrow(1, 1, count))
    return average(attended + residual, after), outliers
