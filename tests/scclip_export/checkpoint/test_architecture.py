"""Sizes come from tensors; heads and activation from whoever knows them, else they are said to be assumed."""

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

from scclip_export.checkpoint.architecture import build_clip, infer_architecture
from scclip_export.checkpoint.settings import Claim
from scclip_export.errors import CheckpointError, ExportError

State = dict[str, Tensor]


def test_sizes_are_read_off_the_tensors(micro_state: State) -> None:
    architecture, _ = infer_architecture(micro_state)
    assert (architecture.width, architecture.layers, architecture.patch_size) == (128, 4, 16)
    assert (architecture.image_size, architecture.embed_dim, architecture.text_layers) == (224, 64, 1)


def test_what_no_tensor_tells_is_assumed_and_said(micro_state: State) -> None:
    architecture, settled = infer_architecture(micro_state)
    assert (architecture.heads, architecture.text_heads, architecture.activation) == (2, 1, "quickgelu")
    guesses = {setting for setting, claim in settled.items() if claim.source.startswith("assumed")}
    assert guesses == {"heads", "text_heads", "activation", "text_activation", "mean", "std"}


def test_a_firm_claim_wins_over_a_default_and_both_towers_share_an_activation(micro_state: State) -> None:
    claims = [
        Claim(setting="activation", value="quickgelu", source="a name", firm=False),
        Claim(setting="activation", value="gelu", source="config.json"),
        Claim(setting="heads", value=8, source="config.json"),
    ]
    architecture, settled = infer_architecture(micro_state, claims)
    assert (architecture.activation, architecture.text_activation, architecture.heads) == ("gelu", "gelu", 8)
    assert settled["activation"].source == settled["text_activation"].source == "config.json"


SOURCES = ("--option", "config.json", "open_clip's table")


@pytest.mark.parametrize("pair", itertools.combinations(SOURCES, 2), ids=" and ".join)
@pytest.mark.parametrize(
    ("setting", "one", "other"),
    [
        ("activation", "gelu", "quickgelu"),
        ("heads", 2, 4),
        ("mean", (127.5, 127.5, 127.5), (122.771, 116.746, 104.094)),
        ("causal", True, False),
        ("norm_eps", 1e-5, 1e-6),
    ],
)
def test_sources_that_contradict_are_both_named(
    micro_state: State, pair: tuple[str, str], setting: str, one: Any, other: Any
) -> None:
    claims = [
        Claim(setting=setting, value=value, source=source)
        for value, source in zip((one, other), pair, strict=True)
    ]
    with pytest.raises(ExportError, match="contradict") as caught:
        infer_architecture(micro_state, claims)
    assert all(source in str(caught.value) for source in pair)


@pytest.mark.parametrize(
    "setting", ["width", "layers", "patch_size", "image_size", "text_width", "embed_dim"]
)
def test_a_configuration_of_another_size_is_not_believed(micro_state: State, setting: str) -> None:
    claim = Claim(setting=setting, value=999, source="config.json")
    with pytest.raises(ExportError, match=r"\(the tensors\) or 999 \(config\.json\)"):
        infer_architecture(micro_state, [claim])


@pytest.mark.parametrize("setting", ["heads", "text_heads"])
def test_heads_must_divide_the_width(micro_state: State, setting: str) -> None:
    with pytest.raises(ExportError, match=r"--heads: 3 .* do not divide the width"):
        infer_architecture(micro_state, [Claim(setting=setting, value=3, source="--heads")])


def test_a_missing_tensor_is_named(micro_state: State) -> None:
    state = {k: v for k, v in micro_state.items() if k != "visual.proj"}
    with pytest.raises(CheckpointError, match=r"visual\.proj"):
        infer_architecture(state)


def test_a_grid_that_is_no_square_is_refused(micro_state: State) -> None:
    with pytest.raises(CheckpointError, match="no square number"):
        infer_architecture(micro_state | {"visual.positional_embedding": torch.zeros(200, 128)})


@pytest.mark.parametrize("change", ["missing", "extra", "shape", "scale"])
def test_tensors_of_another_model_are_refused(micro_state: State, change: str) -> None:
    architecture, _ = infer_architecture(micro_state)
    name = "visual.transformer.resblocks.1.ln_1.weight"
    state = {
        "missing": {k: v for k, v in micro_state.items() if k != name},
        "extra": micro_state | {"visual.attn_pool.query": torch.zeros(1)},
        "shape": micro_state | {name: torch.zeros(7)},
        "scale": micro_state | {"logit_scale": torch.zeros(2)},
    }[change]
    with pytest.raises(
        CheckpointError, match=r"lacks 1 \(visual|has unknown 1 \(visual|do not fit|holds 2 numbers"
    ):
        build_clip(architecture, state)


def test_weights_are_loaded_bit_for_bit(micro_state: State) -> None:
    architecture, _ = infer_architecture(micro_state)
    loaded = build_clip(architecture, micro_state).state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in micro_state.items())
