"""The last block of the methods that change only its attention (docs/methods.md, family A).

y = O(sum over terms of w · softmax(s x yᵀ + a ω) v) [+ F_{L-2}, then y + MLP(ln_2 y)]
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from scclip_export.model.blocks import Block, Tap, linear_copy
from scclip_export.model.dtypes import FLOAT32, DtypePolicy
from scclip_export.model.parts import LastBlockParts, Term
from scclip_kernels import Attention, scaled_attention

if TYPE_CHECKING:
    from open_clip.transformer import ResidualAttentionBlock


def neighborhood(rows: int, columns: int, sigma: float, device: torch.device) -> Tensor:
    """ω (1 + N, 1 + N) float32: exp(-(distance in patches)² / 2σ²), 0 in the class token's row and column."""
    index = torch.arange(rows * columns, device=device)
    row = index // columns
    place = torch.stack([row, index - row * columns], dim=-1).float()
    squared = (place.unsqueeze(0) - place.unsqueeze(1)).square().sum(dim=-1)
    return F.pad(torch.exp(squared * (-0.5 / sigma**2)), (1, 0, 1, 0))


class ValuePath(nn.Module):
    """The last block's value path alone, out_proj(v(ln_1 x)): MaskCLIP."""

    def __init__(self, block: ResidualAttentionBlock, policy: DtypePolicy = FLOAT32) -> None:
        super().__init__()
        attention, width = block.attn, block.attn.embed_dim
        self.policy, self.ln_1 = policy, block.ln_1
        weight, bias = attention.in_proj_weight[2 * width :], attention.in_proj_bias[2 * width :]
        self.value = linear_copy(weight, bias, policy.linear)
        self.out_proj = linear_copy(attention.out_proj.weight, attention.out_proj.bias, policy.linear)

    def forward(self, x: Tensor) -> Tensor:
        """Patches (B, N, D) → (B, N, D)."""
        length, width = x.shape[1:]
        value = self.value(self.ln_1(x).to(self.policy.linear).view(-1, width))
        return self.out_proj(value).to(self.policy.residual).view(-1, length, width)


class DenseLastBlock(Block):
    """The last block with the attention that a method describes, over all 1 + N tokens.

    Args:
        block: open_clip's.
        parts: the method's.
        policy: dtypes.
        attend: computes softmax(x yᵀ + mask) v of scaled x.
    """

    def __init__(
        self,
        block: ResidualAttentionBlock,
        parts: LastBlockParts,
        policy: DtypePolicy = FLOAT32,
        attend: Attention = scaled_attention,
    ) -> None:
        super().__init__(block, policy, attend)
        self.parts = parts
        self.scale = (block.attn.embed_dim // self.num_heads) ** -0.5
        if not parts.residual:
            del self.ln_2, self.fc, self.activation, self.proj
        used = parts.projections
        if policy.narrow is not None and len(used) < 3:
            # One product of what is read: the same products as in float32, where the tracer leaves the others out.
            rows = [("query", "key", "value").index(name) for name in used]
            weight, bias = (
                torch.cat([x.chunk(3)[row] for row in rows]) for x in (self.qkv.weight, self.qkv.bias)
            )
            self.add_module("_".join(used), linear_copy(weight, bias, policy.linear))
            del self.qkv

    def _project(self, y: Tensor) -> Sequence[Tensor]:
        used = self.parts.projections
        if self.policy.narrow is None or len(used) == 3:
            return super()._project(y)
        found = dict(zip(used, self.get_submodule("_".join(used))(y).chunk(len(used), dim=-1), strict=True))
        return [
            found.get(name, found["value"]) for name in ("query", "key", "value")
        ]  # nothing reads what is not used

    def dense(self, tokens: Tensor, taps: Mapping[int, Tap], rows: int, columns: int) -> Tensor:
        """F_{L-2} (B, 1 + N, D) → y (B, 1 + N, D).

        Args:
            tokens: F_{L-2}.
            taps: of the blocks that terms name.
            rows: of the patch grid.
            columns: of the patch grid.
        """
        length, width = tokens.shape[1:]
        x = tokens.reshape(-1, width)
        own = self.tap(x, length)
        summands = []
        for term in self.parts.terms:
            part = self._term(term, own, taps, rows, columns)
            summands.append(part if term.weight == 1.0 else part * term.weight)
        attended = functools.reduce(torch.add, summands)
        y = self.finish(x, attended) if self.parts.residual else self.attention_output(attended)
        return y.view(-1, length, width)

    def _term(self, term: Term, own: Tap, taps: Mapping[int, Tap], rows: int, columns: int) -> Tensor:
        """softmax(s x yᵀ + a ω) v: (B, heads, 1 + N, D / heads)."""
        if term.scores == "identity":
            return own.value
        if term.block is not None:
            other = taps[term.block]
            return self.attend(other.query, other.key, own.value, None)
        mask = None
        if term.sigma is not None:
            mask = self._amplitude(term, own) * neighborhood(rows, columns, term.sigma, own.value.device)
            if term.scores == "none":
                return torch.softmax(mask, dim=-1).to(own.value.dtype) @ own.value
            mask = mask.to(own.value.dtype)
        scaled, key = {
            "qk": (own.query, own.key),
            "qq": (own.query, own.query * (1.0 / self.scale)),  # not a division: narrow graphs have none
            "kk": (own.key * self.scale, own.key),
            "vv": (own.value * self.scale, own.value),
        }[term.scores]
        return self.attend(scaled, key, own.value, mask)

    @staticmethod
    def _amplitude(term: Term, own: Tap) -> Tensor | float:
        """What ω is multiplied with: 1, or s ‖q_p‖ ‖k_p'‖ (B, heads, N, N), or its mean (B, 1, 1, 1)."""
        if term.amplitude == "one":
            return 1.0
        query, key = (torch.linalg.vector_norm(x.float(), dim=-1, keepdim=True) for x in (own.query, own.key))
        if term.amplitude == "norms":
            return query * key.transpose(-1, -2)
        means = query.mean(dim=2, keepdim=True) * key.mean(dim=2, keepdim=True)
        return means.mean(dim=1, keepdim=True)
