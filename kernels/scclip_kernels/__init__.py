"""The operations of SC-CLIP (arXiv 2411.15869) as batched, traceable torch functions.

Every function works on a batch of windows, each window by itself: a batch equals its singles.
"""

from scclip_kernels.anomaly import anomaly_scores, num_outliers, outlier_indices, squared_distances
from scclip_kernels.attention import (
    Attention,
    calibrated_attention,
    merge_heads,
    scaled_attention,
    similarity_attention,
    split_heads,
)
from scclip_kernels.outlier_repair import neighbor_weights, repair
from scclip_kernels.similarity import aggregate, cosine_similarity, similarity_weights, unit_rows

__all__ = [
    "Attention",
    "aggregate",
    "anomaly_scores",
    "calibrated_attention",
    "cosine_similarity",
    "merge_heads",
    "neighbor_weights",
    "num_outliers",
    "outlier_indices",
    "repair",
    "scaled_attention",
    "similarity_attention",
    "similarity_weights",
    "split_heads",
    "squared_distances",
    "unit_rows",
]
