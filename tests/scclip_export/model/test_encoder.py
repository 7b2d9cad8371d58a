"""The wrapped encoders against open_clip's own forward, and against the method written out in float64."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from oracles.scclip import MEAN, STD, NaiveScclip
from scclip_export.methods.last_block import PLAIN, VALUES
from scclip_export.model.calibration import CalibrationConfig
from scclip_export.model.encoder import CalibratedEncoder
from scclip_export.model.text_encoder import TextEncoder
from synthetic import scene

CALIBRATION = CalibrationConfig(pre_layer=2, post_layer=1, fusion_layers=(1, 3), cls_residual=0.3)


def windows(count: int = 3, height: int = 224, width: int = 224) -> Tensor:
    return torch.stack([torch.from_numpy(scene(height, width, seed)) for seed in range(count)])


def normalised(image: Tensor) -> Tensor:
    mean, std = torch.tensor(MEAN).double(), torch.tensor(STD).double()
    return ((image.double() - mean) / std).permute(2, 0, 1)


def unit_text(queries: int = 5) -> Tensor:
    return F.normalize(torch.randn(queries, 64), dim=-1)


def naive(clip: nn.Module) -> NaiveScclip:
    clip = clip.double()
    return NaiveScclip(clip=clip, pre=2, post=1, multi=(1, 3), res_cls=0.3, dtype=torch.float64)


def test_features_match_the_method_in_float64(micro_clip: nn.Module) -> None:
    encoder = CalibratedEncoder(micro_clip.visual, CALIBRATION, grid=(14, 14), debug_outputs=True)
    images = windows()
    features, _, outliers = encoder(images, unit_text())
    oracle = naive(micro_clip)
    for image, got, indices in zip(images, features, outliers, strict=True):
        pixels = normalised(image)
        assert indices.tolist() == sorted(oracle.outliers(oracle.hidden_states(pixels)[-1][1:]))
        torch.testing.assert_close(got.double(), oracle.window_features(pixels), rtol=0, atol=1e-5)


def test_a_batch_equals_its_singles(micro_clip: nn.Module) -> None:
    encoder = CalibratedEncoder(micro_clip.visual, CALIBRATION, grid=(14, 14))
    images, text = windows(4), unit_text()
    singles = torch.cat([encoder(image[None], text)[0] for image in images])
    torch.testing.assert_close(encoder(images, text)[0], singles, rtol=0, atol=2e-6)


def test_logits_are_cosines_of_features_and_text(micro_clip: nn.Module) -> None:
    text = unit_text()
    features, logits = CalibratedEncoder(micro_clip.visual, CALIBRATION, grid=(14, 14))(windows(1), text)
    torch.testing.assert_close(features.norm(dim=-1), torch.ones(1, 196))
    torch.testing.assert_close(logits, F.cosine_similarity(features.unsqueeze(2), text, dim=-1))


def test_method_none_is_the_ordinary_last_block(micro_clip: nn.Module) -> None:
    image = windows(1)
    features, _ = CalibratedEncoder(micro_clip.visual, PLAIN, grid=(14, 14))(image, unit_text())
    visual = micro_clip.visual.double()
    visual.output_tokens = True
    _, tokens = visual(normalised(image[0])[None])
    expected = F.normalize(tokens @ visual.proj, dim=-1)
    torch.testing.assert_close(features.double(), expected, rtol=0, atol=1e-5)


def test_method_maskclip_is_the_value_path_of_the_last_block(micro_clip: nn.Module) -> None:
    image = windows(1)
    features, _ = CalibratedEncoder(micro_clip.visual, VALUES, grid=(14, 14))(image, unit_text())
    oracle = naive(micro_clip)
    visual = oracle.clip.visual
    patches = oracle.hidden_states(normalised(image[0]))[-1][1:]
    block = visual.transformer.resblocks[-1]
    value = F.linear(block.ln_1(patches), block.attn.in_proj_weight, block.attn.in_proj_bias).chunk(
        3, dim=-1
    )[2]
    expected = F.normalize(visual.ln_post(block.attn.out_proj(value)) @ visual.proj, dim=-1)
    torch.testing.assert_close(features[0].double(), expected, rtol=0, atol=1e-5)


def test_layer_scale_is_folded_exactly(micro_clip: nn.Module) -> None:
    from open_clip.transformer import LayerScale

    from scclip_export.model.blocks import Block

    block = micro_clip.visual.transformer.resblocks[0]
    block.ls_1, block.ls_2 = LayerScale(128), LayerScale(128)
    block.ls_1.gamma.data.uniform_(0.1, 2)
    block.ls_2.gamma.data.uniform_(0.1, 2)
    tokens = torch.randn(2, 20, 128)
    got = Block(block)(tokens.flatten(0, 1), 20).view_as(tokens)
    torch.testing.assert_close(got, block(tokens), rtol=1e-5, atol=1e-5)


def test_no_outlier_repair_without_outliers(micro_clip: nn.Module) -> None:
    import dataclasses

    config = dataclasses.replace(CALIBRATION, outlier_fraction=0.0)
    encoder = CalibratedEncoder(micro_clip.visual, config, grid=(14, 14), debug_outputs=True)
    image, text = windows(1), unit_text()
    outputs = encoder(image, text)
    assert len(outputs) == 2
    repaired = CalibratedEncoder(micro_clip.visual, CALIBRATION, grid=(14, 14))(image, text)
    assert not torch.allclose(outputs[0], repaired[0], atol=1e-4)


@pytest.mark.parametrize("grid", [(6, 20), (14, 14), (11, 7)])
def test_any_grid_equals_the_fixed_grid_of_that_size(micro_clip: nn.Module, grid: tuple[int, int]) -> None:
    image = windows(2, grid[0] * 16, grid[1] * 16)
    text = unit_text()
    fixed = CalibratedEncoder(micro_clip.visual, CALIBRATION, grid=grid)(image, text)
    dynamic = CalibratedEncoder(micro_clip.visual, CALIBRATION, grid=None)(image, text)
    torch.testing.assert_close(dynamic[0], fixed[0], rtol=0, atol=1e-6)


@pytest.mark.parametrize("grid", [None, (6, 10)])
def test_an_encoder_on_another_grid_is_one_built_for_it(
    micro_clip: nn.Module, grid: tuple[int, int] | None
) -> None:
    image, text = windows(1, 96, 160), unit_text()
    first = CalibratedEncoder(micro_clip.visual, CALIBRATION, grid=(14, 14))
    other, built = first.on_grid(grid), CalibratedEncoder(micro_clip.visual, CALIBRATION, grid=grid)
    torch.testing.assert_close(other(image, text), built(image, text), rtol=0, atol=0)
    assert other.blocks[0].fc.weight is first.blocks[0].fc.weight
    assert first.fixed_positions.shape[1] == 197


def test_positions_of_the_trained_grid_are_the_trained_ones(micro_clip: nn.Module) -> None:
    encoder = CalibratedEncoder(micro_clip.visual, CALIBRATION, grid=(14, 14))
    assert torch.equal(encoder.fixed_positions[0, 1:], micro_clip.visual.positional_embedding[1:])


def test_text_embeddings_are_those_of_open_clip(micro_clip: nn.Module) -> None:
    import open_clip

    tokens = open_clip.tokenize(["a dog", "a photo of a very small cat on a mat", "x"])
    length = int(tokens.argmax(dim=-1).max()) + 1
    encoder = TextEncoder(micro_clip)
    micro_clip.attn_mask = torch.full((77, 77), float("-inf")).triu(1)
    expected = micro_clip.encode_text(tokens, normalize=True)
    torch.testing.assert_close(encoder(tokens), expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(encoder(tokens[:, :length]), expected, rtol=0, atol=1e-6)


def test_equal_token_rows_are_stored_once(micro_clip: nn.Module) -> None:
    import open_clip

    micro_clip.attn_mask = torch.full((77, 77), float("-inf")).triu(1)
    tokens = open_clip.tokenize(["a dog", "zebra grass"])
    table = micro_clip.token_embedding.weight
    used = torch.zeros(len(table), dtype=torch.bool)
    used[tokens.unique()] = True
    table.data[~used] = 0.25
    encoder = TextEncoder(micro_clip)
    assert len(encoder.table) == int(used.sum()) + 1
    torch.testing.assert_close(
        encoder(tokens), micro_clip.encode_text(tokens, normalize=True), rtol=0, atol=1e-6
    )
