"""Class names to vectors as the method states it (METHOD §3), naively: one class at a time, every prompt to the end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from open_clip.model import CLIP


@torch.no_grad()
def embed_names(clip: CLIP, names: Sequence[str], templates: Sequence[str]) -> Tensor:
    """Embed names in all templates, 77 tokens a prompt as open_clip pads them: float (Q, E), unit rows."""
    from open_clip.tokenizer import SimpleTokenizer

    tokenize, rows = SimpleTokenizer(), []
    for name in names:
        prompts = clip.encode_text(tokenize([template.replace("{}", name) for template in templates]))
        mean = (prompts / prompts.norm(dim=-1, keepdim=True)).mean(dim=0)
        rows.append(mean / mean.norm())
    return torch.stack(rows)
