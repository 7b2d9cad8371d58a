"""The calibrated image encoder and the text encoder: open_clip's modules, wrapped in the form that is traced.

Wrapping, not forking: weights are read from open_clip's modules, and what can be folded into them once is folded here
(normalisation into the patch projection, the attention scale into the query weights, LayerScale into the projections).
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from scclip_export.model.calibration import CLIP_MEAN, CLIP_STD, CalibrationConfig, Method
from scclip_export.model.dtypes import FLOAT32, DtypePolicy, saturate
from scclip_export.model.operations import FusedAttention, Operations, calibrate_fused, fused_operations
from scclip_kernels import (
    Attention,
    affinity,
    aggregate,
    anomaly_scores,
    calibrated_attention,
    cosine_similarity,
    neighbor_weights,
    outlier_indices,
    resolve,
    scaled_attention,
    similarity_attention,
    unit_rows,
)
from scclip_kernels.fastest import Kernels, check_kernels

# The modules are taken as they come: benchmarks/gpu runs where neither open_clip nor onnx is installed.
if TYPE_CHECKING:
    from open_clip.model import CLIP
    from open_clip.transformer import ResidualAttentionBlock, VisionTransformer


def _linear(weight: Tensor, bias: Tensor | None, dtype: torch.dtype = torch.float32) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    layer.weight = nn.Parameter(weight.detach().to(dtype, copy=True), requires_grad=False)
    if bias is not None:
        layer.bias = nn.Parameter(bias.detach().to(dtype, copy=True), requires_grad=False)
    return layer


def _scaled_linear(layer: nn.Linear, scale: nn.Module, dtype: torch.dtype) -> nn.Linear:
    """Return `layer` with a LayerScale that follows it folded in."""
    gamma = getattr(scale, "gamma", None)
    if gamma is None:
        return _linear(layer.weight, layer.bias, dtype)
    return _linear(layer.weight * gamma.unsqueeze(1), layer.bias * gamma, dtype)


def attention_operator(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
    """`scaled_attention` as one ONNX operator (Attention, opset 23).

    The softmax's type is the engine's own: TensorRT for RTX 1.7 refuses the attribute `softmax_precision`.
    """
    return torch.onnx.ops.attention(query, key, value, mask, scale=1.0)[0]


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
            self.query = _linear(query * scale, query_bias * scale, linear)
            self.key, self.value = _linear(key, key_bias, linear), _linear(value, value_bias, linear)
        else:
            weight = torch.cat([query * scale, key, value])
            self.qkv = _linear(weight, torch.cat([query_bias * scale, key_bias, value_bias]), linear)
        self.out_proj = _scaled_linear(attention.out_proj, block.ls_1, linear)
        self.ln_2 = block.ln_2
        self.fc = _linear(block.mlp.c_fc.weight, block.mlp.c_fc.bias, linear)
        self.activation = block.mlp.gelu
        self.proj = _scaled_linear(block.mlp.c_proj, block.ls_2, linear)

    def forward(self, x: Tensor, length: int, mask: Tensor | None = None) -> Tensor:
        """(B * N, D) → (B * N, D), `length` is N; `mask` is added to the attention scores."""
        policy, width = self.policy, x.shape[-1]
        y = self.ln_1(x).to(policy.linear)
        query, key, value = (
            x.to(policy.attention).view(-1, length, self.num_heads, width // self.num_heads).transpose(1, 2)
            for x in self._project(y)
        )
        attended = self.attend(query, key, value, mask).transpose(1, 2).reshape(-1, width)
        x = x + self.out_proj(attended.to(policy.linear)).to(policy.residual)
        y = self.activation(self.fc(self.ln_2(x).to(policy.linear)))
        return x + self.proj(y).to(policy.residual)

    def _project(self, y: Tensor) -> Sequence[Tensor]:
        """Return queries, keys and values of tokens: (B * N, D) → three of the same shape."""
        if self.policy.narrow is None:
            return self.query(y), self.key(y), self.value(y)
        return self.qkv(y).chunk(3, dim=-1)


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
    ) -> None:
        super().__init__()
        self.policy = policy
        weight = visual.conv1.weight.double()
        self.patch_size: int = weight.shape[-1]
        shift, scale = (torch.tensor(list(v), dtype=torch.float64).reshape(1, 3, 1, 1) for v in (mean, std))
        weight = weight / scale
        center = torch.zeros(3, dtype=torch.float64)
        if policy.linear != torch.float32:
            # Narrow products of raw pixels would cancel against a large bias. Differences of integers up to 256
            # are exact in float16 and bfloat16, and leave a bias near 0.
            center = torch.tensor(list(mean), dtype=torch.float64).round()
        bias = (weight * (center.reshape(1, 3, 1, 1) - shift)).sum(dim=(1, 2, 3))
        self.register_buffer("center", center.to(policy.linear).repeat(self.patch_size))
        # (D, 3, p, p) → (D, p, p, 3): the order of a uint8 (H, W, 3) patch in memory.
        weight = weight.permute(0, 2, 3, 1).flatten(1)
        self.proj = _linear(weight.float(), bias.float(), policy.linear)
        positions = visual.positional_embedding
        self.register_buffer("class_token", (visual.class_embedding + positions[0]).reshape(1, 1, -1).clone())
        side = int((positions.shape[0] - 1) ** 0.5)
        grid = positions[1:].reshape(1, side, side, -1).permute(0, 3, 1, 2)
        self.register_buffer("position_grid", grid.contiguous())  # (1, D, side, side)

    def positions(self, rows: int, columns: int) -> Tensor:
        """Return what is added to the projections: (1, 1 + rows * columns, D).

        First the class token with its position, then the patches' positions, bicubic from the trained grid (METHOD §7).
        """
        grid = self.position_grid
        if torch.compiler.is_exporting() or (rows, columns) != tuple(grid.shape[-2:]):
            grid = F.interpolate(
                grid, size=(rows, columns), mode="bicubic", align_corners=False, antialias=False
            )
        return torch.cat([self.class_token, grid.flatten(2).transpose(1, 2)], dim=1)

    def forward(self, windows: Tensor, positions: Tensor) -> Tensor:
        """uint8 (B, H, W, 3), positions (1, 1 + N, D) → float32 (B * (1 + N), D)."""
        p = self.patch_size
        _, height, width, _ = windows.shape
        rows, columns = height // p, width // p
        pixels = windows.to(self.policy.linear).view(-1, rows, p, columns, p * 3)
        if self.policy.linear != torch.float32:
            pixels = pixels - self.center
        tokens = self.proj(pixels.transpose(2, 3).reshape(-1, p * p * 3)).to(self.policy.residual)
        tokens = tokens.view(-1, rows * columns, tokens.shape[-1])
        return (F.pad(tokens, (0, 0, 1, 0)) + positions).flatten(0, 1)


class LastBlock(nn.Module):
    """The last block as SC-CLIP uses it: ln_1, keys, values and the output projection; queries and MLP are gone.

    With `joint` keys and values are one product where they are narrow; without it `values` can be had alone.
    """

    def __init__(
        self,
        block: ResidualAttentionBlock,
        policy: DtypePolicy = FLOAT32,
        attend: Attention = scaled_attention,
        *,
        joint: bool = True,
    ) -> None:
        super().__init__()
        attention: Any = block.attn
        width: int = attention.embed_dim
        self.policy, self.attend = policy, attend
        self.joint = joint and policy.narrow is not None  # see Block
        self.num_heads: int = attention.num_heads
        key, value = attention.in_proj_weight[width:].chunk(2)
        key_bias, value_bias = attention.in_proj_bias[width:].chunk(2)
        self.ln_1 = block.ln_1
        if self.joint:
            self.key_value = _linear(
                torch.cat([key, value]), torch.cat([key_bias, value_bias]), policy.linear
            )
        else:
            self.key = _linear(key, key_bias, policy.linear)
            self.value = _linear(value, value_bias, policy.linear)
        self.out_proj = _linear(attention.out_proj.weight, attention.out_proj.bias, policy.linear)
        # Of both passes together, each of which has the bias.
        self.sum_proj = _linear(attention.out_proj.weight, 2.0 * attention.out_proj.bias, policy.linear)

    def forward(self, resolved: Tensor, fused: Tensor, weights: Tensor | FusedAttention) -> Tensor:
        """Return attn(resolved) + attn(fused): two (B, N, D) → (B, N, D).

        `weights` is P (B, N, N), or what computes both passes from their keys and values.
        """
        policy, (length, width) = self.policy, resolved.shape[1:]
        both = self.ln_1(torch.cat([resolved, fused], dim=0)).to(policy.linear).view(-1, width)
        projected = (
            self.key_value(both).chunk(2, dim=-1) if self.joint else (self.key(both), self.value(both))
        )
        key, value = (x.to(policy.attention).view(2, -1, length, width) for x in projected)
        if isinstance(weights, Tensor):
            summed = calibrated_attention(key, value, weights, self.num_heads, self.attend)
        else:
            summed = weights(key, value, self.num_heads)
        summed = summed.to(policy.linear)
        return self.sum_proj(summed.reshape(-1, width)).to(policy.residual).view(-1, length, width)

    def values(self, x: Tensor) -> Tensor:
        """Return the value path alone (MaskCLIP): out_proj(v(ln_1 x)), (B, N, D) → (B, N, D)."""
        length, width = x.shape[1:]
        value = self.value(self.ln_1(x).to(self.policy.linear).view(-1, width))
        return self.out_proj(value).to(self.policy.residual).view(-1, length, width)


class CalibratedEncoder(nn.Module):
    """SC-CLIP's dense image encoder (METHOD §2): uint8 windows and query embeddings in, features and cosines out.

    Args:
        visual: open_clip's ViT, float32; nothing of it is changed.
        calibration: the parameters of SC-CLIP; ignored by the other methods.
        method: `scclip`; `maskclip` (the last block's value path); `none` (the ordinary last block).
        grid: (rows, columns) of patches, fixed in the graph; None for windows of any size.
        mean, std: per RGB channel, in 0..255 units.
        debug_outputs: also return the outlier indices.
        policy: the dtype of each stage; a value of `precision.POLICIES`.
        attend: how attention is computed, or traced: `scaled_attention` or `attention_operator`.
        kernels: what the calibration runs on: `reference` (plain torch, what is traced), `triton` (a GPU), or `auto`
            (what was measured to be faster, see `scclip_kernels.fastest`).
        operations: other operations to run the calibration on, such as `scclip_export.engines.plugins.nodes`; None
            goes by `kernels`.
    """

    fixed_positions: Tensor

    def __init__(
        self,
        visual: VisionTransformer,
        calibration: CalibrationConfig,
        *,
        method: Method = "scclip",
        grid: tuple[int, int] | None,
        mean: Sequence[float] = CLIP_MEAN,
        std: Sequence[float] = CLIP_STD,
        debug_outputs: bool = False,
        policy: DtypePolicy = FLOAT32,
        attend: Attention = scaled_attention,
        kernels: Kernels = "reference",
        operations: Operations | None = None,
    ) -> None:
        super().__init__()
        check_kernels(kernels)
        self.kernels, self.operations = kernels, operations
        blocks = list(visual.transformer.resblocks)
        self.calibration, self.method, self.grid, self.debug_outputs = (
            calibration,
            method,
            grid,
            debug_outputs,
        )
        self.policy = policy
        self.embedding = PatchEmbedding(visual, mean, std, policy)
        self.ln_pre = visual.ln_pre
        self.blocks = nn.ModuleList(Block(block, policy, attend) for block in blocks[:-1])
        self.last: Any
        if method == "none":
            self.last = Block(blocks[-1], policy, attend)
        else:
            self.last = LastBlock(blocks[-1], policy, attend, joint=method == "scclip")
        self.ln_post = visual.ln_post
        self.proj = _linear(visual.proj.T, None, policy.linear)
        if grid is not None:
            self.register_buffer("fixed_positions", self.embedding.positions(*grid).clone())

    def forward(self, windows: Tensor, text: Tensor) -> tuple[Tensor, ...]:
        """Encode windows.

        Args:
            windows: uint8 (B, H, W, 3), RGB.
            text: float32 (Q, E), unit rows.

        Returns:
            `features` float32 (B, N, E), unit rows; `logits` float32 (B, N, Q), cosines; with `debug_outputs` also
            `outliers` int64 (B, m), ascending.
        """
        features, outliers = self.encode(self.hidden_states(windows), *self.patch_grid(windows))
        logits = features @ text.transpose(0, 1)
        if self.debug_outputs and outliers is not None:
            return features, logits, outliers.sort(dim=-1).values
        return features, logits

    def patch_grid(self, windows: Tensor) -> tuple[int, int]:
        """Return (rows, columns) of patches of uint8 (B, H, W, 3)."""
        patch = self.embedding.patch_size
        return self.grid or (windows.shape[1] // patch, windows.shape[2] // patch)

    def encode(self, hidden: list[Tensor], rows: int, columns: int) -> tuple[Tensor, Tensor | None]:
        """Turn hidden states into unit features (B, N, E) float32 and, from SC-CLIP, outliers int64 (B, m)."""
        dense, outliers = self.dense_tokens(hidden, rows, columns)
        length, width = dense.shape[1:]
        projected = self.proj(self.ln_post(dense).to(self.policy.linear).view(-1, width))
        return unit_rows(projected.view(-1, length, self.proj.out_features)), outliers

    def hidden_states(self, windows: Tensor) -> list[Tensor]:
        """Run every block but the last on uint8 (B, H, W, 3); return F_0 .. F_{L-2}, each (B, 1 + N, D)."""
        rows, columns = self.patch_grid(windows)
        positions = self.fixed_positions if self.grid else self.embedding.positions(rows, columns)
        tokens = self.ln_pre(self.embedding(windows, positions))
        length, width = 1 + rows * columns, tokens.shape[-1]
        hidden = []
        for block in self.blocks:
            tokens = block(tokens, length)
            hidden.append(tokens.view(-1, length, width))
        return hidden

    def dense_tokens(self, hidden: list[Tensor], rows: int, columns: int) -> tuple[Tensor, Tensor | None]:
        """Run the last block; return its patch tokens (B, N, D) and, from SC-CLIP, the outliers."""
        if self.method == "none":
            length, width = hidden[-1].shape[1:]
            return self.last(hidden[-1].view(-1, width), length).view(-1, length, width)[:, 1:], None
        if self.method == "maskclip":
            return self.last.values(hidden[-1][:, 1:]), None
        return self.calibrate(hidden, rows, columns)

    def calibrate(self, hidden: list[Tensor], rows: int, columns: int) -> tuple[Tensor, Tensor | None]:
        """SC-CLIP proper (paper §3.2 and §3.3): resolve anomalies, pre-adjust, attend, fuse levels, post-adjust."""
        config = self.calibration
        count = rows * columns
        operations = fused_operations(self, hidden[-1], count)
        if operations is not None:
            return calibrate_fused(self, hidden, rows, columns, operations)
        # narrow, not [:, 1:]: that one is traced as two Slices.
        class_token, patches = hidden[-1].narrow(1, 0, 1), hidden[-1].narrow(1, 1, count)
        guide = hidden[config.pre_layer].narrow(1, 1, count)
        outliers = None
        if config.outlier_fraction > 0:
            scores = anomaly_scores(patches, config.outlier_neighbors)
            outliers = outlier_indices(scores, config.outliers(count))
            weights = neighbor_weights(outliers, rows, columns)
            patches, guide = (resolve(x, outliers, weights) for x in (patches, guide))

        similarity = cosine_similarity(guide)
        adjusted = self._aggregate(patches, affinity(similarity, config.similarity_floor))

        start, end = config.fusion_layers
        fused = functools.reduce(torch.add, hidden[start:end])
        attended = self.last(adjusted, fused.narrow(1, 1, count), similarity_attention(similarity))
        residual = config.cls_residual * (class_token + fused.narrow(1, 0, 1))

        smoothing = affinity(
            cosine_similarity(hidden[config.post_layer].narrow(1, 1, count)), config.similarity_floor
        )
        return self._aggregate(attended + residual, smoothing), outliers

    def _aggregate(self, x: Tensor, weights: Tensor) -> Tensor:
        return aggregate(saturate(x, self.policy.aggregation), weights).to(self.policy.residual)


class TextEncoder(nn.Module):
    """CLIP's text tower on tokens cut to any length (the mask is causal, so cutting after the end token is exact).

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
        self.blocks = nn.ModuleList(Block(block) for block in clip.transformer.resblocks)
        self.ln_final = clip.ln_final
        self.proj = _linear(clip.text_projection.T, None)

    def forward(self, tokens: Tensor) -> Tensor:
        """int64 (B, T), T ≤ context length → float32 (B, E), unit rows."""
        length, width = tokens.shape[1], self.table.shape[1]
        rows = tokens if self.row_of_token is None else self.row_of_token[tokens]
        x = (F.embedding(rows, self.table) + self.positions[:length]).view(-1, width)
        index = torch.arange(length, device=tokens.device)
        mask = torch.where(index.unsqueeze(0) > index.unsqueeze(1), float("-inf"), 0.0)
        for block in self.blocks:
            x = block(x, length, mask)
        x = x.view(-1, length, width)
        end = tokens.argmax(dim=-1)  # the end token has the highest id
        at_end = torch.gather(x, 1, end.reshape(-1, 1, 1).expand(-1, 1, width)).squeeze(1)
        return unit_rows(self.proj(self.ln_final(at_end)))
