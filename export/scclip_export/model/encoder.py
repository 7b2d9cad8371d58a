"""The dense image encoder: open_clip's modules, wrapped in the form that is traced, with the last block of a method."""

from __future__ import annotations

import copy
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from scclip_export.model.blocks import (
    Block,
    LastBlock,
    PatchEmbedding,
    SplitLastBlock,
    Tap,
    is_quick_gelu,
    linear_copy,
)
from scclip_export.model.calibration import CalibrationConfig, SfpConfig, calibrate
from scclip_export.model.dtypes import FLOAT32, DtypePolicy
from scclip_export.model.geometry import CLIP_MEAN, CLIP_STD
from scclip_export.model.last_block import DenseLastBlock, ValuePath
from scclip_export.model.parts import LastBlockParts, StreamParts
from scclip_export.model.stream import stream
from scclip_kernels import Attention, scaled_attention, unit_rows
from scclip_kernels.fastest import CALIBRATION, TRUNK, Kernels, check_kernels, use_triton
from scclip_kernels.operations import Operations, TorchOperations
from scclip_kernels.wide import wide

# The modules are taken as they come: benchmarks/gpu runs where neither open_clip nor onnx is installed.
if TYPE_CHECKING:
    from open_clip.transformer import VisionTransformer

_log = logging.getLogger("scclip_export")

Parts = CalibrationConfig | LastBlockParts | StreamParts
"""The description of a method."""


@dataclass(frozen=True, slots=True)
class Trunk:
    """What the blocks before the last leave behind.

    Attributes:
        hidden: the outputs F_0 .. F_{L-2}, each (B, 1 + N, D).
        taps: what the blocks that a method names attended with.
        salience: of block L-2, where a method asks: how much the class token attends to each patch, and each patch to
            itself, means over heads, (B, N) float32 each.
    """

    hidden: list[Tensor]
    taps: dict[int, Tap] = field(default_factory=dict)
    salience: tuple[Tensor, Tensor] | None = None


class CalibratedEncoder(nn.Module):
    """A dense image encoder (docs/methods.md): uint8 windows and query embeddings in, features and cosines out.

    Args:
        visual: open_clip's ViT, float32; nothing of it is changed.
        parts: the method, as `scclip_export.methods` describes it; a `CalibrationConfig` is SC-CLIP (METHOD §2).
        grid: (rows, columns) of patches, fixed in the graph; None for windows of any size.
        mean, std: per RGB channel, in 0..255 units.
        debug_outputs: also return the outlier indices, of a method that has them.
        policy: the dtype of each stage; a value of `dtypes.POLICIES`.
        attend: how attention is computed, or traced: `scaled_attention` or `attention_operator`.
        kernels: what SC-CLIP's calibration runs on: `reference` (plain torch, what is traced), `triton` (a GPU), or
            `auto` (what was measured to be faster, see `scclip_kernels.fastest`). Other methods have no kernels: a
            warning says so where `triton` is asked for.
        trunk: what the blocks before the last run on between their products, alike; `triton` fuses sums with norms,
            and QuickGELU with its product, and wants a narrow policy and a method that reads only block outputs.
        operations: other operations to run the calibration on, such as `scclip_export.engines.plugins.nodes`; None
            goes by `kernels`.
    """

    fixed_positions: Tensor

    def __init__(
        self,
        visual: VisionTransformer,
        parts: Parts,
        *,
        grid: tuple[int, int] | None,
        mean: Sequence[float] = CLIP_MEAN,
        std: Sequence[float] = CLIP_STD,
        debug_outputs: bool = False,
        policy: DtypePolicy = FLOAT32,
        attend: Attention = scaled_attention,
        kernels: Kernels = "reference",
        trunk: Kernels = "reference",
        operations: Operations | None = None,
    ) -> None:
        super().__init__()
        check_kernels(kernels)
        check_kernels(trunk)
        if kernels == "triton" and (isinstance(parts, SfpConfig) or not isinstance(parts, CalibrationConfig)):
            _log.warning("no part of this method has a Triton kernel: it runs on plain torch")
        self.kernels, self.trunk_kernels, self.operations, self.attend = kernels, trunk, operations, attend
        blocks = list(visual.transformer.resblocks)
        self.parts, self.grid, self.debug_outputs, self.policy = parts, grid, debug_outputs, policy
        self.embedding = PatchEmbedding(visual, mean, std, policy, rule=parts.positions, pads=parts.pads)
        self.ln_pre = visual.ln_pre
        self.blocks = nn.ModuleList(Block(block, policy, attend) for block in blocks[:-1])
        self.last: Any = _last_block(blocks[-1], parts, policy, attend)
        self.tapped = parts.taps(len(blocks))
        if trunk == "triton" and not self._can_fuse:
            raise ValueError(
                "trunk='triton' needs products in float16 or bfloat16 and a method that reads nothing inside the "
                "blocks before the last; use trunk='reference'"
            )
        self.quick_gelu = trunk != "reference" and is_quick_gelu(blocks[0].mlp.gelu)
        self.ln_post = visual.ln_post
        self.proj = linear_copy(visual.proj.T, getattr(visual, "proj_bias", None), policy.linear)
        if grid is not None:
            self.register_buffer("fixed_positions", self.embedding.positions(*grid).clone())

    def on_grid(self, grid: tuple[int, int] | None) -> CalibratedEncoder:
        """Return this encoder for another grid, see `grid`; both share their weights."""
        twin = copy.copy(self)
        twin._modules, twin._buffers, twin.grid = dict(self._modules), {}, grid
        if grid is not None:
            twin.register_buffer("fixed_positions", self.embedding.positions(*grid).clone())
        return twin

    @property
    def has_outliers(self) -> bool:
        """Whether the method finds outlier patches."""
        return isinstance(self.parts, CalibrationConfig) and self.parts.outlier_fraction > 0

    @property
    def class_row(self) -> bool:
        """Whether the features begin with the class token's."""
        return isinstance(self.parts, StreamParts) and self.parts.class_row

    def forward(self, windows: Tensor, text: Tensor) -> tuple[Tensor, ...]:
        """Encode windows.

        Args:
            windows: uint8 (B, H, W, 3), RGB.
            text: float32 (Q, E), unit rows.

        Returns:
            `features` float32 (B, N, E), unit rows unless the method adds a class term; N + 1 with a class row.
            `logits` float32 (B, N, Q): features · textᵀ. With `debug_outputs` also `outliers` int64 (B, m), ascending,
            -1 where there are fewer.
        """
        features, outliers = self.encode(self.trunk(windows), *self.patch_grid(windows))
        logits = features @ text.transpose(0, 1)
        if self.debug_outputs and outliers is not None:
            return features, logits, outliers.sort(dim=-1).values
        return features, logits

    def patch_grid(self, windows: Tensor) -> tuple[int, int]:
        """Return (rows, columns) of patches of uint8 (B, H, W, 3)."""
        return self.grid or self.embedding.patch_grid(windows.shape[1], windows.shape[2])

    def encode(self, trunk: Trunk, rows: int, columns: int) -> tuple[Tensor, Tensor | None]:
        """Turn what the trunk left into features (B, N, E) float32 and, if there are any, outliers int64 (B, m)."""
        dense, outliers = self.dense_tokens(trunk, rows, columns)
        length, width = dense.shape[1:]
        projected = self.proj(self.ln_post(dense).to(self.policy.linear).view(-1, width))
        features = unit_rows(projected.view(-1, length, self.proj.out_features))
        weight = self.parts.class_weight
        if weight != 0.0:
            features = features.narrow(1, 1, length - 1) + weight * features.narrow(1, 0, 1)
        return features, outliers

    def trunk(self, windows: Tensor) -> Trunk:
        """Run every block but the last on uint8 (B, H, W, 3)."""
        rows, columns = self.patch_grid(windows)
        positions = self.fixed_positions if self.grid else self.embedding.positions(rows, columns)
        tokens = self.ln_pre(self.embedding(windows, positions))
        length, width = 1 + rows * columns, tokens.shape[-1]
        blocks: Any = self.blocks
        if self._fuses(tokens, length):
            from scclip_export.model.fused import run_fused

            return Trunk(
                [x.view(-1, length, width) for x in run_fused(blocks, tokens, length, self.quick_gelu)]
            )
        hidden: list[Tensor] = []
        taps: dict[int, Tap] = {}
        salience = None
        for index, block in enumerate(blocks):
            if index in self.tapped:
                taps[index] = tap = block.tap(tokens, length)
                tokens = block.finish(tokens, self.attend(tap.query, tap.key, tap.value, None))
            elif self._wants_salience and index == len(self.blocks) - 1:
                tokens, salience = _salient(block, tokens, length)
            else:
                tokens = block(tokens, length)
            hidden.append(tokens.view(-1, length, width))
        return Trunk(hidden, taps, salience)

    @property
    def _can_fuse(self) -> bool:
        """Whether the trunk can run on kernels: they take narrow products, and keep no queries, keys or values."""
        return self.policy.linear.itemsize < 4 and not (self.tapped or self._wants_salience)

    def _fuses(self, tokens: Tensor, length: int) -> bool:
        """Whether the trunk runs on kernels for tokens (B * N, D), `length` being N."""
        return self._can_fuse and use_triton(
            self.trunk_kernels,
            operations=TRUNK,
            device=tokens.device,
            dtype=self.policy.linear,
            num_patches=length - 1,
            num_windows=tokens.shape[0] // length,
        )

    @property
    def _wants_salience(self) -> bool:
        return isinstance(self.parts, SfpConfig) and self.has_outliers and self.parts.detector == "attention"

    def dense_tokens(self, trunk: Trunk, rows: int, columns: int) -> tuple[Tensor, Tensor | None]:
        """Run the last block; return the tokens (B, N, D) that become features, and the outliers."""
        parts, hidden = self.parts, trunk.hidden
        length, width = hidden[-1].shape[1:]
        if isinstance(parts, CalibrationConfig):
            return calibrate(
                parts,
                hidden,
                last=self.last,
                columns=columns,
                operations=self._operations_for(hidden[-1]),
                salience=trunk.salience,
                with_outliers=self.debug_outputs,
            )
        if isinstance(parts, StreamParts):
            dense = stream(parts, hidden, trunk.taps, self.blocks, self.last)
            return (dense if parts.class_row else dense[:, 1:]), None
        if isinstance(self.last, ValuePath):
            return self.last(hidden[-1][:, 1:]), None
        if isinstance(self.last, DenseLastBlock):
            dense = self.last.dense(hidden[-1], trunk.taps, rows, columns)
        else:
            dense = self.last(hidden[-1].view(-1, width), length).view(-1, length, width)
        return (dense if parts.class_weight else dense[:, 1:]), None

    def _operations_for(self, tokens: Tensor) -> Operations:
        """What the calibration of tokens (B, 1 + N, D) runs on: what was given, else what `kernels` chooses."""
        if self.operations is not None:
            return self.operations
        windows, length = tokens.shape[:2]
        if (
            self.kernels != "reference"
            and not isinstance(self.parts, SfpConfig)
            and use_triton(
                self.kernels,
                operations=CALIBRATION,
                device=tokens.device,
                dtype=self.policy.attention,
                num_patches=length - 1,
                num_windows=windows,
            )
        ):
            from scclip_kernels.triton import operations

            return operations
        return TorchOperations(self.attend)


def _last_block(block: Any, parts: Parts, policy: DtypePolicy, attend: Attention) -> nn.Module:
    """The last block of a method."""
    if isinstance(parts, SfpConfig):
        return SplitLastBlock(block, parts.similarity_floor, policy)
    if isinstance(parts, CalibrationConfig):
        return LastBlock(block, policy)
    if isinstance(parts, StreamParts):
        return Block(block, policy, attend)
    kinds = [(term.scores, term.weight, term.sigma, term.block) for term in parts.terms]
    if kinds == [("qk", 1.0, None, None)] and parts.residual:
        return Block(block, policy, attend)
    if kinds == [("identity", 1.0, None, None)] and not (parts.residual or parts.class_weight):
        return ValuePath(block, policy)  # the class token can be left out: no patch attends to it
    return DenseLastBlock(block, parts, policy, attend)


def _salient(block: Block, tokens: Tensor, length: int) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """Run a block (B * (1 + N), D); return its output with `Trunk.salience`."""
    tap = block.tap(tokens, length)
    weights = torch.softmax(wide(tap.query @ tap.key.transpose(-1, -2)), dim=-1)
    index = torch.arange(length, device=tokens.device)
    itself = (index.unsqueeze(0) == index.unsqueeze(1)).float()
    to_class = weights.narrow(2, 0, 1).squeeze(2).mean(dim=1).narrow(1, 1, length - 1)
    to_itself = (weights.mean(dim=1) * itself).sum(dim=-1).narrow(1, 1, length - 1)
    return block.finish(tokens, weights.to(tap.value.dtype) @ tap.value), (to_class, to_itself)
