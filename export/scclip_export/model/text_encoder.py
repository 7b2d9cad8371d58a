"""CLIP's text encoder in the form that is traced."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from scclip_export.model.blocks import Block, linear_copy
from scclip_kernels import unit_rows

if TYPE_CHECKING:
    from open_clip.model import CLIP


class TextEncoder(nn.Module):
    """CLIP's text tower on tokens cut to any length: with a causal mask, what follows the end token changes nothing.

    Without that mask, or where the last position is the text's, every position counts: the zeros are put back first.
    A token table with many equal rows (one trained on few words, say) is stored once per distinct row.
    """

    def __init__(self, clip: CLIP) -> None:
        super().__init__()
        self.row_of_token: Tensor | None
        self.table: Tensor
        self.positions: Tensor
        table, index = torch.unique(clip.token_embedding.weight, dim=0, return_inverse=True)
        if len(table) <= 0.5 * len(index):
            self.register_buffer("row_of_token", index)
        else:
            self.row_of_token, table = None, clip.token_embedding.weight
        self.register_buffer("table", table.detach().clone())
        self.register_buffer("positions", clip.positional_embedding.detach().clone())
        self.causal, self.pool = clip.attn_mask is not None, clip.text_pool_type
        self.blocks = nn.ModuleList(Block(block) for block in clip.transformer.resblocks)
        self.ln_final = clip.ln_final
        self.proj = linear_copy(clip.text_projection.T, None)

    def forward(self, tokens: Tensor) -> Tensor:
        """int64 (B, T), T ≤ context length → float32 (B, E), unit rows."""
        if not self.causal or self.pool == "last":
            tokens = torch.cat([tokens, tokens.new_zeros(tokens.shape[0], len(self.positions))], dim=1)
            tokens = tokens[:, : len(self.positions)]
        length, width = tokens.shape[1], self.table.shape[1]
        rows = tokens if self.row_of_token is None else self.row_of_token[tokens]
        x = (F.embedding(rows, self.table) + self.positions[:length]).view(-1, width)
        index = torch.arange(length, device=tokens.device)
        mask = None
        if self.causal:
            mask = torch.where(index.unsqueeze(0) > index.unsqueeze(1), float("-inf"), 0.0)
        for block in self.blocks:
            x = block(x, length, mask)
        x = x.view(-1, length, width)
        return unit_rows(self.proj(self.ln_final(self._pooled(x, tokens))))

    def _pooled(self, x: Tensor, tokens: Tensor) -> Tensor:
        """Take each text's own token: (B, T, D) → (B, D)."""
        if self.pool == "first":
            return x[:, 0]
        if self.pool == "last":
            return x[:, -1]
        end = tokens.argmax(dim=-1)  # the end token has the highest id
        return torch.gather(x, 1, end.reshape(-1, 1, 1).expand(-1, 1, x.shape[-1])).squeeze(1)
