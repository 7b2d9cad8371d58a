"""Sums with norms and the product with QuickGELU against float64, and the blocks that run on them."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from oracles.kernels import assert_within_budget
from scclip_export.methods.last_block import PLAIN
from scclip_export.model.calibration import CalibrationConfig
from scclip_export.model.dtypes import POLICIES
from scclip_export.model.encoder import CalibratedEncoder
from scclip_kernels.triton import linear
from scclip_kernels.triton.linear import linear_quick_gelu, linear_quick_gelu_reference
from scclip_kernels.triton.residual_norm import add_layer_norm, add_layer_norm_reference
from synthetic import scene

CALIBRATION = CalibrationConfig(pre_layer=2, post_layer=1, fusion_layers=(1, 3), cls_residual=0.3)
NARROW = [torch.float16, torch.bfloat16]


@pytest.mark.parametrize("dtype", [torch.float32, *NARROW])
@pytest.mark.parametrize("added", [True, False])
@pytest.mark.parametrize(("count", "width"), [(3, 24), (5, 128), (2, 768)])
def test_the_sum_and_its_norm(count, width, added, dtype) -> None:
    x = 3 * torch.randn(count, width) + 5  # a mean that is far from 0
    delta = torch.randn(count, width).to(dtype) if added else None
    weight, bias = torch.rand(2, width) + 0.5
    total, norm = add_layer_norm(x, delta, weight, bias, 1e-5, dtype)
    _, plain = add_layer_norm_reference(x, delta, weight, bias, 1e-5, dtype)
    wide = x.double() if delta is None else x.double() + delta.double()
    oracle = F.layer_norm(wide, (width,), weight.double(), bias.double(), 1e-5)
    torch.testing.assert_close(total, wide.float(), rtol=0, atol=1e-6)
    assert_within_budget(norm, plain, oracle)


def test_a_token_of_another_size_keeps_its_norm() -> None:
    x = torch.randn(4, 128)
    x[1] *= 500
    total, norm = add_layer_norm(
        x, torch.zeros_like(x), torch.ones(128), torch.zeros(128), 1e-5, torch.float32
    )
    torch.testing.assert_close(norm, F.layer_norm(x, (128,)), rtol=0, atol=2e-6)
    assert torch.equal(total, x)


@pytest.mark.parametrize("dtype", NARROW)
@pytest.mark.parametrize(
    ("count", "width", "outer"), [(1, 32, 16), (130, 64, 140), (33, 40, 24), (9, 128, 512)]
)
def test_the_product_with_quick_gelu(count, width, outer, dtype) -> None:
    """Blocks that are filled, blocks that are not, and a width that no block divides."""
    x, weight, bias = torch.randn(count, width), torch.randn(outer, width) / width**0.5, torch.randn(outer)
    x, weight, bias = (tensor.to(dtype) for tensor in (x, weight, bias))
    got, plain = linear_quick_gelu(x, weight, bias), linear_quick_gelu_reference(x, weight, bias)
    hidden = F.linear(x.double(), weight.double(), bias.double())
    assert_within_budget(got, plain, hidden * torch.sigmoid(1.702 * hidden))


def test_every_block_of_rows_is_computed_once(monkeypatch) -> None:
    """More blocks of rows than a band has, the last band not full."""
    monkeypatch.setattr(
        linear, "SIZES", {"BLOCK_M": 16, "BLOCK_N": 16, "BLOCK_K": 16, "num_warps": 1, "num_stages": 1}
    )
    monkeypatch.setattr(linear, "GROUP", 3)
    x, weight, bias = torch.randn(16 * 7 + 5, 16), torch.randn(40, 16), torch.randn(40)
    x, weight, bias = (tensor.half() for tensor in (x, weight, bias))
    hidden = F.linear(x.double(), weight.double(), bias.double())
    got, plain = linear_quick_gelu(x, weight, bias), linear_quick_gelu_reference(x, weight, bias)
    assert_within_budget(got, plain, hidden * torch.sigmoid(1.702 * hidden))


def test_arguments_that_do_not_fit_are_refused() -> None:
    x, weight, bias = torch.randn(4, 16).half(), torch.randn(8, 16).half(), torch.randn(8).half()
    with pytest.raises(
        ValueError, match=r"takes float16 or bfloat16, the same for all three; got x torch\.float32"
    ):
        linear_quick_gelu(x.float(), weight.float(), bias.float())
    with pytest.raises(ValueError, match="the same for all three"):
        linear_quick_gelu(x, weight, bias.bfloat16())
    with pytest.raises(ValueError, match=r"weight must have shape \(any, 16\)"):
        linear_quick_gelu(x, weight[:, :8], bias)
    with pytest.raises(ValueError, match=r"bias must have shape \(8\)"):
        linear_quick_gelu(x, weight, bias[:4])
    norm = torch.ones(16), torch.zeros(16), 1e-5, torch.float16
    with pytest.raises(ValueError, match=r"delta must have shape \(4, 16\)"):
        add_layer_norm(x, x[:2], *norm)
    with pytest.raises(ValueError, match=r"weight must have shape \(16\)"):
        add_layer_norm(x, x, torch.ones(8), *norm[1:])


def features(visual, parts, **options) -> torch.Tensor:
    windows = torch.stack([torch.from_numpy(scene(96, 112, seed)) for seed in range(2)])
    encoder = CalibratedEncoder(visual, parts, grid=None, **options)
    return encoder(windows, F.normalize(torch.randn(5, 64), dim=-1))[0]


@pytest.mark.parametrize("parts", [CALIBRATION, PLAIN], ids=["scclip", "none"])
@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_features_are_those_of_plain_torch(micro_clip, parts, precision) -> None:
    wide = features(micro_clip.visual, parts)
    plain, fused = (
        features(micro_clip.visual, parts, policy=POLICIES[precision], trunk=trunk)
        for trunk in ("reference", "triton")
    )
    assert not torch.equal(fused, plain)  # other roundings, so not a copy of the same path
    assert (fused - wide).abs().max() <= 2 * (plain - wide).abs().max()


def test_another_activation_stands_behind_its_product(micro_clip) -> None:
    visual = micro_clip.visual
    for block in visual.transformer.resblocks:
        block.mlp.gelu = nn.GELU()
    wide = features(visual, PLAIN)
    plain, fused = (
        features(visual, PLAIN, policy=POLICIES["fp16"], trunk=trunk) for trunk in ("reference", "triton")
    )
    assert (fused - wide).abs().max() <= 2 * (plain - wide).abs().max()


def test_what_can_not_be_fused_is_refused(micro_clip) -> None:
    with pytest.raises(ValueError, match="trunk='triton' needs products in float16 or bfloat16"):
        features(micro_clip.visual, PLAIN, trunk="triton")
