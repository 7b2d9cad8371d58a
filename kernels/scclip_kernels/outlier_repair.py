"""Outlier repair: outlier patches become the mean of their sound neighbours (paper §3.2; METHOD §2)."""

import torch
from torch import Tensor
from torch.nn import functional as F


def neighbor_weights(outliers: Tensor, num_patches: int, columns: int, found: Tensor | None = None) -> Tensor:
    """Return, for every outlier, the weights of the patches that replace it.

    A patch counts if it is one of the eight neighbours inside the grid and not an outlier itself, each with the same
    weight. An outlier without such a neighbour gets weight 1 on itself and so stays as it is.

    The official code divides the index by the number of rows, which is wrong off the square; here it is columns.

    Args:
        outliers: (B, m) int64 patch indices, row by row.
        num_patches: N, rows times columns of the patch grid.
        columns: columns of the patch grid.
        found: (B, m) bool, which of `outliers` are some; the others stay as they are. None: all.

    Returns:
        (B, m, N) float32; each row sums to 1.
    """
    index = torch.arange(num_patches, device=outliers.device)
    # Not `%`: with a symbolic number of columns torch.onnx (torch 2.14) can't translate remainder.Scalar.
    row = index // columns
    # A constant of a fixed grid; outliers are looked up in it rather than divided again.
    place = torch.stack([row, index - row * columns], dim=-1).float()
    itself = (outliers.unsqueeze(-1) == index).float()
    is_outlier = itself if found is None else itself * found.unsqueeze(-1).float()
    is_sound = 1.0 - is_outlier.amax(dim=1, keepdim=True)
    distance = (F.embedding(outliers, place).unsqueeze(2) - place).abs().amax(dim=-1)
    adjacent = (distance <= 1.0).float() * is_sound
    if found is not None:
        adjacent = adjacent * found.unsqueeze(-1).float()
    total = adjacent.sum(dim=-1, keepdim=True)
    return torch.where(total > 0.0, adjacent / total.clamp_min(1.0), itself)


def repair(features: Tensor, outliers: Tensor, weights: Tensor) -> Tensor:
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
