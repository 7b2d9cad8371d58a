"""The calibration with the Triton kernels: `CalibratedEncoder.calibrate` step by step, S never written out."""

import functools
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from scclip_export.precision import saturate
from scclip_kernels import outlier_indices

if TYPE_CHECKING:
    from scclip_export.encoder import CalibratedEncoder


def calibrate_fused(
    encoder: "CalibratedEncoder", hidden: list[Tensor], rows: int, columns: int
) -> tuple[Tensor, Tensor | None]:
    """SC-CLIP proper (paper §3.2 and §3.3) on a GPU.

    Args:
        encoder: whose parameters and last block are used.
        hidden: the outputs F_0 .. F_{L-2}, each (B, 1 + N, D).
        rows: of the patch grid.
        columns: of the patch grid.

    Returns:
        Patch tokens (B, N, D) before ln_post, and the outliers (B, m) if they are asked for.
    """
    from scclip_kernels.fused import Similarity, aggregate, anomaly_scores, resolve_outliers, similarity

    config, policy, count = encoder.calibration, encoder.policy, rows * columns
    class_token, patches = hidden[-1][:, :1], hidden[-1][:, 1:]
    guide = hidden[config.pre_layer][:, 1:]
    outliers = None
    if config.outlier_fraction > 0:
        scores = anomaly_scores(patches, config.outlier_neighbors)
        num_outliers = config.outliers(count)
        outliers = outlier_indices(scores, num_outliers) if encoder.debug_outputs else None
        patches, guide = resolve_outliers(patches, guide, scores, num_outliers=num_outliers, columns=columns)

    def average(x: Tensor, by: Similarity) -> Tensor:
        narrow = saturate(x, policy.aggregation)
        return aggregate(narrow, by, config.similarity_floor).to(policy.residual)

    mid = similarity(guide)
    adjusted = average(patches, mid)
    start, end = config.fusion_layers
    levels = functools.reduce(torch.add, hidden[start:end])
    attended = encoder.last(adjusted, levels[:, 1:], mid)
    residual = config.cls_residual * (class_token + levels[:, :1])
    return average(attended + residual, similarity(hidden[config.post_layer][:, 1:])), outliers
