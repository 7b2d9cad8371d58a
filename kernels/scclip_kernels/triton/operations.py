"""All operations that Triton computes, by their names: what a model takes in place of plain torch's."""

from scclip_kernels.triton.anomaly import anomaly_scores
from scclip_kernels.triton.attention import calibrated_attention
from scclip_kernels.triton.decode import AxisTables, decode
from scclip_kernels.triton.finite import is_broken
from scclip_kernels.triton.linear import linear_quick_gelu
from scclip_kernels.triton.outlier_repair import repair_outliers
from scclip_kernels.triton.residual_norm import add_layer_norm
from scclip_kernels.triton.resizing import resize_windows
from scclip_kernels.triton.similarity import Similarity, aggregate, similarity

__all__ = [
    "AxisTables",
    "Similarity",
    "add_layer_norm",
    "aggregate",
    "anomaly_scores",
    "calibrated_attention",
    "decode",
    "is_broken",
    "linear_quick_gelu",
    "repair_outliers",
    "resize_windows",
    "similarity",
]
