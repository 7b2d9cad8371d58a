"""Files as users have them: wrapped, sharded, in folders, beside training state; what can't be read is named."""

import argparse
import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from scclip_export.checkpoint.read import Checkpoint, load_checkpoint
from scclip_export.errors import CheckpointError
from stand_ins.layouts import custom_text, hugging_face

State = dict[str, Tensor]


@pytest.fixture(scope="module")
def state(micro_state: State) -> State:
    """The micro checkpoint with a vocabulary of 64 tokens."""
    return micro_state | {"token_embedding.weight": micro_state["token_embedding.weight"][:64].clone()}


def prefixed(prefix: str, state: State) -> State:
    return {prefix + name: tensor for name, tensor in state.items()}


def tiny_clip(state: State) -> State:
    """TinyCLIP's wrapper: a module for each tower and one for the scale."""
    towers = {
        ("_image_encoder." if name.startswith("visual.") else "_text_encoder.") + name: tensor
        for name, tensor in state.items()
        if name != "logit_scale"
    }
    return prefixed("module.", towers | {"_logit_scale.logit_scale": state["logit_scale"]})


def loaded(tmp_path: Path, content: object) -> Checkpoint:
    torch.save(content, tmp_path / "weights.pt")
    return load_checkpoint(tmp_path / "weights.pt")


def same(checkpoint: Checkpoint, state: State) -> bool:
    return checkpoint.state.keys() == state.keys() and all(
        torch.equal(checkpoint.state[name], tensor) for name, tensor in state.items()
    )


WRAPPED: dict[str, Callable[[State], object]] = {
    "clip.": lambda s: prefixed("clip.", s),
    "clip_model.": lambda s: prefixed("clip_model.", s),
    "_orig_mod.module.": lambda s: prefixed("_orig_mod.module.", s),
    "averaged": lambda s: prefixed("module.", s) | {"n_averaged": torch.tensor(3)},
    "lightning": lambda s: {"state_dict": prefixed("model.", s) | {"loss.scale": torch.ones(1)}},
    "custom text": lambda s: prefixed("net.", custom_text(s)),
    "tiny clip": tiny_clip,
    "clipseg": lambda s: prefixed("clip.", hugging_face(s)) | {"decoder.film.weight": torch.ones(2)},
    "compiled blocks": lambda s: {
        name.replace("resblocks.1.", "resblocks.1._orig_mod.").replace(
            ".mlp.", "._checkpoint_wrapped_module.mlp."
        ): tensor
        for name, tensor in s.items()
    },
    "model_ema": lambda s: {"model_ema": s},
    "ema": lambda s: {"ema": {"module": prefixed("module.", s)}},
    "state_dict_ema": lambda s: {"epoch": 3, "state_dict_ema": s},
    "net": lambda s: {"net": s, "optimizer": {"state": {0: {"step": torch.tensor(1.0)}}, "param_groups": []}},
    "numpy scalars": lambda s: {"state_dict": s, "best": np.float64(0.3), "epoch": np.int64(7)},
    "arguments": lambda s: {"model": s, "args": argparse.Namespace(lr=1e-3, name="x")},
}


@pytest.mark.parametrize("case", WRAPPED)
def test_a_wrapped_model_is_found(case: str, state: State, tmp_path: Path) -> None:
    assert same(loaded(tmp_path, WRAPPED[case](state)), state)


def test_what_lies_outside_the_wrapper_is_named(state: State, tmp_path: Path) -> None:
    checkpoint = loaded(tmp_path, prefixed("clip.", state) | {"head.weight": torch.ones(3)})
    assert checkpoint.notes == ("left out: 1 tensors outside 'clip' (head.weight)",)


def test_of_several_states_the_plain_one_is_taken_and_that_is_said(state: State, tmp_path: Path) -> None:
    average = {name: tensor + 1 for name, tensor in state.items()}
    checkpoint = loaded(tmp_path, {"model_ema": average, "model": state})
    assert same(checkpoint, state)
    assert checkpoint.notes == ("weights: 'model' of the file, which also holds 'model_ema'",)


def shards(state: State, folder: Path) -> Path:
    names = sorted(state)
    halves = names[: len(names) // 2], names[len(names) // 2 :]
    where = {}
    for number, half in enumerate(halves, 1):
        file = f"model-{number:05d}-of-00002.safetensors"
        save_file({name: state[name].half().contiguous() for name in half}, folder / file)
        where |= dict.fromkeys(half, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
    return folder


@pytest.mark.parametrize(
    "name",
    [
        "model.safetensors.index.json",
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
        "",
    ],
)
def test_shards_are_read_by_index_by_one_of_them_and_by_folder(
    name: str, state: State, tmp_path: Path
) -> None:
    folder = shards(hugging_face(state), tmp_path)
    assert same(load_checkpoint(folder / name), {k: v.half().float() for k, v in state.items()})


def test_a_missing_shard_is_named(state: State, tmp_path: Path) -> None:
    (shards(state, tmp_path) / "model-00002-of-00002.safetensors").unlink()
    for name in ("model.safetensors.index.json", "model-00001-of-00002.safetensors"):
        with pytest.raises(CheckpointError, match=r"2 shards; missing beside it: model-00002-of-00002"):
            load_checkpoint(tmp_path / name)


def test_the_hash_of_shards_is_of_their_hashes(state: State, tmp_path: Path) -> None:
    first = load_checkpoint(shards(state, tmp_path)).sha256
    assert re.fullmatch("[0-9a-f]{64}", first)
    changed = state | {"logit_scale": torch.tensor(1.0)}
    assert load_checkpoint(shards(changed, tmp_path)).sha256 != first


def test_a_folder_with_several_unknown_files_asks(state: State, tmp_path: Path) -> None:
    for name in ("a.pt", "b.pt"):
        torch.save(state, tmp_path / name)
    with pytest.raises(CheckpointError, match=r"several: a\.pt, b\.pt"):
        load_checkpoint(tmp_path)
    (tmp_path / "b.pt").unlink()
    assert same(load_checkpoint(tmp_path), state)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n", "git lfs pull"),
        (b"<!DOCTYPE html><html></html>", "a web page"),
        (b'{"weight_map": {"a": "../b"}}', "not files beside it"),
    ],
)
def test_what_only_stands_for_weights_is_named(content: bytes, says: str, tmp_path: Path) -> None:
    path = tmp_path / ("model.safetensors.index.json" if content.startswith(b"{") else "model.safetensors")
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=says):
        load_checkpoint(path)


class _Config:
    """A class of somebody's training code."""


def test_pickled_classes_are_named_and_torchs_advice_is_not_passed_on(state: State, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError) as caught:
        loaded(tmp_path, {"state_dict": state, "config": _Config()})
    message = str(caught.value)
    assert "_Config" in message
    assert "torch.save(model.state_dict()" in message
    assert "weights_only" not in message
    assert "\x1b" not in message


@pytest.mark.parametrize("layout", ["openai", "hugging face"])
def test_long_clips_tables_become_one(layout: str, state: State, tmp_path: Path) -> None:
    if layout == "openai":
        tensors, name, rest = dict(state), "positional_embedding", "positional_embedding_res"
    else:
        embeddings = "text_model.embeddings.position_embedding"
        tensors, name, rest = hugging_face(state), f"{embeddings}.weight", f"{embeddings}_res.weight"
    tensors |= {name: torch.randn(248, 64), rest: torch.randn(248, 64)}
    merged = loaded(tmp_path, tensors).state["positional_embedding"]
    assert torch.equal(merged[:20], tensors[name][:20])
    assert torch.equal(merged[20:], tensors[rest][20:])


def test_fg_clip_is_read_as_it_embeds_short_texts(state: State, tmp_path: Path) -> None:
    embeddings = "text_model.embeddings.position_embedding"
    tensors = hugging_face(state) | {
        f"{embeddings}_res.weight": torch.randn(248, 64),
        f"{embeddings}_ori.weight": torch.randn(248, 64),
        "text_filip_projection.weight": torch.randn(64, 64),
        "logit_scale_finegraind": torch.tensor(1.0),
    }
    checkpoint = loaded(tmp_path, tensors)
    assert same(checkpoint, state)
    assert "FG-CLIP" in checkpoint.notes[0]


@pytest.mark.parametrize("extra", ["text_model.adapter.weight", "vision_model.encoder.layers.0.gate"])
def test_a_tensor_that_would_be_ignored_is_refused(extra: str, state: State, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=re.escape(extra)):
        loaded(tmp_path, hugging_face(state) | {extra: torch.ones(1)})


FAMILIES = {
    "SigLIP": ["vision_model.embeddings.patch_embedding.weight", "vision_model.head.probe"],
    "SigLIP or PE-Core": ["visual.trunk.patch_embed.proj.weight", "visual.trunk.attn_pool.latent"],
    "PE-Core": ["visual.conv1.weight", "visual.attn_pool.probe"],
    "CoCa": ["visual.conv1.weight", "visual.class_embedding", "text_decoder.text_projection"],
    "AltCLIP": [
        "vision_model.embeddings.patch_embedding.weight",
        "text_model.roberta.embeddings.word_embeddings.weight",
    ],
    "ChineseCLIP": [
        "vision_model.embeddings.patch_embedding.weight",
        "text_model.encoder.layer.0.attention.self.query.weight",
    ],
    "BLIP": ["visual_encoder.patch_embed.proj.weight", "text_encoder.embeddings.word_embeddings.weight"],
    "EVA": ["visual.trunk.patch_embed.proj.weight", "visual.trunk.blocks.0.mlp.fc1_g.weight"],
    "CLIP ResNet": ["visual.layer1.0.conv1.weight"],
    "timm": ["visual.trunk.stages.0.weight"],
    "Hugging Face text tower": ["visual.conv1.weight", "text.transformer.embeddings.word_embeddings.weight"],
    "LoRA": ["base_model.model.visual.conv1.lora_A.weight"],
    "image model alone": ["blocks.0.attn.qkv.weight"],
}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_is_refused_by_its_name_and_told_what_works(family: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError) as caught:
        loaded(tmp_path, dict.fromkeys(FAMILIES[family], torch.ones(4, 3, 2, 2)))
    message = str(caught.value)
    assert family in message
    assert "--backbone vitb16" in message or "merge_and_unload" in message
    assert "--activation" not in message
