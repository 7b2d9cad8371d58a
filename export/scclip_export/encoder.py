"""The calibrated image encoder and the text encoder: open_clip's modules, wrapped in the form that is traced.

Wrapping, not forking: weights are read from open_clip's modules, and what can be folded into them once is folded here
(normalisation into the patch projection, the attention scale into the query weights, LayerScale into the projections).
"""

from collections.abc import Sequence
from typing import Any

import torch
from open_clip.model import CLIP
from open_clip.transformer import ResidualAttentionBlock, VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from scclip_export.config import CLIP_MEAN, CLIP_STD, CalibrationConfig, Method
from scclip_kernels import (
    affinity,
    aggregate,
    anomaly_scores,
    calibrated_attention,
    cosine_similarity,
    merge_heads,
    neighbor_weights,
    outlier_indices,
    resolve,
    scaled_attention,
    similarity_attention,
    split_heads,
)


def _linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    layer.weight = nn.Parameter(weight.detach().clone(), requires_grad=False)
    if bias is not None:
        layer.bias = nn.Parameter(bias.detach().clone(), requires_grad=False)
    return layer


def _scaled_linear(layer: nn.Linear, scale: nn.Module) -> nn.Linear:
    """Return `layer` with a LayerScale that follows it folded in."""
    gamma = getattr(scale, "gamma", None)
    if gamma is None:
        return layer
    return _linear(layer.weight * gamma.unsqueeze(1), layer.bias * gamma)


class Block(nn.Module):
    """One transformer block of CLIP: x + attention(ln_1 x), then + mlp(ln_2 x)."""

    def __init__(self, block: ResidualAttentionBlock) -> None:
        super().__init__()
        attention = block.attn
        self.num_heads: int = attention.num_heads
        scale = (attention.embed_dim // self.num_heads) ** -0.5
        folded = torch.ones(3 * attention.embed_dim, 1)
        folded[: attention.embed_dim] = scale
        self.ln_1 = block.ln_1
        self.qkv = _linear(attention.in_proj_weight * folded, attention.in_proj_bias * folded.squeeze(1))
        self.out_proj = _scaled_linear(attention.out_proj, block.ls_1)
        self.ln_2 = block.ln_2
        self.fc = block.mlp.c_fc
        self.activation = block.mlp.gelu
        self.proj = _scaled_linear(block.mlp.c_proj, block.ls_2)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """(B, N, D) → (B, N, D); `mask` is added to the attention scores."""
        query, key, value = (
            split_heads(part, self.num_heads) for part in self.qkv(self.ln_1(x)).chunk(3, dim=-1)
        )
        x = x + self.out_proj(merge_heads(scaled_attention(query, key, value, mask)))
        return x + self.proj(self.activation(self.fc(self.ln_2(x))))


class PatchEmbedding(nn.Module):
    """uint8 windows → tokens before ln_pre, with the normalisation folded into the projection.

    w · (p - mean) / std + 0 = (w / std) · p - w · mean / std, exact because the patch convolution has no padding.
    """

    class_token: Tensor
    position_grid: Tensor

    def __init__(self, visual: VisionTransformer, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        weight = visual.conv1.weight.double()
        self.patch_size: int = weight.shape[-1]
        shift, scale = (torch.tensor(list(v), dtype=torch.float64).reshape(1, 3, 1, 1) for v in (mean, std))
        weight = weight / scale
        bias = -(weight * shift).sum(dim=(1, 2, 3))
        # (D, 3, p, p) → (D, p, p, 3): the order of a uint8 (H, W, 3) patch in memory.
        self.proj = _linear(weight.permute(0, 2, 3, 1).flatten(1).float(), bias.float())
        positions = visual.positional_embedding
        self.register_buffer("class_token", (visual.class_embedding + positions[0]).reshape(1, 1, -1).clone())
        side = int((positions.shape[0] - 1) ** 0.5)
        grid = positions[1:].reshape(1, side, side, -1).permute(0, 3, 1, 2)
        self.register_buffer("position_grid", grid.contiguous())  # (1, D, side, side)

    def positions(self, rows: int, columns: int) -> Tensor:
        """Return patch positions (1, rows * columns, D), bicubic from the trained grid (METHOD §7)."""
        grid = self.position_grid
        if torch.compiler.is_exporting() or (rows, columns) != tuple(grid.shape[-2:]):
            grid = F.interpolate(
                grid, size=(rows, columns), mode="bicubic", align_corners=False, antialias=False
            )
        return grid.flatten(2).transpose(1, 2)

    def forward(self, windows: Tensor, positions: Tensor) -> Tensor:
        """uint8 (B, H, W, 3), positions (1, N, D) → float32 (B, 1 + N, D)."""
        p = self.patch_size
        batch, height, width, _ = windows.shape
        pixels = windows.to(self.proj.weight.dtype).reshape(batch, height // p, p, width // p, p * 3)
        patches = pixels.transpose(2, 3).reshape(batch, (height // p) * (width // p), p * p * 3)
        tokens = self.proj(patches) + positions
        return torch.cat([self.class_token.expand(batch, -1, -1), tokens], dim=1)


class LastBlock(nn.Module):
    """The last block as SC-CLIP uses it: ln_1, keys, values and the output projection; queries and MLP are gone."""

    def __init__(self, block: ResidualAttentionBlock) -> None:
        super().__init__()
        attention: Any = block.attn
        width: int = attention.embed_dim
        self.num_heads: int = attention.num_heads
        self.ln_1 = block.ln_1
        self.key_value = _linear(attention.in_proj_weight[width:], attention.in_proj_bias[width:])
        self.out_proj = attention.out_proj

    def forward(self, resolved: Tensor, fused: Tensor, weights: Tensor) -> Tensor:
        """Return attn(resolved) + attn(fused): two (B, N, D) → (B, N, D), `weights` (B, N, N)."""
        stacked = torch.cat([resolved, fused], dim=0)
        key, value = self.key_value(self.ln_1(stacked)).unflatten(0, (2, -1)).chunk(2, dim=-1)
        summed = calibrated_attention(key, value, weights, self.num_heads)
        return F.linear(summed, self.out_proj.weight, 2.0 * self.out_proj.bias)

    def values(self, x: Tensor) -> Tensor:
        """Return the value path alone (MaskCLIP): out_proj(v(ln_1 x)), (B, N, D) → (B, N, D)."""
        width = x.shape[-1]
        value = F.linear(self.ln_1(x), self.key_value.weight[width:], self.key_value.bias[width:])
        return self.out_proj(value)


class CalibratedEncoder(nn.Module):
    """SC-CLIP's dense image encoder (METHOD §2): uint8 windows and query embeddings in, features and cosines out.

    Args:
        visual: open_clip's ViT, float32.
        calibration: the parameters of SC-CLIP; ignored by the other methods.
        method: `scclip`; `maskclip` (the last block's value path); `none` (the ordinary last block).
        grid: (rows, columns) of patches, fixed in the graph; None for windows of any size.
        mean, std: per RGB channel, in 0..255 units.
        debug_outputs: also return the outlier indices.
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
    ) -> None:
        super().__init__()
        blocks = list(visual.transformer.resblocks)
        self.calibration, self.method, self.grid, self.debug_outputs = (
            calibration,
            method,
            grid,
            debug_outputs,
        )
        self.embedding = PatchEmbedding(visual, mean, std)
        self.ln_pre = visual.ln_pre
        self.blocks = nn.ModuleList(Block(block) for block in blocks[:-1])
        self.last: Any = Block(blocks[-1]) if method == "none" else LastBlock(blocks[-1])
        self.ln_post = visual.ln_post
        self.proj = _linear(visual.proj.T, None)
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
        patch = self.embedding.patch_size
        rows, columns = self.grid or (windows.shape[1] // patch, windows.shape[2] // patch)
        positions = self.fixed_positions if self.grid else self.embedding.positions(rows, columns)
        hidden = self.run_blocks(self.ln_pre(self.embedding(windows, positions)))
        dense, outliers = self.dense_tokens(hidden, rows, columns)
        features = F.normalize(self.proj(self.ln_post(dense)).float(), dim=-1)
        logits = features @ text.transpose(0, 1)
        if self.debug_outputs and outliers is not None:
            return features, logits, outliers.sort(dim=-1).values
        return features, logits

    def run_blocks(self, tokens: Tensor) -> list[Tensor]:
        """Run every block but the last; return the outputs F_0 .. F_{L-2}, each (B, 1 + N, D)."""
        hidden = []
        for block in self.blocks:
            tokens = block(tokens)
            hidden.append(tokens)
        return hidden

    def dense_tokens(self, hidden: list[Tensor], rows: int, columns: int) -> tuple[Tensor, Tensor | None]:
        """Run the last block; return its patch tokens (B, N, D) and, from SC-CLIP, the outliers."""
        if self.method == "none":
            return self.last(hidden[-1])[:, 1:], None
        if self.method == "maskclip":
            return self.last.values(hidden[-1][:, 1:]), None
        return self.calibrate(hidden, rows, columns)

    def calibrate(self, hidden: list[Tensor], rows: int, columns: int) -> tuple[Tensor, Tensor | None]:
        """SC-CLIP proper (paper §3.2 and §3.3): resolve anomalies, pre-adjust, attend, fuse levels, post-adjust."""
        config = self.calibration
        class_token, patches = hidden[-1][:, :1], hidden[-1][:, 1:]
        guide = hidden[config.pre_layer][:, 1:]
        outliers = None
        if config.outlier_fraction > 0:
            scores = anomaly_scores(patches, config.outlier_neighbors)
            outliers = outlier_indices(scores, config.outliers(rows * columns))
            weights = neighbor_weights(outliers, rows, columns)
            patches, guide = (resolve(x, outliers, weights) for x in (patches, guide))

        similarity = cosine_similarity(guide)
        adjusted = aggregate(patches, affinity(similarity, config.similarity_floor))

        start, end = config.fusion_layers
        fused = torch.stack(hidden[start:end]).sum(dim=0) if end - start > 1 else hidden[start]
        attended = self.last(adjusted, fused[:, 1:], similarity_attention(similarity))
        residual = config.cls_residual * (class_token + fused[:, :1])

        smoothing = affinity(cosine_similarity(hidden[config.post_layer][:, 1:]), config.similarity_floor)
        return aggregate(attended + residual, smoothing), outliers


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
        length = tokens.shape[1]
        rows = tokens if self.row_of_token is None else self.row_of_token[tokens]
        x = F.embedding(rows, self.table) + self.positions[:length]
        index = torch.arange(length, device=tokens.device)
        mask = torch.where(index.unsqueeze(0) > index.unsqueeze(1), float("-inf"), 0.0)
        for block in self.blocks:
            x = block(x, mask)
        end = tokens.argmax(dim=-1)  # the end token has the highest id
        at_end = torch.gather(x, 1, end.reshape(-1, 1, 1).expand(-1, 1, x.shape[-1])).squeeze(1)
        return F.normalize(self.proj(self.ln_final(at_end)), dim=-1)
