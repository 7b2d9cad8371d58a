"""A second stream through the last blocks: CLIP Surgery and GEM (docs/methods.md, family C).

y = F_{L-n-1} + sum over i = L-n .. L-1 of O_i(A_i v_i)
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from scclip_export.model.blocks import Block, Tap
from scclip_export.model.parts import StreamParts
from scclip_kernels import Attention
from scclip_kernels.wide import wide


def stream(
    parts: StreamParts,
    hidden: Sequence[Tensor],
    taps: Mapping[int, Tap],
    blocks: Any,
    last: Block,
) -> Tensor:
    """Run the second stream.

    Args:
        parts: the method's.
        hidden: the outputs F_0 .. F_{L-2}, each (B, 1 + N, D).
        taps: of blocks L-n .. L-2.
        blocks: blocks 0 .. L-2.
        last: block L-1.

    Returns:
        y (B, 1 + N, D); with `class_row` its first token is that of F_{L-1}.
    """
    length, width = hidden[-1].shape[1:]
    own = last.tap(hidden[-1].reshape(-1, width), length)
    start = len(blocks) + 1 - parts.blocks
    y = hidden[start - 1].reshape(-1, width)
    for index in range(start, len(blocks)):
        y = y + _summand(parts, taps[index], blocks[index], last.attend)
    y = (y + _summand(parts, own, last, last.attend)).view(-1, length, width)
    if not parts.class_row:
        return y
    first = last.attend(own.query.narrow(2, 0, 1), own.key, own.value, None)
    class_token = last.finish(hidden[-1].narrow(1, 0, 1).reshape(-1, width), first)
    return torch.cat([class_token.unsqueeze(1), y.narrow(1, 1, length - 1)], dim=1)


def _summand(parts: StreamParts, tap: Tap, block: Block, attend: Attention) -> Tensor:
    """O_i(A_i v_i): (B * N, D)."""
    scale, dtype = tap.value.shape[-1] ** -0.5, tap.value.dtype
    if parts.attention == "vv":
        return block.attention_output(attend(tap.value * scale, tap.value, tap.value, None))
    if parts.temperature is None:
        lengths = torch.linalg.vector_norm(tap.normed, dim=-1).view(-1, tap.value.shape[2])
        root: Tensor | float = torch.sqrt(scale * lengths.mean(dim=1)).view(-1, 1, 1, 1)
    else:
        root = parts.temperature**0.5
    maps = []
    for p in tap.heads:
        # √τ p is query and key; where p is a value too, its length doesn't matter: it is made a unit vector again.
        scaled = _scaled_unit_rows(p, root).to(dtype)  # the scale in the queries is gone with their length
        for _ in range(parts.iterations):
            scaled = _scaled_unit_rows(attend(scaled, scaled, scaled, None), root).to(dtype)
        maps.append(torch.softmax(wide(scaled @ scaled.transpose(-1, -2)), dim=-1))
    # The maps are added before the product with the values: one product instead of three.
    attended = functools.reduce(torch.add, maps).to(dtype) @ tap.value
    return block.attention_output(attended * (1.0 / 3.0))


def _scaled_unit_rows(x: Tensor, length: Tensor | float) -> Tensor:
    """Rows of this length, float32."""
    rows = wide(x)
    return rows * (length / torch.linalg.vector_norm(rows, dim=-1, keepdim=True).clamp_min(1e-12))
