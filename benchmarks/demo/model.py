"""The demo CLIP: open_clip's own modules, a pruned token table, and a faster forward for training."""

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import open_clip
import torch
from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg
from open_clip.tokenizer import SimpleTokenizer
from torch import Tensor, nn
from torch.nn import functional

from scclip_rt.demo.scenes import LISTS, MATERIALS

TOKENIZER_SIZE = 49408
PATCH = 16
MEAN = (122.771, 116.746, 104.094)
STD = (68.501, 66.632, 70.323)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """Sizes of the demo CLIP."""

    width: int = 192
    blocks: int = 9
    heads: int = 6
    embedding: int = 192
    text_width: int = 192
    text_blocks: int = 3
    text_heads: int = 6
    image_size: int = 224
    context: int = 77

    def __post_init__(self) -> None:
        if self.width % self.heads or self.text_width % self.text_heads:
            raise ValueError(f"heads must divide the width; got {asdict(self)}")


class PrunedTokenizer:
    """CLIP's byte-pair tokenizer mapped to the rows of a small embedding table.

    Row 0 stands for every token that training never meets; start and end tokens are the last two rows, so the
    end token is still the largest id, which is how CLIP finds it.
    """

    def __init__(self, texts: Sequence[str]) -> None:
        self._tokenizer = SimpleTokenizer()
        known = {token for text in texts for token in self._tokenizer.encode(text)}
        ends = (self._tokenizer.sot_token_id, self._tokenizer.eot_token_id)
        self.index = torch.zeros(TOKENIZER_SIZE, dtype=torch.int32)
        rows = sorted(known - set(ends)) + list(ends)
        self.index[rows] = torch.arange(1, len(rows) + 1, dtype=torch.int32)
        self._cache: dict[str, list[int]] = {}

    @property
    def size(self) -> int:
        """Rows of the table."""
        return int(self.index.max()) + 1

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """int64 (B, T) rows, T the longest text with its start and end; shorter ones are padded by row 0."""
        encoded = [self._encode(text) for text in texts]
        out = torch.zeros(len(encoded), max(map(len, encoded)), dtype=torch.long)
        for row, ids in zip(out, encoded, strict=True):
            row[: len(ids)] = torch.tensor(ids)
        return out

    def _encode(self, text: str) -> list[int]:
        if text not in self._cache:
            words = self._tokenizer.encode(text)
            ids = [self._tokenizer.sot_token_id, *words, self._tokenizer.eot_token_id]
            self._cache[text] = self.index[ids].tolist()
        return self._cache[text]


def demo_tokenizer() -> PrunedTokenizer:
    """The tokenizer with a row for every token that a caption of a demo scene can hold."""
    names = [name for material in MATERIALS for name in (material.name, *material.synonyms)]
    frames = [template("x") for template in open_clip.OPENAI_IMAGENET_TEMPLATES]
    frames += [text.format("x") for text in LISTS] + [" and , next to with "]
    words = {word for text in frames for word in re.findall(r"\w+|[^\w\s]+", text)} - {"x"}
    # Punctuation can join up differently beside a name, so whole prompts are listed as well.
    prompts = [template(name) for template in open_clip.OPENAI_IMAGENET_TEMPLATES for name in names]
    return PrunedTokenizer([*names, *sorted(words), *prompts, *(f"{name}, {name}" for name in names)])


def build_model(config: ModelConfig, vocabulary: int) -> CLIP:
    """open_clip's CLIP, float32, with `vocabulary` token rows."""
    return CLIP(
        embed_dim=config.embedding,
        vision_cfg=CLIPVisionCfg(
            layers=config.blocks,
            width=config.width,
            head_width=config.width // config.heads,
            patch_size=PATCH,
            image_size=config.image_size,
        ),
        text_cfg=CLIPTextCfg(
            context_length=config.context,
            vocab_size=vocabulary,
            width=config.text_width,
            heads=config.text_heads,
            layers=config.text_blocks,
        ),
        quick_gelu=True,
    )


class _QuickGELU(torch.autograd.Function):
    """x·sigmoid(1.702 x), keeping only x for the backward pass."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return torch.sigmoid(1.702 * x).mul_(x)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        gate = torch.sigmoid(1.702 * x)
        # d/dx = s + 1.702·x·s·(1 − s)
        slope = (1 - gate).mul_(x).mul_(1.702).add_(1).mul_(gate)
        return slope.mul_(grad)


def block_forward(block: nn.Module, x: Tensor, *, causal: bool) -> Tensor:
    """One residual attention block of open_clip on (B, T, D): the same function, without its reshapes."""
    batch, tokens, width = x.shape
    heads = block.attn.num_heads
    qkv = functional.linear(block.ln_1(x), block.attn.in_proj_weight, block.attn.in_proj_bias)
    q, k, v = qkv.view(batch, tokens, 3, heads, width // heads).permute(2, 0, 3, 1, 4)
    y = functional.scaled_dot_product_attention(q, k, v, is_causal=causal)
    x = x + block.attn.out_proj(y.transpose(1, 2).reshape(batch, tokens, width))
    return x + block.mlp.c_proj(_QuickGELU.apply(block.mlp.c_fc(block.ln_2(x))))


def patchify(images: Tensor) -> Tensor:
    """uint8 (B, S, S, 3) RGB → float32 (B, N, 3·16·16), normalised, in the patch convolution's order."""
    batch, side = images.shape[0], images.shape[1] // PATCH
    patches = images.view(batch, side, PATCH, side, PATCH, 3).permute(0, 1, 3, 5, 2, 4)
    mean = torch.tensor(MEAN).view(3, 1, 1)
    std = torch.tensor(STD).view(3, 1, 1)
    return ((patches.float() - mean) / std).reshape(batch, side * side, 3 * PATCH * PATCH)


def class_token_after(block: nn.Module, x: Tensor, *, values_only: bool) -> Tensor:
    """The class token (B, D) after the last block on (B, T, D); training uses no patch output of that block.

    With `values_only` it leaves without residual and MLP, as a mixture of the tokens' projected values.
    """
    batch, _, width = x.shape
    heads = block.attn.num_heads
    weight, bias, h = block.attn.in_proj_weight, block.attn.in_proj_bias, block.ln_1(x)
    query = functional.linear(h[:, :1], weight[:width], bias[:width])
    key, value = functional.linear(h, weight[width:], bias[width:]).chunk(2, dim=-1)
    q, k, v = (t.unflatten(-1, (heads, -1)).transpose(1, 2) for t in (query, key, value))
    y = functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(batch, width)
    y = block.attn.out_proj(y)
    if values_only:
        return y
    y = x[:, 0] + y
    return y + block.mlp.c_proj(_QuickGELU.apply(block.mlp.c_fc(block.ln_2(y))))


def encode_images(
    model: CLIP, images: Tensor, *, keep: int, generator: torch.Generator, value_path: float = 0.0
) -> Tensor:
    """Class-token embeddings of images that may be smaller than the model's window.

    A smaller image takes the positions of a random part of the window, so every position is trained from the
    first step on and none has to be interpolated later.

    Args:
        model: the demo CLIP.
        images: uint8 (B, S, S, 3), S a multiple of 16, at most the model's image size.
        keep: patches kept per image, drawn at random; all when it is not smaller than their number.
        generator: source of the draws.
        value_path: probability that these images' class tokens leave the last block without residual and MLP.

    Returns:
        float32 (B, E), unit length.
    """
    visual = model.visual
    patches = patchify(images)
    batch, count, _ = patches.shape
    side, full = int(count**0.5), visual.grid_size[0]
    row, column = torch.randint(full - side + 1, (2,), generator=generator).tolist()
    grid = visual.positional_embedding[1:].view(full, full, -1)
    positions = grid[row : row + side, column : column + side].reshape(count, -1)
    if keep < count:
        kept = torch.rand(batch, count, generator=generator).topk(keep, dim=1).indices
        patches = patches.gather(1, kept[..., None].expand(-1, -1, patches.shape[-1]))
        positions = functional.embedding(kept, positions)
    x = functional.linear(patches, visual.conv1.weight.flatten(1)) + positions
    head = (visual.class_embedding + visual.positional_embedding[0]).expand(batch, 1, -1)
    x = visual.ln_pre(torch.cat([head, x], dim=1))
    *blocks, last = visual.transformer.resblocks
    for block in blocks:
        x = block_forward(block, x, causal=False)
    values_only = bool(torch.rand((), generator=generator) < value_path)
    x = class_token_after(last, x, values_only=values_only)
    return functional.normalize(visual.ln_post(x) @ visual.proj, dim=-1)


def encode_texts(model: CLIP, tokens: Tensor) -> Tensor:
    """Embeddings of rows (B, T) from the pruned tokenizer: float32 (B, E), unit length.

    The mask is causal, so cutting the padding off changes nothing.
    """
    x = model.token_embedding(tokens) + model.positional_embedding[: tokens.shape[1]]
    for block in model.transformer.resblocks:
        x = block_forward(block, x, causal=True)
    end = x[torch.arange(len(tokens)), tokens.argmax(1)]
    return functional.normalize(model.ln_final(end) @ model.text_projection, dim=-1)
