"""Anomaly resolution: outlier patches become the mean of their sound neighbours (SC-CLIP §3.2)."""

import torch
from torch import Tensor


def neighbor_weights(outliers: Tensor, rows: int, columns: int) -> Tensor:
    """Return, for every outlier, the weights of the patches that replace it.

    A patch counts if it is one of the eight neighbours inside the grid and not an outlier itself, each with the same
    weight. An outlier without such a neighbour gets weight 1 on itself and so stays as it is.

    The official code divides the index by the number of rows, which is wrong off the square; here it is columns.

    Args:
        outliers: (B, m) int64 patch indices, row by row.
        rows: rows of the patch grid.
        columns: columns of the patch grid.

    Returns:
        (B, m, rows * columns) float32; each row sums to 1.
    """
    index = torch.arange(rows * columns, device=outliers.device)
    outlier = outliers.unsqueeze(-1)
    itself = outlier == index
    is_outlier = itself.any(dim=1, keepdim=True)
    outlier_row, row = outlier // columns, index // columns
    row_distance = (outlier_row - row).abs()
    # Not `%`: with a symbolic number of columns torch.onnx (torch 2.14) can't translate remainder.Scalar.
    column_distance = ((outlier - outlier_row * columns) - (index - row * columns)).abs()
    adjacent = (torch.maximum(row_distance, column_distance) <= 1) & ~is_outlier
    has_neighbor = adjacent.any(dim=-1, keepdim=True)
    # Cast first: ONNX Runtime's CPU provider has no Where on bool (1.32).
    weights = torch.where(has_neighbor, adjacent.float(), itself.float())
    return weights / weights.sum(dim=-1, keepdim=True)


def resolve(features: Tensor, outliers: Tensor, weights: Tensor) -> Tensor:
    """Replace outlier patches: y_o = sum_j w_oj x_j; every other patch is copied.

    Args:
        features: (B, N, D), any float dtype.
        outliers: (B, m) int64.
        weights: (B, m, N) float32, see `neighbor_weights`.

    Returns:
        (B, N, D), dtype of `features`.
    """
    replacement = weights.to(features.dtype) @ features
    index = outliers.unsqueeze(-1).expand(-1, -1, features.shape[-1])
    return features.scatter(1, index, replacement)
