"""The dtype of what is never narrow: float32, or float64 where a float64 reference is computed."""

import torch
from torch import Tensor


def wide(x: Tensor) -> Tensor:
    """Return `x` in float32; float64 stays as it is."""
    return x if x.dtype == torch.float64 else x.float()
