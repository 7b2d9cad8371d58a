"""CLIP image towers for benchmarks/gpu, built without open_clip: calibrated, plain and naive encoders.

Weights are synthetic (tests/synthetic.py): the time of a matrix product does not depend on its numbers.
"""

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from oracles.scclip import NaiveScclip
from scclip_export.methods.last_block import PLAIN
from scclip_export.model.calibration import CalibrationConfig, calibration_for
from scclip_export.model.dtypes import POLICIES
from scclip_export.model.encoder import CalibratedEncoder
from scclip_rt.bench.flops import Flops, count_flops
from synthetic import ARCHITECTURES, clip_state_dict

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
WINDOW, STRIDE, SHORT_SIDE = 224, 112, 336


class _QuickGelu(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.702 * x)


class _Block(nn.Module):
    """open_clip's ResidualAttentionBlock, by the names that `scclip_export.model.encoder` reads."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn = nn.MultiheadAttention(width, heads)
        self.ls_1 = self.ls_2 = nn.Identity()
        self.mlp = nn.Sequential()
        for name, part in (
            ("c_fc", nn.Linear(width, 4 * width)),
            ("gelu", _QuickGelu()),
            ("c_proj", nn.Linear(4 * width, width)),
        ):
            self.mlp.add_module(name, part)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, D) → (B, N, D), eager: the naive baseline's blocks."""
        heads = self.attn.num_heads
        qkv = F.linear(self.ln_1(x), self.attn.in_proj_weight, self.attn.in_proj_bias).chunk(3, dim=-1)
        query, key, value = (part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in qkv)
        attended = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        x = x + self.attn.out_proj(attended)
        return x + self.mlp(self.ln_2(x))


class Visual(nn.Module):
    """open_clip's VisionTransformer, as far as it is read."""

    def __init__(self, arch: str) -> None:
        super().__init__()
        width, layers, patch, resolution, embed, *_ = ARCHITECTURES[arch]
        positions = (resolution // patch) ** 2 + 1
        self.conv1 = nn.Conv2d(3, width, patch, patch, bias=False)
        self.class_embedding = nn.Parameter(torch.empty(width))
        self.positional_embedding = nn.Parameter(torch.empty(positions, width))
        self.ln_pre, self.ln_post = nn.LayerNorm(width), nn.LayerNorm(width)
        self.transformer = nn.Module()
        self.transformer.resblocks = nn.ModuleList(_Block(width, heads(width)) for _ in range(layers))
        self.proj = nn.Parameter(torch.empty(width, embed))


def heads(width: int) -> int:
    """Heads of 64 channels, as in every CLIP ViT."""
    return max(width // 64, 1)


def visual(arch: str) -> Visual:
    """The image tower with synthetic weights, float32, on the CPU."""
    with torch.device("meta"):
        tower = Visual(arch)
    state = {
        name.removeprefix("visual."): torch.from_numpy(value)
        for name, value in clip_state_dict(arch).items()
        if name.startswith("visual.")
    }
    tower.load_state_dict(state, assign=True)
    return tower.requires_grad_(False).eval()


def calibration(arch: str) -> CalibrationConfig:
    """The published parameters of the depth."""
    _, layers, patch, *_ = ARCHITECTURES[arch]
    return calibration_for(layers, patch)


def fused_attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
    """`scclip_kernels.scaled_attention` by torch's own fused kernels, for `attend`."""
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=1.0)


def encoder(
    tower: Visual,
    arch: str,
    *,
    precision: str,
    method: str = "scclip",
    device: str | torch.device,
    **options: Any,
) -> CalibratedEncoder:
    """The exporter's own module on a device: what the ONNX graphs are traced from.

    Args:
        tower: from `visual`.
        arch: a name of tests/synthetic.py.
        precision: fp32, fp16 or bf16.
        method: `scclip`, or `none` for the plain encoder.
        device: where.
        options: further ones of `CalibratedEncoder`, such as `kernels`.
    """
    _, _, patch, resolution, *_ = ARCHITECTURES[arch]
    side = resolution // patch
    with torch.no_grad():
        module = CalibratedEncoder(
            tower,
            calibration(arch) if method == "scclip" else PLAIN,
            grid=(side, side),
            policy=POLICIES[precision],
            **options,
        )
    return module.requires_grad_(False).eval().to(device)


class EagerScclip(NaiveScclip):
    """The naive baseline on a GPU: window by window, everything in its dtype, anomalies in float32.

    tests/oracles/scclip.py walks through outliers and classes in Python, which no implementation for GPUs does and
    which would flatter whatever it is compared with; here detection and repair are METHOD §2's matrix form, and
    classes of one query cost nothing. The tests compare the two.
    """

    def outliers(self, patches: Tensor) -> Tensor:
        """Anomalous patches of a window (N, D): (N,) bool."""
        x = patches.float()  # cdist has no half on CUDA, and its squares overflow there
        distances = torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist") ** 2
        nearest = distances.topk(self.neighbors + 1, largest=False)
        values, indices = nearest.values[:, 1:], nearest.indices[:, 1:]
        density = 1 / torch.maximum(values, values[:, -1:]).mean(dim=1)
        scores = density[indices].mean(dim=1) / density
        return scores > torch.quantile(scores, 1 - self.contamination)

    def class_scores(self, probabilities: Tensor, query_class: list[int]) -> Tensor:
        """The best query of each class; nothing to do where each query is a class, as upstream."""
        if query_class == list(range(len(probabilities))):
            return probabilities
        return super().class_scores(probabilities, query_class)

    @staticmethod
    def repair(patches: Tensor, outliers: Tensor, side: int) -> Tensor:
        """(M (w y)) / (M w) for outliers, with the 0/1 adjacency M of the grid and w = sound."""
        index = torch.arange(side * side, device=patches.device)
        row, column = index // side, index % side
        near = torch.maximum((row[:, None] - row).abs(), (column[:, None] - column).abs()) == 1
        weights = (near & ~outliers).to(patches.dtype)
        total = weights.sum(dim=1, keepdim=True)
        mean = weights @ patches / total.clamp(min=1)
        return torch.where((outliers[:, None]) & (total > 0), mean, patches)


def naive(tower: Visual, arch: str, *, precision: str, device: str | torch.device) -> EagerScclip:
    """The naive baseline in one dtype; it gets a tower of its own."""
    import copy

    c, dtype = calibration(arch), DTYPES[precision]
    own = copy.deepcopy(tower).to(device=device, dtype=dtype)
    return EagerScclip(
        clip=SimpleNamespace(visual=own),
        pre=c.pre_layer,
        post=c.post_layer,
        multi=c.fusion_layers,
        res_cls=c.cls_residual,
        dtype=dtype,
    )


def flops(arch: str, method: str, queries: int) -> Flops:
    """Operations of one window, by the count that `scclip bench` uses."""
    width, layers, patch, resolution, embed, *_ = ARCHITECTURES[arch]
    model = SimpleNamespace(
        width=width, layers=layers, patch_size=patch, embed_dim=embed, mlp_width=4 * width, heads=heads(width)
    )
    manifest = SimpleNamespace(calibration={"method": method, "outlier_fraction": 0.05})
    bundle: Any = SimpleNamespace(model=model, manifest=manifest)
    return count_flops(bundle, (resolution // patch) ** 2, queries)


def gemm_shapes(arch: str, windows: int) -> tuple[tuple[int, int, int, int], ...]:
    """(rows, inner, outer, how often) of the products with weights of one run."""
    width, layers, patch, resolution, embed, *_ = ARCHITECTURES[arch]
    patches = windows * (resolution // patch) ** 2
    rows, blocks = patches + windows, layers - 1
    return (
        (patches, 3 * patch * patch, width, 1),
        (rows, width, 3 * width, blocks),
        (rows, width, width, blocks),
        (rows, width, 4 * width, blocks),
        (rows, 4 * width, width, blocks),
        (patches, width, embed, 1),
    )
