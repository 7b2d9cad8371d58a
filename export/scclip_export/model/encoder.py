"""The calibrated image encoder: open_clip's modules, wrapped in the form that is traced."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from scclip_export.model.blocks import Block, LastBlock, PatchEmbedding, linear_copy
from scclip_export.model.calibration import CalibrationConfig, Method, calibrate
from scclip_export.model.dtypes import FLOAT32, DtypePolicy
from scclip_export.model.geometry import CLIP_MEAN, CLIP_STD
from scclip_kernels import Attention, scaled_attention, unit_rows
from scclip_kernels.fastest import Kernels, check_kernels, use_triton
from scclip_kernels.operations import Operations, TorchOperations

# The modules are taken as they come: benchmarks/gpu runs where neither open_clip nor onnx is installed.
if TYPE_CHECKING:
    from open_clip.transformer import VisionTransformer


class CalibratedEncoder(nn.Module):
    """SC-CLIP's dense image encoder (METHOD §2): uint8 windows and query embeddings in, features and cosines out.

    Args:
        visual: open_clip's ViT, float32; nothing of it is changed.
        calibration: the parameters of SC-CLIP; ignored by the other methods.
        method: `scclip`; `maskclip` (the last block's value path); `none` (the ordinary last block).
        grid: (rows, columns) of patches, fixed in the graph; None for windows of any size.
        mean, std: per RGB channel, in 0..255 units.
        debug_outputs: also return the outlier indices.
        policy: the dtype of each stage; a value of `dtypes.POLICIES`.
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
        self.kernels, self.operations, self.attend = kernels, operations, attend
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
            self.last = LastBlock(blocks[-1], policy, joint=method == "scclip")
        self.ln_post = visual.ln_post
        self.proj = linear_copy(visual.proj.T, getattr(visual, "proj_bias", None), policy.linear)
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
        features, outliers = self.encode(self.hidden_states(windows), self.patch_grid(windows)[1])
        logits = features @ text.transpose(0, 1)
        if self.debug_outputs and outliers is not None:
            return features, logits, outliers.sort(dim=-1).values
        return features, logits

    def patch_grid(self, windows: Tensor) -> tuple[int, int]:
        """Return (rows, columns) of patches of uint8 (B, H, W, 3)."""
        patch = self.embedding.patch_size
        return self.grid or (windows.shape[1] // patch, windows.shape[2] // patch)

    def encode(self, hidden: list[Tensor], columns: int) -> tuple[Tensor, Tensor | None]:
        """Turn hidden states into unit features (B, N, E) float32 and, from SC-CLIP, outliers int64 (B, m)."""
        dense, outliers = self.dense_tokens(hidden, columns)
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

    def dense_tokens(self, hidden: list[Tensor], columns: int) -> tuple[Tensor, Tensor | None]:
        """Run the last block; return its patch tokens (B, N, D) and, from SC-CLIP, the outliers."""
        if self.method == "none":
            length, width = hidden[-1].shape[1:]
            return self.last(hidden[-1].view(-1, width), length).view(-1, length, width)[:, 1:], None
        if self.method == "maskclip":
            return self.last.values(hidden[-1][:, 1:]), None
        return calibrate(
            self.calibration,
            hidden,
            last=self.last,
            columns=columns,
            operations=self._operations_for(hidden[-1]),
            with_outliers=self.debug_outputs,
        )

    def _operations_for(self, tokens: Tensor) -> Operations:
        """What the calibration of tokens (B, 1 + N, D) runs on: what was given, else what `kernels` chooses."""
        if self.operations is not None:
            return self.operations
        windows, length = tokens.shape[:2]
        if self.kernels != "reference" and use_triton(
            self.kernels,
            device=tokens.device,
            dtype=self.policy.attention,
            num_patches=length - 1,
            num_windows=windows,
        ):
            from scclip_kernels.triton import operations

            return operations
        return TorchOperations(self.attend)
