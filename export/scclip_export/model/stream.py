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
from scclip_kernels import Attention, unit_rows


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
    scale = tap.value.shape[-1] ** -0.5
    if parts.attention == "vv":
        return block.attention_output(attend(tap.value * scale, tap.value, tap.value, None))
    temperature: Tensor | float = parts.temperature or 0.0
    if parts.temperature is None:
        lengths = torch.linalg.vector_norm(tap.normed, dim=-1).view(-1, tap.value.shape[2])
        temperature = scale * lengths.mean(dim=1).view(-1, 1, 1, 1)
    summands = []
    for p in tap.heads:
        unit = unit_rows(p)  # the scale in the queries is gone with their length
        for _ in range(parts.iterations):
            unit = unit_rows(_self_attend(unit, unit, temperature, tap, attend))
        summands.append(_self_attend(unit, tap.value, temperature, tap, attend))
    return block.attention_output(functools.reduce(torch.add, summands) * (1.0 / 3.0))


def _self_attend(
    unit: Tensor, value: Tensor, temperature: Tensor | float, tap: Tap, attend: Attention
) -> Tensor:
    """softmax(τ p pᵀ) x, in the dtype of the tap."""
    dtype = tap.value.dtype
    return attend((unit * temperature).to(dtype), unit.to(dtype), value.to(dtype), None)
