"""Heads, activation and normalisation reach the bundle from whoever knows them; who contradicts is named."""

import json
import re
import warnings
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from scclip_export.checkpoint import load_model as loading
from scclip_export.checkpoint.backbones import BACKBONES
from scclip_export.checkpoint.load_model import LoadedModel, Source, load_model
from scclip_export.errors import CheckpointError, ExportError
from scclip_export.model.geometry import CLIP_MEAN

State = dict[str, Tensor]
HALF = (127.5, 127.5, 127.5)
CLIP_CONFIG = {
    "model_type": "clip",
    "vision_config": {"hidden_size": 128, "num_attention_heads": 4, "hidden_act": "gelu"},
    "text_config": {"hidden_size": 64, "num_attention_heads": 2, "hidden_act": "gelu"},
}
MODEL = {
    "embed_dim": 64,
    "vision_cfg": {"width": 128, "layers": 4, "patch_size": 16, "head_width": 32},
    "text_cfg": {"width": 64, "layers": 1, "heads": 2, "vocab_size": 64},
}


@pytest.fixture
def small_state(micro_state: State, monkeypatch: pytest.MonkeyPatch) -> State:
    """The micro checkpoint with a vocabulary of 64 tokens: read in a tenth of the time."""
    monkeypatch.setattr(loading, "CLIP_VOCABULARY", 64)
    return micro_state | {"token_embedding.weight": micro_state["token_embedding.weight"][:64].clone()}


def load(path: Path, **options: Any) -> LoadedModel:
    return load_model(Source(checkpoint=path, **options), lambda _: None)


@pytest.fixture
def weights(small_state: State, tmp_path: Path) -> Path:
    save_file(small_state, tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors"


def beside(weights: Path, name: str, config: object) -> None:
    (weights.parent / name).write_text(json.dumps(config))


def test_hugging_face_configurations_are_read(weights: Path) -> None:
    beside(weights, "config.json", CLIP_CONFIG)
    beside(weights, "preprocessor_config.json", {"image_mean": [0.5] * 3, "image_std": [0.5] * 3})
    model = load(weights)
    a = model.architecture
    assert (a.heads, a.text_heads, a.activation, a.text_activation) == (4, 2, "gelu", "gelu")
    assert (model.mean, model.std) == (HALF, HALF)
    assert model.sources["activation"] == model.sources["heads"] == "config.json"
    assert model.sources["mean"] == "preprocessor_config.json"
    assert not model.assumptions


@pytest.mark.parametrize(
    ("processor", "mean"),
    [
        ({"image_mean": [0.48145466, 0.4578275, 0.40821073]}, CLIP_MEAN),
        ({"image_mean": [0.5] * 3, "do_normalize": False}, (0.0, 0.0, 0.0)),
        ({"image_mean": [100.0] * 3, "do_rescale": False}, (100.0, 100.0, 100.0)),
        ({"image_mean": [0.0] * 3, "rescale_factor": 1 / 127.5}, (0.0, 0.0, 0.0)),
    ],
)
def test_the_processors_scales_are_kept(weights: Path, processor: dict[str, Any], mean: Any) -> None:
    beside(weights, "preprocessor_config.json", {"image_std": [0.25] * 3} | processor)
    assert load(weights).mean == pytest.approx(mean)


def test_open_clips_configuration_is_read(weights: Path) -> None:
    preprocess = {"mean": [0.5] * 3, "std": [0.5] * 3}
    config = {"model_cfg": MODEL | {"quick_gelu": True}, "preprocess_cfg": preprocess}
    beside(weights, "open_clip_config.json", config)
    model = load(weights)
    assert (model.architecture.heads, model.architecture.activation) == (4, "quickgelu")
    assert (model.mean, model.std) == (HALF, HALF)
    assert model.sources["std"] == "open_clip_config.json"


def test_the_files_own_metadata_is_read(small_state: State, tmp_path: Path) -> None:
    metadata = {
        "vision_heads": "4",
        "activation": "gelu",
        "mean": "[0.5, 0.5, 0.5]",
        "std": "[0.5, 0.5, 0.5]",
    }
    save_file(small_state, tmp_path / "m.safetensors", metadata=metadata)
    model = load(tmp_path / "m.safetensors")
    assert (model.architecture.heads, model.architecture.activation, model.mean) == (4, "gelu", HALF)
    assert model.sources["heads"] == "metadata of m.safetensors"


def test_options_are_read_in_either_unit(weights: Path) -> None:
    fractions = load(weights, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), activation="gelu")
    pixels = load(weights, mean=HALF, std=HALF, activation="gelu")
    assert fractions.mean == pixels.mean == HALF
    assert fractions.sources["mean"] == "--mean and --std"
    with pytest.raises(ExportError, match="go together"):
        Source(checkpoint=weights, mean=HALF)


@pytest.mark.parametrize(
    ("options", "file", "config", "named"),
    [
        ({"activation": "quickgelu"}, "config.json", CLIP_CONFIG, ("--activation", "config.json")),
        ({"heads": 2}, "open_clip_config.json", MODEL, ("--heads", "open_clip_config.json")),
        (
            {"mean": (0.4, 0.4, 0.4), "std": (0.5, 0.5, 0.5)},
            "preprocessor_config.json",
            {"image_mean": [0.5] * 3, "image_std": [0.5] * 3},
            ("--mean", "preprocessor_config.json"),
        ),
        (
            {},
            "config.json",
            {"model_type": "clip", "vision_config": {"hidden_size": 1024, "num_attention_heads": 16}},
            ("the tensors", "config.json"),
        ),
    ],
)
def test_what_contradicts_is_refused_by_both_names(
    weights: Path, options: dict[str, Any], file: str, config: object, named: tuple[str, str]
) -> None:
    beside(weights, file, config)
    with pytest.raises(ExportError, match="contradict") as caught:
        load(weights, **options)
    assert all(name in str(caught.value) for name in named)


@pytest.mark.parametrize(
    "config",
    [
        {"model_type": "clip", "vision_config": [1]},
        {"model_type": "clip", "vision_config": {"num_attention_heads": None}},
        {"model_type": "clip", "text_config": {"num_attention_heads": "8"}},
        {"model_type": "clip", "vision_config": {"layer_norm_eps": -1}},
        {"model_type": "clip", "vision_config": {"hidden_act": "relu"}},
        {"model_type": "clip", "text_config": {"eos_token_id": 3}},
        {"model_cfg": 3},
        {"vision_cfg": {"width": True}},
        {"model_cfg": MODEL, "preprocess_cfg": {"mean": ["a"], "std": [1, 1, 1]}},
    ],
)
def test_a_value_of_the_wrong_kind_is_named(weights: Path, config: object) -> None:
    beside(weights, "config.json", config)
    with pytest.raises(ExportError) as caught:
        load(weights)
    assert "config.json" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("section", "settings"),
    [
        ("vision_cfg", {"attentional_pool": True}),
        ("vision_cfg", {"timm_model_name": "vit_nope_patch16_clip_224", "timm_pool": "token"}),
        ("vision_cfg", {"pool_type": "avg"}),
        ("vision_cfg", {"final_ln_after_pool": True}),
        ("vision_cfg", {"scaled_cosine_attn": True}),
        ("vision_cfg", {"norm_kwargs": {"bias": False}}),
        ("vision_cfg", {"act_kwargs": {"approximate": "sigmoid"}}),
        ("text_cfg", {"pool_type": "eos"}),
        ("text_cfg", {"embed_cls": True}),
        ("text_cfg", {"proj_bias": True}),
        ("text_cfg", {"hf_tokenizer_name": "bert-base-uncased"}),
        ("text_cfg", {"tokenizer_kwargs": {"clean": "canonicalize"}}),
        ("text_cfg", {"hf_model_name": "roberta-base"}),
        ("text_cfg", {"use_something_new": 1}),
    ],
)
def test_a_setting_that_is_not_computed_is_refused(
    weights: Path, section: str, settings: dict[str, Any]
) -> None:
    beside(weights, "open_clip_config.json", MODEL | {section: {**MODEL[section], **settings}})  # type: ignore[dict-item]
    with pytest.raises(ExportError):
        load(weights)


def test_settings_that_no_tensor_shows_are_taken(weights: Path) -> None:
    text = {**MODEL["text_cfg"], "no_causal_mask": True, "pool_type": "last", "norm_kwargs": {"eps": 1e-6}}  # type: ignore[dict-item]
    vision = {**MODEL["vision_cfg"], "act_kwargs": {"approximate": "tanh"}}  # type: ignore[dict-item]
    beside(weights, "open_clip_config.json", MODEL | {"text_cfg": text, "vision_cfg": vision})
    a = load(weights).architecture
    assert (a.causal, a.text_pool, a.text_norm_eps, a.activation) == (False, "last", 1e-6, "gelu_tanh")


def test_the_activation_of_a_public_width_is_asked_for(
    weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "assumed" in load(weights).sources["activation"]
    load(weights).require_activation()  # no public model is as narrow
    monkeypatch.setattr(loading, "is_published_width", lambda width: width == 128)
    with pytest.raises(ExportError, match="--activation quickgelu"):
        load(weights).require_activation()
    load(weights, activation="gelu").require_activation()


def test_widths_of_open_clips_models_are_public() -> None:
    assert all(loading.is_published_width(width) for width in (384, 512, 768, 1024, 1280, 1408, 1664))
    assert not loading.is_published_width(128)


def test_a_torchscript_archive_is_openais(small_state: State, tmp_path: Path) -> None:
    from stand_ins.layouts import save_torchscript

    with warnings.catch_warnings(action="ignore"):
        save_torchscript(small_state, tmp_path / "a.pt")
        model = load(tmp_path / "a.pt")
        assert (model.architecture.activation, model.mean) == ("quickgelu", CLIP_MEAN)
        with pytest.raises(ExportError, match="TorchScript"):
            load(tmp_path / "a.pt", activation="gelu")


def test_an_unknown_tag_is_refused_with_a_file_too(weights: Path) -> None:
    with pytest.raises(ExportError, match="open_clip has no weights 'dfn3b'"):
        load(weights, model="ViT-L-14", pretrained="dfn3b")


def test_a_name_alone_gives_way_to_the_file_and_says_what_it_means(
    weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "model_config", lambda _: MODEL)
    model = load(weights, model="ViT-B-16")
    assert (model.architecture.activation, model.sources["activation"]) == ("gelu", "open_clip's ViT-B-16")
    assert any("by the name of" in line for line in model.assumptions)
    beside(weights, "open_clip_config.json", MODEL | {"quick_gelu": True})
    assert load(weights, model="ViT-B-16").architecture.activation == "quickgelu"


def test_the_hash_of_openais_file_tells_its_activation() -> None:
    openai = "5806e77cd80f8b59890b7e101eabd078d9fb84e6937f9e85e4ecb61988df416f"
    assert loading.weights_with_hash(openai) == ("ViT-B-16", "openai")
    assert loading.weights_with_hash("0" * 64) is None


@pytest.mark.parametrize("name", BACKBONES)
def test_by_file_and_by_download_a_backbone_is_the_same(
    name: str, small_state: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The row's weights are gigabytes: a small model stands in for them, under its mean, std and activation."""
    row = BACKBONES[name]
    save_file(small_state, tmp_path / "w.safetensors")
    monkeypatch.setattr(loading, "model_config", lambda _: MODEL)
    monkeypatch.setattr(open_clip, "download_pretrained", lambda _: str(tmp_path / "w.safetensors"))
    by_file = load(tmp_path / "w.safetensors", backbone=name)
    by_download = load_model(Source(backbone=name), lambda _: None)
    for field in (
        "architecture",
        "mean",
        "std",
        "sources",
        "assumptions",
        "name",
        "pretrained",
        "open_clip_name",
    ):
        assert getattr(by_file, field) == getattr(by_download, field), field
    assert by_file.checkpoint.sha256 == by_download.checkpoint.sha256
    tensors = by_download.clip.state_dict()
    assert all(torch.equal(tensors.pop(key), tensor) for key, tensor in by_file.clip.state_dict().items())
    assert not tensors
    table = open_clip.get_pretrained_cfg(row.architecture, row.pretrained)
    assert by_file.mean == pytest.approx([255 * value for value in table["mean"]], abs=1e-3)
    assert by_file.sources["mean"] == f"open_clip's {row.architecture} ({row.pretrained})"


def test_the_table_gives_laions_large_model_its_own_normalisation(
    weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "model_config", lambda _: MODEL)
    assert load(weights, backbone="vitl14-laion2b").mean == HALF
    dfn = load(weights, model="ViT-L-14", pretrained="dfn2b")
    assert (dfn.architecture.activation, dfn.mean) == ("quickgelu", CLIP_MEAN)


def test_unreadable_json_beside_the_file_is_named(weights: Path) -> None:
    (weights.parent / "config.json").write_text("{")
    with pytest.raises(
        CheckpointError, match=re.escape("config.json lies beside the checkpoint but is not readable")
    ):
        load(weights)
