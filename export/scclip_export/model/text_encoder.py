"""CLIP's text encoder in the form that is traced."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from scclip_export.model.blocks import Block, attend_to_both, linear_copy
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
        x = (self.embedded(tokens) + self.positions[:length]).view(-1, width)
        mask = causal_mask(length, tokens.device) if self.causal else None
        blocks: Any = list(self.blocks)
        last = blocks.pop() if self.can_resume else None
        for block in blocks:
            x = block(x, length, mask)
        if last is not None and mask is not None:
            x, *_ = _last_block(last, tokens, x, length, mask.expand(tokens.shape[0], 1, -1, -1))
        else:
            x = self.pooled(x.view(-1, length, width), tokens)
        return unit_rows(self.proj(self.ln_final(x)))

    def embedded(self, tokens: Tensor) -> Tensor:
        """Rows of the table: int64 (B, T) → (B, T, D)."""
        rows = tokens if self.row_of_token is None else self.row_of_token[tokens]
        return F.embedding(rows, self.table)

    @property
    def can_resume(self) -> bool:
        """Whether what comes before a token is all that it depends on, as `ResumedTextEncoder` needs."""
        return self.causal and self.pool not in ("first", "last")

    def pooled(self, x: Tensor, tokens: Tensor) -> Tensor:
        """Take each text's own token: (B, T, D) → (B, D)."""
        if self.pool == "first":
            return x[:, 0]
        if self.pool == "last":
            return x[:, -1]
        end = tokens.argmax(dim=-1)
        return torch.gather(x, 1, end.reshape(-1, 1, 1).expand(-1, 1, x.shape[-1])).squeeze(1)


class ResumedTextEncoder(TextEncoder):
    """The text tower from where another text with the same beginning left it.

    Prompts begin with the words of a template, and what a causal tower computes of them is the same for every name.

    Args:
        encoder: causal, pooling at the end token; its weights are shared.
    """

    def __init__(self, encoder: TextEncoder) -> None:
        if not encoder.can_resume:
            raise ValueError("only a causal text tower that pools at the end token can be resumed")
        nn.Module.__init__(self)
        self.__dict__.update(encoder.__dict__)  # the same tensors, by the same names

    def forward(  # type: ignore[override]
        self, tokens: Tensor, past: Tensor, past_lengths: Tensor, beginnings: Tensor
    ) -> tuple[Tensor, ...]:
        """Encode what follows known beginnings.

        Args:
            tokens: int64 (B, T): the rest of each text, with its end token, then zeros.
            past: (layers, 2, P, heads, S, D / heads): keys and values of P beginnings, each padded to S tokens.
            past_lengths: int64 (P,): tokens of each beginning, 0 to S.
            beginnings: int64 (B,): which beginning each row goes on from.

        Returns:
            float32 (B, E), unit rows; then keys and values of the T tokens, layer by layer, each
            (B, heads, T, D / heads). Stacking them would copy them for every prompt, and most runs don't want them.
        """
        length, width, device = tokens.shape[1], self.table.shape[1], tokens.device
        start = past_lengths[beginnings].unsqueeze(1)
        places = start + torch.arange(length, device=device)
        # Zeros after the end token may lie beyond the last position: they change nothing.
        places = places.clamp_max(len(self.positions) - 1)
        x = (self.embedded(tokens) + F.embedding(places, self.positions)).view(-1, width)
        seen = torch.where(torch.arange(past.shape[4], device=device) >= start, float("-inf"), 0.0)
        seen = seen.unsqueeze(1).expand(-1, length, -1)
        own = causal_mask(length, device).unsqueeze(0).expand(tokens.shape[0], -1, -1)
        mask = torch.cat([seen, own], dim=2).unsqueeze(1)
        # One Gather for each tensor, of rows that are not copied before.
        count, rows = past.shape[2], past.flatten(0, 2)
        present: list[Tensor] = []
        blocks: Any = self.blocks
        for layer, block in enumerate(blocks):
            known = [rows.index_select(0, beginnings + (2 * layer + part) * count) for part in (0, 1)]
            resume = block.resume if layer < len(blocks) - 1 else partial(_last_block, block, tokens)
            x, *own_heads = resume(x, length, mask, *known)
            present += own_heads
        embeddings = unit_rows(self.proj(self.ln_final(x)))
        return embeddings, *present


def _last_block(
    block: Block, tokens: Tensor, x: Tensor, length: int, mask: Tensor, *past: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The last block of the end tokens alone, (B, D): nothing reads what the others become.

    Args:
        block: the tower's last.
        tokens: int64 (B, N).
        x: (B * N, D).
        length: N.
        mask: added to the attention scores, (B, 1, N, M + N).
        past: keys and values of M earlier tokens, or none of them.

    Returns:
        (B, D), and the keys and values of the N tokens.
    """
    tap = block.tap(x, length)
    end = tokens.argmax(dim=-1).reshape(-1, 1, 1, 1)  # the end token has the highest id
    query = tap.query.gather(2, end.expand(-1, tap.query.shape[1], 1, tap.query.shape[3]))
    end_mask = mask.gather(2, end.expand(-1, 1, 1, mask.shape[3]))
    if past:
        attended = attend_to_both(query, (past[0], past[1]), (tap.key, tap.value), end_mask)
    else:
        attended = block.attend(query, tap.key, tap.value, end_mask)
    width = x.shape[-1]
    x = x.view(-1, length, width).gather(1, end.squeeze(3).expand(-1, 1, width)).squeeze(1)
    return block.finish(x, attended), tap.key, tap.value


def causal_mask(length: int, device: torch.device) -> Tensor:
    """(T, T): 0 where a token may look, -inf at those that follow it."""
    index = torch.arange(length, device=device)
    return torch.where(index.unsqueeze(0) > index.unsqueeze(1), float("-inf"), 0.0)
