"""Sizes come from tensors; heads and activation from whoever knows them, else they are said to be assumed."""

import pytest
import torch
from torch import Tensor

from scclip_export.checkpoint.architecture import Choice, build_clip, infer_architecture
from scclip_export.errors import CheckpointError, ExportError

State = dict[str, Tensor]


def test_sizes_are_read_off_the_tensors(micro_state: State) -> None:
    architecture, _ = infer_architecture(micro_state, {})
    assert (architecture.width, architecture.layers, architecture.patch_size) == (128, 4, 16)
    assert (architecture.image_size, architecture.embed_dim, architecture.text_layers) == (224, 64, 1)


def test_what_no_tensor_tells_is_assumed_and_said(micro_state: State) -> None:
    architecture, assumptions = infer_architecture(micro_state, {})
    assert (architecture.heads, architecture.text_heads, architecture.activation) == (2, 1, "quickgelu")
    assert [line.split(":")[0] for line in assumptions] == ["image heads", "text heads", "activation"]
    assert all("--" in line for line in assumptions)


def test_the_command_line_wins_over_the_table_and_the_table_over_hints(micro_state: State) -> None:
    hints = {"heads": 8, "text_heads": 2, "activation": "gelu"}
    table = Choice(heads=4, activation="quickgelu")
    architecture, assumptions = infer_architecture(micro_state, hints, (Choice(heads=16), table))
    assert (architecture.heads, architecture.text_heads, architecture.activation) == (16, 2, "quickgelu")
    assert not assumptions


@pytest.mark.parametrize("flag", ["heads", "text_heads"])
def test_heads_must_divide_the_width(micro_state: State, flag: str) -> None:
    with pytest.raises(ExportError, match="does not divide the width"):
        infer_architecture(micro_state, {}, (Choice(**{flag: 3}),))


def test_a_missing_tensor_is_named(micro_state: State) -> None:
    state = {k: v for k, v in micro_state.items() if k != "visual.proj"}
    with pytest.raises(CheckpointError, match=r"visual\.proj"):
        infer_architecture(state, {})


def test_a_grid_that_is_no_square_is_refused(micro_state: State) -> None:
    with pytest.raises(CheckpointError, match="no square number"):
        infer_architecture(micro_state | {"visual.positional_embedding": torch.zeros(200, 128)}, {})


@pytest.mark.parametrize("change", ["missing", "extra", "shape"])
def test_tensors_of_another_model_are_refused(micro_state: State, change: str) -> None:
    architecture, _ = infer_architecture(micro_state, {})
    name = "visual.transformer.resblocks.1.ln_1.weight"
    state = {
        "missing": {k: v for k, v in micro_state.items() if k != name},
        "extra": micro_state | {"visual.attn_pool.query": torch.zeros(1)},
        "shape": micro_state | {name: torch.zeros(7)},
    }[change]
    with pytest.raises(CheckpointError, match=r"lacks 1 \(visual|has unknown 1 \(visual|do not fit"):
        build_clip(architecture, state)


def test_weights_are_loaded_bit_for_bit(micro_state: State) -> None:
    architecture, _ = infer_architecture(micro_state, {})
    loaded = build_clip(architecture, micro_state).state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in micro_state.items())
