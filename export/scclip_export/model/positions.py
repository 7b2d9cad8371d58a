"""Positions of a grid that CLIP was not trained on, as one small matrix per axis: traceable, and exact in any runtime.

Rules (docs/methods.md):
    bicubic             a = -0.75, borders clamped, step g / n: torch's and ONNX's Resize; SC-CLIP's whole-image mode
    bicubic-step        the same with step g / (n + 0.1), and none at all where the COUNT of patches is the trained one
    bilinear            step g / n, borders clamped
    bicubic-antialias   a = -0.5, taps outside the grid dropped and the rest renormalised
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from scclip_export.model.parts import Positions


def resize_positions(grid: Tensor, rows: int, columns: int, rule: Positions) -> Tensor:
    """Positions of patches: (1, D, g, g) trained → (1, rows · columns, D), row by row.

    Args:
        grid: the trained table.
        rows: wanted; may be symbolic while a dynamic grid is traced.
        columns: wanted.
        rule: see the module.
    """
    exporting = torch.compiler.is_exporting()
    if not exporting and (rows, columns) == tuple(grid.shape[-2:]):
        return grid.flatten(2).transpose(1, 2)
    if rule == "bicubic":
        resized = F.interpolate(
            grid, size=(rows, columns), mode="bicubic", align_corners=False, antialias=False
        )
        return resized.flatten(2).transpose(1, 2)
    trained = grid.shape[-1] * grid.shape[-2]
    if rule == "bicubic-step" and not exporting and rows * columns == trained:
        return grid.flatten(2).transpose(1, 2)
    down, across = (
        _AXES[rule](length, side, grid.device).to(grid.dtype)
        for length, side in zip((rows, columns), grid.shape[-2:], strict=True)
    )
    resized = (down @ grid @ across.transpose(0, 1)).flatten(2).transpose(1, 2)
    if rule != "bicubic-step" or not exporting:
        return resized
    # A dynamic graph decides by the count when it runs.
    index = torch.arange(rows * columns, device=grid.device)
    flat = F.embedding(index.clamp(max=trained - 1), grid.flatten(2)[0].transpose(0, 1)).unsqueeze(0)
    return torch.where(index.amax(dim=0) == trained - 1, flat, resized)


def _source(length: int, step: Tensor | float, device: torch.device) -> Tensor:
    return ((torch.arange(length, device=device).float() + 0.5) * step - 0.5).unsqueeze(1)


def _count(length: int, device: torch.device) -> Tensor:
    """`length` as a float32 tensor: a symbolic size has no float."""
    return torch.arange(length, device=device).amax(dim=0).float() + 1.0


def _clamped(
    length: int,
    side: int,
    device: torch.device,
    *,
    extra: float,
    taps: range,
    kernel: Callable[[Tensor], Tensor],
) -> Tensor:
    """(length, side) float32: each row's taps, those outside moved to the border."""
    source = _source(length, side / (_count(length, device) + extra), device)
    cells = torch.arange(side, device=device).float()
    lower = source.floor()
    return sum(
        (
            kernel((source - lower - tap).abs()) * (cells == (lower + tap).clamp(0.0, side - 1.0)).float()
            for tap in taps
        ),
        start=torch.zeros((), device=device),
    )


def _antialiased(length: int, side: int, device: torch.device) -> Tensor:
    """(length, side) float32: a = -0.5, stretched where the grid shrinks, each row divided by its sum."""
    step = side / _count(length, device)
    distance = (_source(length, step, device) - torch.arange(side, device=device).float()).abs()
    weights = cubic(distance / step.clamp_min(1.0), -0.5)
    return weights / weights.sum(dim=1, keepdim=True)


def cubic(x: Tensor, a: float) -> Tensor:
    """Keys' cubic kernel at |x|: 1 at 0, 0 from 2 on."""
    near = ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0
    far = (((x - 5.0) * x + 8.0) * x - 4.0) * a
    return torch.where(x <= 1.0, near, torch.where(x < 2.0, far, 0.0))


_AXES: dict[str, Callable[[int, int, torch.device], Tensor]] = {
    "bicubic-step": lambda length, side, device: _clamped(
        length, side, device, extra=0.1, taps=range(-1, 3), kernel=lambda x: cubic(x, -0.75)
    ),
    "bilinear": lambda length, side, device: _clamped(
        length, side, device, extra=0.0, taps=range(2), kernel=lambda x: (1.0 - x).clamp_min(0.0)
    ),
    "bicubic-antialias": _antialiased,
}
