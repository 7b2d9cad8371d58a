"""The parts of CLIP's transformers in the form that is traced: patch embedding, blocks, and the calibrated last block.

Wrapping, not forking: weights are read from open_clip's modules, and what can be folded into them once is folded here
(normalisation into the patch projection, the attention scale into the query weights, LayerScale into the projections).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from scclip_export.model.dtypes import FLOAT32, DtypePolicy
from scclip_export.model.parts import Positions
from scclip_export.model.positions import resize_positions
from scclip_kernels import Attention, merge_heads, scaled_attention, split_heads
from scclip_kernels.operations import Operations

# The modules are taken as they come: benchmarks/gpu runs where neither open_clip nor onnx is installed.
if TYPE_CHECKING:
    from open_clip.transformer import ResidualAttentionBlock, VisionTransformer


def linear_copy(weight: Tensor, bias: Tensor | None, dtype: torch.dtype = torch.float32) -> nn.Linear:
    """A linear layer of frozen copies of weights, in `dtype`."""
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    layer.weight = nn.Parameter(weight.detach().to(dtype, copy=True), requires_grad=False)
    if bias is not None:
        layer.bias = nn.Parameter(bias.detach().to(dtype, copy=True), requires_grad=False)
    return layer


def scaled_linear(layer: nn.Linear, scale: nn.Module, dtype: torch.dtype) -> nn.Linear:
    """Return `layer` with a LayerScale that follows it folded in."""
    gamma = getattr(scale, "gamma", None)
    if gamma is None:
        return linear_copy(layer.weight, layer.bias, dtype)
    return linear_copy(layer.weight * gamma.unsqueeze(1), layer.bias * gamma, dtype)


def is_quick_gelu(activation: nn.Module) -> bool:
    """Whether an activation is x · sigmoid(1.702 x)."""
    x = torch.linspace(-4.0, 4.0, 9, device="cpu")
    return torch.allclose(activation(x), x * torch.sigmoid(1.702 * x), atol=1e-6)


def attention_operator(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
    """`scaled_attention` as one ONNX operator (Attention, opset 23).

    The softmax's type is the engine's own: TensorRT for RTX 1.7 refuses the attribute `softmax_precision`.
    """
    return torch.onnx.ops.attention(query, key, value, mask, scale=1.0)[0]


@dataclass(frozen=True, slots=True)
class Tap:
    """What a block attends with.

    Attributes:
        normed: (B * N, D), ln_1 of its input.
        query: (B, heads, N, D / heads), with the factor s = 1 / sqrt(D / heads) in it.
        key: the same without.
        value: the same without.
    """

    normed: Tensor
    query: Tensor
    key: Tensor
    value: Tensor

    @property
    def heads(self) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values."""
        return self.query, self.key, self.value


class Block(nn.Module):
    """One transformer block of CLIP: x + attention(ln_1 x), then + mlp(ln_2 x).

    Tokens are the rows of one matrix, so that every projection is one Gemm with its bias inside. Where they are narrow,
    which is for GPUs, queries, keys and values are one product: three of a third of its size leave half an H100 idle.
    On a CPU they are three, which costs nothing and lets int8 scale each by itself.
    """

    def __init__(
        self,
        block: ResidualAttentionBlock,
        policy: DtypePolicy = FLOAT32,
        attend: Attention = scaled_attention,
    ) -> None:
        super().__init__()
        attention, linear = block.attn, policy.linear
        self.policy, self.attend = policy, attend
        self.num_heads: int = attention.num_heads
        scale = (attention.embed_dim // self.num_heads) ** -0.5
        query, key, value = attention.in_proj_weight.chunk(3)
        query_bias, key_bias, value_bias = attention.in_proj_bias.chunk(3)
        self.ln_1 = block.ln_1
        if policy.narrow is None:
            self.query = linear_copy(query * scale, query_bias * scale, linear)
            self.key, self.value = linear_copy(key, key_bias, linear), linear_copy(value, value_bias, linear)
        else:
            weight = torch.cat([query * scale, key, value])
            self.qkv = linear_copy(weight, torch.cat([query_bias * scale, key_bias, value_bias]), linear)
        self.out_proj = scaled_linear(attention.out_proj, block.ls_1, linear)
        self.ln_2 = block.ln_2
        self.fc = linear_copy(block.mlp.c_fc.weight, block.mlp.c_fc.bias, linear)
        self.activation = block.mlp.gelu
        self.proj = scaled_linear(block.mlp.c_proj, block.ls_2, linear)

    def forward(self, x: Tensor, length: int, mask: Tensor | None = None) -> Tensor:
        """(B * N, D) → (B * N, D), `length` is N; `mask` is added to the attention scores."""
        tap = self.tap(x, length)
        return self.finish(x, self.attend(*tap.heads, mask))

    def resume(
        self, x: Tensor, length: int, mask: Tensor, past_key: Tensor, past_value: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """`forward` where the keys and values of earlier tokens are known.

        Args:
            x: (B * N, D), the tokens that follow.
            length: N.
            mask: added to the attention scores, (B, 1, N, M + N).
            past_key: (B, heads, M, D / heads), of the earlier tokens.
            past_value: the same.

        Returns:
            (B * N, D), and the keys and values of the N tokens.
        """
        tap = self.tap(x, length)
        attended = attend_to_both(tap.query, (past_key, past_value), (tap.key, tap.value), mask)
        return self.finish(x, attended), tap.key, tap.value

    def tap(self, x: Tensor, length: int) -> Tap:
        """Queries, keys and values of tokens (B * N, D)."""
        normed = self.ln_1(x)
        query, key, value = self.heads(normed.to(self.policy.linear), length)
        return Tap(normed=normed, query=query, key=key, value=value)

    def heads(self, normed: Tensor, length: int) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values (B, heads, N, D / heads) of ln_1's rows (B * N, D)."""
        per_head = (-1, length, self.num_heads, normed.shape[-1] // self.num_heads)
        query, key, value = (
            x.to(self.policy.attention).view(*per_head).transpose(1, 2) for x in self._project(normed)
        )
        return query, key, value

    def finish(self, x: Tensor, attended: Tensor) -> Tensor:
        """Add what was attended (B, heads, N, D / heads) to tokens (B * N, D), then the MLP."""
        x = x + self.attention_output(attended)
        y = self.activation(self.fc(self.ln_2(x).to(self.policy.linear)))
        return x + self.proj(y).to(self.policy.residual)

    def attention_output(self, attended: Tensor) -> Tensor:
        """The output projection with its bias: (B, heads, N, D / heads) → (B * N, D)."""
        return self.attention_product(attended).to(self.policy.residual)

    def attention_product(self, attended: Tensor) -> Tensor:
        """`attention_output` in the dtype of the product."""
        rows = attended.transpose(1, 2).reshape(-1, attended.shape[1] * attended.shape[3])
        return self.out_proj(rows.to(self.policy.linear))

    def _project(self, y: Tensor) -> Sequence[Tensor]:
        """Return queries, keys and values of tokens: (B * N, D) → three of the same shape."""
        if self.policy.narrow is None:
            return self.query(y), self.key(y), self.value(y)
        return self.qkv(y).chunk(3, dim=-1)


def attend_to_both(
    query: Tensor, past: tuple[Tensor, Tensor], own: tuple[Tensor, Tensor], mask: Tensor
) -> Tensor:
    """`scaled_attention` over earlier keys and values and new ones, which are not copied into one tensor.

    Args:
        query: (B, heads, N, head_dim), scaled.
        past: keys and values, (B, heads, M, head_dim) each.
        own: the same of N tokens.
        mask: added to the scores, broadcastable to (B, heads, N, M + N).

    Returns:
        (B, heads, N, head_dim).
    """
    scores = torch.cat([query @ key.transpose(-1, -2) for key, _ in (past, own)], dim=-1)
    weights = torch.softmax(scores + mask, dim=-1)
    earlier = past[0].shape[2]
    return weights[..., :earlier] @ past[1] + weights[..., earlier:] @ own[1]


class PatchEmbedding(nn.Module):
    """uint8 windows → tokens before ln_pre, with the normalisation folded into the projection.

    w · (p - mean) / std + 0 = (w / std) · p - w · mean / std, exact because the patch convolution has no padding.
    """

    class_token: Tensor
    position_grid: Tensor
    center: Tensor

    def __init__(
        self,
        visual: VisionTransformer,
        mean: Sequence[float],
        std: Sequence[float],
        policy: DtypePolicy = FLOAT32,
        *,
        rule: Positions = "bicubic",
        pads: bool = False,
    ) -> None:
        super().__init__()
        self.policy, self.rule, self.pads = policy, rule, pads
        weight = visual.conv1.weight.double()
        self.patch_size: int = weight.shape[-1]
        shift, scale = (torch.tensor(list(v), dtype=torch.float64).reshape(1, 3, 1, 1) for v in (mean, std))
        weight = weight / scale
        center = torch.zeros(3, dtype=torch.float64)
        if policy.linear != torch.float32:
            # Narrow products of raw pixels would cancel against a large bias. Differences of integers up to 256
            # are exact in float16 and bfloat16, and leave a bias near 0.
            center = torch.tensor(list(mean), dtype=torch.float64).round()
        elif pads:
            center = torch.tensor(
                list(mean), dtype=torch.float64
            )  # so that a padded 0 is a 0 after normalisation
        bias = (weight * (center.reshape(1, 3, 1, 1) - shift)).sum(dim=(1, 2, 3))
        self.centers = pads or policy.linear != torch.float32
        self.register_buffer("center", center.to(policy.linear).repeat(1 if pads else self.patch_size))
        # (D, 3, p, p) → (D, p, p, 3): the order of a uint8 (H, W, 3) patch in memory.
        weight = weight.permute(0, 2, 3, 1).flatten(1)
        self.proj = linear_copy(weight.float(), bias.float(), policy.linear)
        positions = visual.positional_embedding
        self.register_buffer("class_token", (visual.class_embedding + positions[0]).reshape(1, 1, -1).clone())
        side = int((positions.shape[0] - 1) ** 0.5)
        grid = positions[1:].reshape(1, side, side, -1).permute(0, 3, 1, 2)
        self.register_buffer("position_grid", grid.contiguous())  # (1, D, side, side)

    def positions(self, rows: int, columns: int) -> Tensor:
        """Return what is added to the projections: (1, 1 + rows * columns, D).

        First the class token with its position, then the patches' positions, from the trained grid (METHOD §7).
        """
        patches = resize_positions(self.position_grid, rows, columns, self.rule)
        return torch.cat([self.class_token, patches], dim=1)

    def patch_grid(self, height: int, width: int) -> tuple[int, int]:
        """(rows, columns) of patches of a window of so many pixels."""
        p = self.patch_size
        if self.pads:  # not -(-height // p): ONNX divides toward 0, not downward
            height, width = height + p - 1, width + p - 1
        return height // p, width // p

    def forward(self, windows: Tensor, positions: Tensor) -> Tensor:
        """uint8 (B, H, W, 3), positions (1, 1 + N, D) → float32 (B * (1 + N), D)."""
        p = self.patch_size
        _, height, width, _ = windows.shape
        rows, columns = self.patch_grid(height, width)
        pixels = windows.to(self.policy.linear)
        if self.pads:
            pixels = self._pad(pixels - self.center, rows * p - height, columns * p - width)
        pixels = pixels.view(-1, rows, p, columns, p * 3)
        if self.centers and not self.pads:
            pixels = pixels - self.center
        tokens = self.proj(pixels.transpose(2, 3).reshape(-1, p * p * 3)).to(self.policy.residual)
        tokens = tokens.view(-1, rows * columns, tokens.shape[-1])
        return (F.pad(tokens, (0, 0, 1, 0)) + positions).flatten(0, 1)

    @staticmethod
    def _pad(pixels: Tensor, vertical: int, horizontal: int) -> Tensor:
        """Zeros around (B, H, W, 3): the smaller half above and to the left."""
        top, left = vertical // 2, horizontal // 2
        return F.pad(pixels, (0, 0, left, horizontal - left, top, vertical - top))


class LastBlock(nn.Module):
    """The last block as SC-CLIP uses it: ln_1, keys, values and the output projection; queries and MLP are gone.

    Keys and values are one product where they are narrow, see `Block`.
    """

    def __init__(
        self,
        block: ResidualAttentionBlock,
        policy: DtypePolicy = FLOAT32,
    ) -> None:
        super().__init__()
        attention: Any = block.attn
        width: int = attention.embed_dim
        self.policy = policy
        self.joint = policy.narrow is not None
        self.num_heads: int = attention.num_heads
        key, value = attention.in_proj_weight[width:].chunk(2)
        key_bias, value_bias = attention.in_proj_bias[width:].chunk(2)
        self.ln_1 = block.ln_1
        if self.joint:
            self.key_value = linear_copy(
                torch.cat([key, value]), torch.cat([key_bias, value_bias]), policy.linear
            )
        else:
            self.key = linear_copy(key, key_bias, policy.linear)
            self.value = linear_copy(value, value_bias, policy.linear)
        # Of both passes together, each of which has the bias.
        self.sum_proj = linear_copy(attention.out_proj.weight, 2.0 * attention.out_proj.bias, policy.linear)

    def forward(self, adjusted: Tensor, levels: Tensor, similarity: Any, operations: Operations) -> Tensor:
        """Return attn(adjusted) + attn(levels): two (B, N, D) → (B, N, D).

        Args:
            adjusted: repaired and pre-adjusted patches.
            levels: the sum of multi-level fusion.
            similarity: of `operations`, of the guide's patches.
            operations: what attends.
        """
        policy, (length, width) = self.policy, adjusted.shape[1:]
        both = self.ln_1(torch.cat([adjusted, levels], dim=0)).to(policy.linear).view(-1, width)
        projected = (
            self.key_value(both).chunk(2, dim=-1) if self.joint else (self.key(both), self.value(both))
        )
        key, value = (x.to(policy.attention).view(2, -1, length, width) for x in projected)
        summed = operations.calibrated_attention(key, value, similarity, self.num_heads).to(policy.linear)
        return self.sum_proj(summed.reshape(-1, width)).to(policy.residual).view(-1, length, width)


class SplitLastBlock(nn.Module):
    """The last block as SFP uses it.

    The adjusted patches attend by key, by query and by similarity, the levels by similarity alone.
    """

    def __init__(
        self, block: ResidualAttentionBlock, similarity_floor: float, policy: DtypePolicy = FLOAT32
    ) -> None:
        super().__init__()
        attention: Any = block.attn
        self.policy, self.similarity_floor = policy, similarity_floor
        self.num_heads: int = attention.num_heads
        weights, biases = attention.in_proj_weight.chunk(3), attention.in_proj_bias.chunk(3)
        self.ln_1 = block.ln_1
        self.query, self.key, self.value = (
            linear_copy(weight, bias, policy.linear) for weight, bias in zip(weights, biases, strict=True)
        )
        # Of both passes together, each of which has the bias.
        self.sum_proj = linear_copy(attention.out_proj.weight, 2.0 * attention.out_proj.bias, policy.linear)

    def forward(self, adjusted: Tensor, levels: Tensor, similarity: Any, operations: Any) -> Tensor:
        """Return attn(adjusted) + attn(levels), see `LastBlock`; `operations` is plain torch."""
        policy, (length, width) = self.policy, adjusted.shape[1:]
        own, other = (self.ln_1(x).to(policy.linear).reshape(-1, width) for x in (adjusted, levels))
        query, key, value, level_value = (
            x.to(policy.attention).view(-1, length, width)
            for x in (self.query(own), self.key(own), self.value(own), self.value(other))
        )
        weights = operations.thresholded_attention(similarity, self.similarity_floor).to(value.dtype)
        by_similarity = weights @ (value * (1.0 / 3.0) + level_value)
        values = split_heads(value, self.num_heads)
        scale = values.shape[-1] ** -0.5
        attended = sum(
            operations.attend(x * scale, x, values, None)
            for x in (split_heads(key, self.num_heads), split_heads(query, self.num_heads))
        )
        summed = (by_similarity + merge_heads(attended) * (1.0 / 3.0)).to(policy.linear)
        return self.sum_proj(summed.reshape(-1, width)).to(policy.residual).view(-1, length, width)
