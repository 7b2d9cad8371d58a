"""What configurations say of a model: open_clip's, Hugging Face's, and the metadata of a safetensors file."""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from open_clip.model import CLIPTextCfg, CLIPVisionCfg

from scclip_export.checkpoint.families import refuse_timm
from scclip_export.checkpoint.settings import Claim, normalisation_claims
from scclip_export.errors import CheckpointError, ExportError

Json = Mapping[str, Any]

END_TOKEN = 49407
ACTIVATIONS: Mapping[str, str] = {
    "quickgelu": "quickgelu",
    "quick_gelu": "quickgelu",
    "gelu": "gelu",
    "gelu_tanh": "gelu_tanh",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
}
_EPSILON = 1e-5
# Of open_clip's configurations: what is read below, and what changes no arithmetic of the exported towers.
_VISION_READ = {"layers", "width", "head_width", "mlp_ratio", "patch_size", "image_size", "no_ln_pre"}
_TEXT_READ = {"context_length", "vocab_size", "width", "heads", "layers", "mlp_ratio", "no_causal_mask"}
_READ = {"act_kwargs", "norm_kwargs", "pool_type"}
# The initial LayerScale is in the tensors, as are stored positions; dropout is for training.
_NEUTRAL = {
    "ls_init_value",
    "pos_embed_type",
    "patch_dropout",
    "output_tokens",
    "attn_pooler_queries",
    "attn_pooler_heads",
    "pad_id",
    "eos_id",
    "tokenizer_mode",
    "hf_model_pretrained",
    "hf_proj_type",
    "hf_pooler_type",
}


def claims_beside(folder: Path) -> list[Claim]:
    """Read the configurations that lie beside a checkpoint.

    Raises:
        CheckpointError: one is not readable, or holds a value of the wrong kind.
        ExportError: one describes a model that can't be exported.
    """
    readers: dict[str, Callable[[Json, str], list[Claim]]] = {
        "open_clip_config.json": _open_clip_file,
        "config.json": _config_file,
        "preprocessor_config.json": _preprocessor,
        "processor_config.json": lambda config, name: _preprocessor(config.get("image_processor"), name),
    }
    claims: list[Claim] = []
    for name, read in readers.items():
        path = folder / name
        if path.is_file():
            claims += _read_json(path, read)
    return claims


def _read_json(path: Path, read: Callable[[Json, str], list[Claim]]) -> list[Claim]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{path} lies beside the checkpoint but is not readable JSON ({error})"
        ) from error
    try:
        return read(config, path.name) if isinstance(config, dict) else []
    except CheckpointError as error:
        raise CheckpointError(f"{path} lies beside the checkpoint: {error}") from error


def metadata_claims(metadata: Mapping[str, str], name: str) -> tuple[list[Claim], dict[str, Any]]:
    """Read a safetensors file's metadata: claims, and the calibration that it carries.

    Raises:
        CheckpointError: a value can't be read.
    """
    source = f"metadata of {name}"
    claims: list[Claim] = []
    calibration: dict[str, Any] = {}
    try:
        for key, setting in (("vision_heads", "heads"), ("heads", "heads"), ("text_heads", "text_heads")):
            if key in metadata:
                claims.append(Claim(setting=setting, value=int(metadata[key]), source=source))
        if "activation" in metadata:
            claims += _activation(metadata["activation"], source, ("activation", "text_activation"))
        if "mean" in metadata and "std" in metadata:
            mean, std = json.loads(metadata["mean"]), json.loads(metadata["std"])
            claims += normalisation_claims(mean, std, source, scale=1.0 if max(std) > 1 else 255.0)
        if "calibration" in metadata:
            calibration = dict(json.loads(metadata["calibration"]))
    except (ValueError, TypeError) as error:
        raise CheckpointError(f"{name}: its metadata can't be read ({error})") from error
    return claims, calibration


def model_claims(config: Json, source: str, *, firm_activation: bool = True) -> list[Claim]:
    """Return what open_clip's configuration of a model says.

    Args:
        config: with `embed_dim`, `vision_cfg`, `text_cfg` and perhaps `quick_gelu`.
        source: whose configuration it is, for messages.
        firm_activation: whether leaving `quick_gelu` out means GELU, or only that nothing else is known.

    Raises:
        ExportError: it is not CLIP's own ViT and text transformer, or has a setting that is not supported.
        CheckpointError: a value is of the wrong kind.
    """
    vision, text = _section(config, "vision_cfg"), _section(config, "text_cfg")
    if config.get("multimodal_cfg"):
        raise ExportError(
            f"{source} is a CoCa: its image tower pools by attention and its text tower appends a class token, "
            "which SC-CLIP is not defined for. Use a plain CLIP ViT, such as --backbone vitb16"
        )
    if vision.get("timm_model_name"):
        refuse_timm(str(vision["timm_model_name"]), source)
    _refuse_text(text, source)
    claims: list[tuple[str, Any]] = []
    quick = bool(config.get("quick_gelu", False))
    if vision.get("timm_model_name"):
        claims += _timm_tower(vision, source)
    else:
        if not isinstance(vision.get("layers", 12), int):
            raise ExportError(
                f"{source} is a ResNet; SC-CLIP needs a ViT's patch tokens. Use --backbone vitb16 or another ViT"
            )
        claims += _vision_sizes(vision)
        _refuse_unknown(vision, CLIPVisionCfg, _VISION_READ, "vision_cfg", source)
        if vision.get("pool_type", "tok") != "tok":
            raise ExportError(
                f"{source}: vision_cfg.pool_type {vision['pool_type']!r}: the image tower averages its patches "
                "and its class "
                "token is not trained to say anything; SC-CLIP adds that token to every patch"
            )
        claims += _arithmetic(vision, quick=quick, prefix="")
    if "embed_dim" in config:
        claims.append(("embed_dim", _count(config, "embed_dim")))
    claims += [*_text_sizes(text), *_arithmetic(text, quick=quick, prefix="text_")]
    claims.append(("causal", not text.get("no_causal_mask", False)))
    claims.append(("text_pool", _text_pool(text, source)))
    told = quick or firm_activation
    return [
        Claim(setting=name, value=value, source=source, firm=told or not name.endswith("activation"))
        for name, value in claims
    ]


def _open_clip_file(config: Json, source: str) -> list[Claim]:
    model = config.get("model_cfg", config)
    if not isinstance(model, dict):
        raise CheckpointError("model_cfg is not an object")
    claims = model_claims(model, source) if "vision_cfg" in model else []
    preprocess = config.get("preprocess_cfg")
    if isinstance(preprocess, dict) and preprocess.get("mean") and preprocess.get("std"):
        claims += normalisation_claims(preprocess["mean"], preprocess["std"], source)
    return claims


def _config_file(config: Json, source: str) -> list[Claim]:
    if "vision_cfg" in config or "model_cfg" in config:
        return _open_clip_file(config, source)
    if "clip" not in str(config.get("model_type", "")):
        return []
    return list(_hugging_face(config, source))


def _hugging_face(config: Json, source: str) -> Iterator[Claim]:
    """Claims of transformers' CLIPConfig; what a file leaves out has transformers' default, but for sizes."""
    if "projection_dim" in config:
        yield Claim(setting="embed_dim", value=_count(config, "projection_dim"), source=source)
    sizes = {"hidden_size": "width", "num_hidden_layers": "layers", "intermediate_size": "mlp_width"}
    towers: tuple[tuple[str, str, int, dict[str, str]], ...] = (
        ("vision_config", "", 12, sizes | {"patch_size": "patch_size", "image_size": "image_size"}),
        (
            "text_config",
            "text_",
            8,
            {key: f"text_{name}" for key, name in sizes.items()}
            | {"vocab_size": "vocab_size", "max_position_embeddings": "context_length"},
        ),
    )
    for section, prefix, heads, names in towers:
        tower = _section(config, section if config.get(section) is not None else f"{section}_dict")
        for key, name in names.items():
            if key in tower:
                yield Claim(setting=name, value=_count(tower, key), source=source)
        yield Claim(
            setting=f"{prefix}heads", value=_count(tower, "num_attention_heads", heads), source=source
        )
        yield Claim(
            setting=f"{prefix}norm_eps",
            value=_number(tower, "layer_norm_eps", _EPSILON),
            source=source,
        )
        yield from _activation(str(tower.get("hidden_act", "quick_gelu")), source, (f"{prefix}activation",))
        # 2 is what transformers wrote before it knew CLIP's own end token; both pool at it.
        if section == "text_config" and tower.get("eos_token_id", 2) not in (2, END_TOKEN):
            raise CheckpointError(
                f"text_config.eos_token_id is {tower['eos_token_id']!r}; CLIP's tokenizer ends text with {END_TOKEN}"
            )


def _preprocessor(config: Any, source: str) -> list[Claim]:
    """Mean and std of a Hugging Face image processor: (rescale_factor * pixel - image_mean) / image_std."""
    if not isinstance(config, dict) or "image_mean" not in config:
        return []
    rescaled = config.get("do_rescale", True)
    factor = _number(config, "rescale_factor", 1 / 255) if rescaled else 1.0
    mean, std = config.get("image_mean"), config.get("image_std")
    if config.get("do_normalize", True) is False:
        mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    return normalisation_claims(mean or (), std or (), source, scale=1 / factor)


def _vision_sizes(vision: Json) -> list[tuple[str, Any]]:
    width = _count(vision, "width", 768)
    return [
        ("width", width),
        ("layers", _count(vision, "layers", 12)),
        ("patch_size", _side(vision, "patch_size", 16)),
        ("image_size", _side(vision, "image_size", 224)),
        ("mlp_width", int(width * _number(vision, "mlp_ratio", 4.0))),
        ("heads", width // _count(vision, "head_width", 64)),
        ("ln_pre", not vision.get("no_ln_pre", False)),
    ]


def _text_sizes(text: Json) -> list[tuple[str, Any]]:
    width = _count(text, "width", 512)
    return [
        ("text_width", width),
        ("text_layers", _count(text, "layers", 12)),
        ("text_mlp_width", int(width * _number(text, "mlp_ratio", 4.0))),
        ("text_heads", _count(text, "heads", 8)),
        ("vocab_size", _count(text, "vocab_size", 49408)),
    ]


def _arithmetic(tower: Json, *, quick: bool, prefix: str) -> list[tuple[str, Any]]:
    """Activation and epsilon, which no tensor shows."""
    act, norm = _section(tower, "act_kwargs"), _section(tower, "norm_kwargs")
    if (
        set(act) - {"approximate"}
        or act.get("approximate", "none") not in ("none", "tanh")
        or (quick and act)
    ):
        raise ExportError(
            f"act_kwargs {dict(act)} is not supported; known: approximate none or tanh, for GELU"
        )
    if set(norm) - {"eps"}:
        raise ExportError(f"norm_kwargs {dict(norm)} is not supported; known: eps")
    activation = "quickgelu" if quick else "gelu_tanh" if act.get("approximate") == "tanh" else "gelu"
    return [
        (f"{prefix}activation", activation),
        (f"{prefix}norm_eps", _number(norm, "eps", _EPSILON)),
    ]


def _timm_tower(vision: Json, source: str) -> list[tuple[str, Any]]:
    """Claims of a timm ViT that is CLIP's in all but names; timm itself says how it is built."""
    import timm
    import torch

    name = str(vision["timm_model_name"])
    if vision.get("timm_pool", "avg") not in ("token", "tok"):
        raise ExportError(
            f"{source}: the image tower ({name}) pools by {vision.get('timm_pool', 'avg')!r}; its class token "
            "is not what "
            "text was trained against, and SC-CLIP adds that token to every patch"
        )
    try:
        with torch.device("meta"):
            trunk: Any = timm.create_model(name, pretrained=False, num_classes=1)
    except RuntimeError as error:
        raise ExportError(
            f"{source}: timm {timm.__version__} has no model {name!r}; correct the name, or install a timm that has it"
        ) from error
    block = trunk.blocks[0]
    activation = {"QuickGELU": "quickgelu", "GELU": "gelu", "GELUTanh": "gelu_tanh"}.get(
        type(block.mlp.act).__name__
    )
    if activation is None:
        raise ExportError(f"{source}: {name} has the activation {type(block.mlp.act).__name__}")
    return [
        ("width", trunk.embed_dim),
        ("layers", len(trunk.blocks)),
        ("heads", block.attn.num_heads),
        ("patch_size", trunk.patch_embed.patch_size[0]),
        ("image_size", _side(vision, "image_size", 224)),
        ("activation", activation),
        ("norm_eps", float(trunk.norm.eps)),
    ]


def _refuse_text(text: Json, source: str) -> None:
    if text.get("hf_model_name"):
        raise ExportError(
            f"{source}: its text tower is {text['hf_model_name']}; the bundle carries CLIP's own text transformer only"
        )
    if text.get("hf_tokenizer_name") or text.get("tokenizer_kwargs"):
        tokenizer = text.get("hf_tokenizer_name") or f"CLIP's with {text['tokenizer_kwargs']}"
        raise ExportError(
            f"{source}: it reads text by another tokenizer ({tokenizer}); the bundle carries CLIP's own only"
        )
    if text.get("embed_cls") or text.get("proj_bias") or text.get("proj_type", "linear") != "linear":
        raise ExportError(
            f"{source}: its text tower ends otherwise than CLIP's (embed_cls, proj_bias or proj_type in text_cfg)"
        )
    # CLIP's LayerNorm after pooling is the same as before: one token is taken, none are mixed.
    _refuse_unknown(text, CLIPTextCfg, _TEXT_READ | {"final_ln_after_pool"}, "text_cfg", source)


def _refuse_unknown(tower: Json, kind: type, read: set[str], section: str, source: str) -> None:
    """Refuse what is neither read, nor neutral, nor at its default."""
    defaults = {field.name: field.default for field in fields(kind)}
    for key, value in tower.items():
        known = read | _READ | _NEUTRAL
        if key not in known and not key.startswith("timm_") and value != defaults.get(key):
            raise ExportError(f"{source}: {section}.{key} = {value!r} is not supported")


def _text_pool(text: Json, source: str) -> str:
    pool = str(text.get("pool_type", "argmax"))
    if pool == "eos" and text.get("eos_id", 2) == END_TOKEN:
        return "argmax"  # the end token has the highest id
    if pool not in ("argmax", "first", "last"):
        raise ExportError(
            f"{source}: text_cfg.pool_type {pool!r} is not supported; known: argmax, first, last"
        )
    return pool


def _activation(name: str, source: str, settings: tuple[str, ...]) -> list[Claim]:
    known = ACTIVATIONS.get(name.lower())
    if known is None:
        raise CheckpointError(
            f"the activation {name!r} is none of {', '.join(sorted(set(ACTIVATIONS.values())))}"
        )
    return [Claim(setting=setting, value=known, source=source) for setting in settings]


def _section(config: Json, key: str) -> Json:
    value = config.get(key)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise CheckpointError(f"{key} is {value!r}, not an object")
    return value


def _count(config: Json, key: str, default: int | None = None) -> int:
    value = config.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise CheckpointError(f"{key} is {json.dumps(value)}, not a positive whole number")
    return value


def _number(config: Json, key: str, default: float) -> float:
    value = config.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
        raise CheckpointError(f"{key} is {json.dumps(value)}, not a positive number")
    return float(value)


def _side(config: Json, key: str, default: int) -> int:
    value = config.get(key, default)
    if isinstance(value, list | tuple) and len(set(value)) == 1:
        value = value[0]
    return _count({key: value}, key)
