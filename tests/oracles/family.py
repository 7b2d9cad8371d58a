"""The other methods as docs/methods.md states them, naively: the other side of the benchmarks.

One window at a time, every attention map written out, each term multiplied and projected as the formula has it. Windows
of the trained size only, so positions are the stored ones. Nothing here is shared with the packages.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from oracles.scclip import NaiveScclip


@dataclass(frozen=True, slots=True)
class Heads:
    """Queries, keys and values of a block, (heads, tokens, head width) each, and ln_1 of its input."""

    q: Tensor
    k: Tensor
    v: Tensor
    normed: Tensor

    @property
    def scale(self) -> float:
        """1 / sqrt(head width)."""
        return self.q.shape[-1] ** -0.5


def heads_of(block: nn.Module, x: Tensor) -> Heads:
    """Project tokens (tokens, D)."""
    attention, normed = block.attn, block.ln_1(x)
    joint = F.linear(normed, attention.in_proj_weight, attention.in_proj_bias)
    q, k, v = (
        part.unflatten(-1, (attention.num_heads, -1)).transpose(0, 1) for part in joint.chunk(3, dim=-1)
    )
    return Heads(q, k, v, normed)


def project(block: nn.Module, attended: Tensor) -> Tensor:
    """Output projection of (heads, tokens, head width), with its bias."""
    return block.attn.out_proj(attended.transpose(0, 1).flatten(1))


def neighbourhood(side: int, sigma: float) -> Tensor:
    """ω over (1 + N)², 0 for the class token."""
    place = torch.stack(torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij"), -1).reshape(
        -1, 2
    )
    squared = (place[:, None] - place[None]).square().sum(-1).float()
    return F.pad(torch.exp(-squared / (2 * sigma**2)), (1, 0, 1, 0))


Maps = Callable[[Heads, list[Heads], int], Tensor]
"""The last block's heads, those of all blocks and the grid's side → the attention map (heads, tokens, tokens)."""


def self_map(x: Tensor, scale: float, mask: Tensor | float = 0.0) -> Tensor:
    """softmax(s x xᵀ + mask)."""
    return (scale * x @ x.transpose(-1, -2) + mask).softmax(dim=-1)


def _resclip(last: Heads, blocks: list[Heads], side: int) -> Tensor:
    base = self_map(last.k, last.scale, neighbourhood(side, 5.0))
    cross = sum((h.scale * h.q @ h.k.transpose(-1, -2)).softmax(dim=-1) for h in blocks[5:9]) / 4
    return 2.0 * (0.7 * base + 0.3 * cross)


MAPS: dict[str, Maps] = {
    "none": lambda h, _, __: (h.scale * h.q @ h.k.transpose(-1, -2)).softmax(dim=-1),
    "maskclip": lambda h, _, __: torch.eye(h.q.shape[1]).expand(len(h.q), -1, -1),
    "clearclip": lambda h, _, __: self_map(h.q, h.scale),
    "sclip": lambda h, _, __: self_map(h.q, h.scale) + self_map(h.k, h.scale),
    "segearth": lambda h, _, __: sum(self_map(x, h.scale) for x in (h.q, h.k, h.v)),
    "naclip": lambda h, _, side: self_map(h.k, h.scale, neighbourhood(side, 5.0)),
    "resclip": _resclip,
}
WHOLE_BLOCK = ("none", "sclip", "surgery")  # with residual and MLP; Surgery takes the class token alone
METHODS = (*MAPS, "sfp", "surgery", "gem")


@dataclass(frozen=True, kw_only=True)
class NaiveMethod(NaiveScclip):
    """A method by its name, with its published parameters; `segment` is the shared protocol."""

    method: str
    class_tokens: list[Tensor] = field(default_factory=list)

    def resized_logits(self, image: NDArray[np.uint8], text: Tensor) -> Tensor:
        """Of GEM stretched to 0..1 for each query over the image; of CLIP Surgery times each query's weight."""
        self.class_tokens.clear()
        logits = super().resized_logits(image, text)
        if self.method == "surgery":
            whole = F.normalize(torch.stack(self.class_tokens).mean(dim=0), dim=-1)
            weights = (2 * text @ whole).softmax(dim=0)
            return logits * (weights / weights.mean()).reshape(-1, 1, 1)
        if self.method != "gem":
            return logits
        low, high = (reduce(logits, dim=(1, 2), keepdim=True) for reduce in (torch.amin, torch.amax))
        return (logits - low) / (high - low)

    def window_features(self, pixels: Tensor) -> Tensor:
        """Patch features (N, E) of one normalised window (3, w, w); unit rows but for segearth's."""
        hidden = self.hidden_states(pixels)
        side = math.isqrt(hidden[0].shape[0] - 1)
        if self.method == "sfp":
            dense = self._sfp(hidden, side)
        elif self.method in ("surgery", "gem"):
            dense = self._stream(hidden)[1:]
        else:
            dense = self._last_block(hidden, side)
        features = self._joint(dense)
        if self.method == "surgery":
            self.class_tokens.append(self._joint(self._last_block(hidden, side)[0]))
        if self.method == "segearth":
            return features[1:] - 0.3 * features[:1]
        return features[1:] if self.method in MAPS else features

    def _joint(self, tokens: Tensor) -> Tensor:
        """Unit rows in the space of the texts."""
        visual = self.clip.visual
        return F.normalize(visual.ln_post(tokens) @ visual.proj, dim=-1)

    def _last_block(self, hidden: list[Tensor], side: int) -> Tensor:
        blocks = self.clip.visual.transformer.resblocks
        last, x = blocks[-1], hidden[-1]
        own = heads_of(last, x)
        earlier = []
        if self.method == "resclip":
            earlier = [heads_of(block, x) for block, x in zip(blocks[1:-1], hidden, strict=False)]
            earlier = [own, *earlier]  # block 0 is not among those taken
        attention = MAPS["none" if self.method == "surgery" else self.method]
        y = project(last, attention(own, earlier, side) @ own.v)
        if self.method in WHOLE_BLOCK:
            y = x + y
            y = y + last.mlp(last.ln_2(y))
        return y

    def _stream(self, hidden: list[Tensor]) -> Tensor:
        blocks = self.clip.visual.transformer.resblocks
        start = len(blocks) - 6
        y = hidden[start - 1]
        for index in range(start, len(blocks)):
            h = heads_of(blocks[index], hidden[index - 1])
            if self.method == "surgery":
                y = y + project(blocks[index], self_map(h.v, h.scale) @ h.v)
                continue
            temperature = h.scale * h.normed.norm(dim=-1).mean()
            total = torch.zeros_like(h.v)
            for x in (h.q, h.k, h.v):
                p = F.normalize(x, dim=-1)
                p = F.normalize(self_map(p, temperature) @ p, dim=-1)
                total = total + self_map(p, temperature) @ h.v / 3
            y = y + project(blocks[index], total)
        return y

    def _sfp(self, hidden: list[Tensor], side: int) -> Tensor:
        blocks = self.clip.visual.transformer.resblocks
        cls, patches = hidden[-1][0], hidden[-1][1:]
        h = heads_of(blocks[-2], hidden[-2])
        attention = (h.scale * h.q @ h.k.transpose(-1, -2)).softmax(dim=-1).mean(dim=0)
        to_class, itself = attention[0, 1:], attention.diagonal()[1:]
        salient = torch.where(5 * 0.3 * to_class > itself, to_class, 0.0)
        best = salient.topk(10)
        outliers = set(best.indices[best.values > 0].tolist())
        repaired = self.repair(patches, outliers, side)
        guide = F.normalize(self.repair(hidden[8][1:], outliers, side), dim=-1)
        similarity = guide @ guide.T
        adjusted = self.similarity_weights(similarity) @ repaired
        levels = torch.stack(hidden[3:10]).sum(dim=0)
        kept = similarity.masked_fill(similarity < self.beta, 0)
        scores = 3 * (kept - kept.mean())
        common = scores.masked_fill(scores < 0, float("-inf")).softmax(dim=-1)
        last = blocks[-1]
        own, other = heads_of(last, adjusted), heads_of(last, levels[1:])
        weights = (common + self_map(own.k, own.scale) + self_map(own.q, own.scale)) / 3
        smooth = F.normalize(hidden[3][1:], dim=-1)
        smoothing = self.similarity_weights(smooth @ smooth.T)
        out = smoothing @ (project(last, weights @ own.v) + 0.3 * cls)
        return out + smoothing @ (project(last, common @ other.v) + 0.3 * levels[0])
