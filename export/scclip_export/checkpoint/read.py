"""Checkpoints: read a file in any of CLIP's layouts into one state dict, in float32, without running code from it.

The common layout is OpenAI's (`visual.conv1.weight`, `visual.transformer.resblocks.0.…`, `token_embedding.weight`),
which open_clip shares.
"""

import json
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from scclip_export.errors import CheckpointError
from scclip_rt.files import sha256_file

StateDict = dict[str, Tensor]

_BUFFERS = {"input_resolution", "context_length", "vocab_size", "attn_mask", "logit_bias"}
_PREFIXES = ("_orig_mod.", "module.", "model.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A CLIP ViT's weights.

    Attributes:
        state: float32 tensors in OpenAI's layout.
        sha256: of the file.
        hints: what the file or a configuration beside it says that no tensor does: `heads`, `text_heads`, `activation`,
            `calibration`, each with where it was found under `NAME_source`.
    """

    state: StateDict
    sha256: str
    hints: dict[str, Any] = field(default_factory=dict)


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint.

    Args:
        path: OpenAI's TorchScript archive; a state dict saved by torch (plain, under `state_dict`, or with a `module.`
            prefix) or as safetensors, in OpenAI's or open_clip's layout; or a Hugging Face CLIP `model.safetensors`.

    Raises:
        CheckpointError: the file is missing, unreadable, not a CLIP ViT, or holds a NaN or infinity.
    """
    if not path.is_file():
        raise CheckpointError(f"checkpoint {path} does not exist or is not a file")
    metadata: dict[str, str] = {}
    if _is_safetensors(path):
        raw, metadata = _read_safetensors(path)
    elif _is_torchscript(path):
        raw = _read_torchscript(path)
    else:
        raw = _read_pickle(path)
    state = _openai_layout(_strip_prefixes(raw), path)
    _expand_token_table(state, path)
    state = {name: tensor.detach().to(torch.float32) for name, tensor in state.items()}
    _check_finite(state, path)
    return Checkpoint(state=state, sha256=sha256_file(path), hints=_hints(path, metadata))


def _is_safetensors(path: Path) -> bool:
    with path.open("rb") as file:
        head = file.read(9)
    return path.suffix == ".safetensors" or (len(head) == 9 and head[8:] == b"{")


def _is_torchscript(path: Path) -> bool:
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.split("/", 1)[-1] == "constants.pkl" for name in archive.namelist())


def _read_safetensors(path: Path) -> tuple[StateDict, dict[str, str]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, dict(  # noqa: SIM118
                file.metadata() or {}
            )
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{path} is not a readable safetensors file ({error}); download or copy it again"
        ) from error


def _read_torchscript(path: Path) -> StateDict:
    try:
        return dict(torch.jit.load(str(path), map_location="cpu").state_dict())
    except (RuntimeError, OSError) as error:
        raise CheckpointError(
            f"{path} is not a readable TorchScript archive ({_line(error)}); download it again"
        ) from error


def _read_pickle(path: Path) -> StateDict:
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises pickle, zip, EOF, key and runtime errors for damaged files
        raise CheckpointError(
            f"{path} is not a readable checkpoint ({_line(error)}). Only tensors are read, never pickled code: "
            "save `model.state_dict()` with torch.save or as safetensors"
        ) from error
    for key in ("state_dict", "model_state_dict", "model"):
        if isinstance(loaded, Mapping) and isinstance(loaded.get(key), Mapping):
            loaded = loaded[key]
            break
    if not isinstance(loaded, Mapping):
        raise CheckpointError(f"{path} holds a {type(loaded).__name__}, not a state dict")
    return {str(name): tensor for name, tensor in loaded.items() if isinstance(tensor, Tensor)}


def _line(error: Exception) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0][:160]


def _strip_prefixes(state: StateDict) -> StateDict:
    while state:
        prefix = next((p for p in _PREFIXES if all(name.startswith(p) for name in state)), None)
        if prefix is None:
            break
        state = {name[len(prefix) :]: tensor for name, tensor in state.items()}
    return state


def _openai_layout(state: StateDict, path: Path) -> StateDict:
    if "vision_model.embeddings.patch_embedding.weight" in state:
        state = _from_hugging_face(state, path)
    if "visual.conv1.weight" not in state or "visual.class_embedding" not in state:
        raise CheckpointError(f"{path} is not a CLIP ViT: {_what_it_is(state)}")
    # open_clip's CustomTextCLIP keeps the text tower under `text.`.
    state = {name.removeprefix("text."): tensor for name, tensor in state.items() if name not in _BUFFERS}
    state.pop("attn_mask", None)
    if "token_embedding.weight" not in state or "text_projection" not in state:
        raise CheckpointError(
            f"{path} has CLIP's image tower but not its text transformer; class names can't be embedded without it"
        )
    return state


def _what_it_is(state: StateDict) -> str:
    if not state:
        return "it holds no tensors"
    if any(name.startswith("visual.layer1.") for name in state):
        return "it is a CLIP ResNet; SC-CLIP needs a ViT"
    if any(name.startswith("visual.trunk.") for name in state):
        return "its image tower is a timm model; SC-CLIP calibrates CLIP's own ViT"
    names = ", ".join(list(state)[:3])
    return f"it holds {len(state)} tensors ({names}, …) but no `visual.conv1.weight` with `visual.class_embedding`"


_HF_BLOCK = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "self_attn.out_proj": "attn.out_proj",
}


def _from_hugging_face(state: StateDict, path: Path) -> StateDict:
    try:
        out: StateDict = {
            "visual.class_embedding": state["vision_model.embeddings.class_embedding"],
            "visual.conv1.weight": state["vision_model.embeddings.patch_embedding.weight"],
            "visual.positional_embedding": state["vision_model.embeddings.position_embedding.weight"],
            "visual.proj": state["visual_projection.weight"].T,
            "token_embedding.weight": state["text_model.embeddings.token_embedding.weight"],
            "positional_embedding": state["text_model.embeddings.position_embedding.weight"],
            "text_projection": state["text_projection.weight"].T,
        }
        for suffix in ("weight", "bias"):
            out[f"visual.ln_pre.{suffix}"] = state[f"vision_model.pre_layrnorm.{suffix}"]
            out[f"visual.ln_post.{suffix}"] = state[f"vision_model.post_layernorm.{suffix}"]
            out[f"ln_final.{suffix}"] = state[f"text_model.final_layer_norm.{suffix}"]
        for source, target in (("vision_model", "visual."), ("text_model", "")):
            for index in _block_indices(state, rf"{source}\.encoder\.layers\.(\d+)\."):
                block = f"{source}.encoder.layers.{index}"
                _hugging_face_block(state, out, block, f"{target}transformer.resblocks.{index}")
    except KeyError as error:
        raise CheckpointError(
            f"{path} looks like a Hugging Face CLIP but lacks the tensor {error}"
        ) from error
    if "logit_scale" in state:
        out["logit_scale"] = state["logit_scale"]
    return out


def _hugging_face_block(state: StateDict, out: StateDict, source: str, target: str) -> None:
    for suffix in ("weight", "bias"):
        for theirs, ours in _HF_BLOCK.items():
            out[f"{target}.{ours}.{suffix}"] = state[f"{source}.{theirs}.{suffix}"]
        parts = [state[f"{source}.self_attn.{name}_proj.{suffix}"] for name in "qkv"]
        out[f"{target}.attn.in_proj_{suffix}"] = torch.cat(parts)


def _block_indices(state: StateDict, pattern: str) -> list[int]:
    return sorted({int(match[1]) for name in state if (match := re.match(pattern, name))})


def _expand_token_table(state: StateDict, path: Path) -> None:
    """Undo a pruned token table: `token_embedding.index` (vocabulary,) names the row of each token."""
    index = state.pop("token_embedding.index", None)
    if index is None:
        return
    table = state["token_embedding.weight"]
    if index.ndim != 1 or int(index.min()) < 0 or int(index.max()) >= len(table):
        raise CheckpointError(f"{path}: token_embedding.index points outside the table of {len(table)} rows")
    state["token_embedding.weight"] = table[index.long()]


def _check_finite(state: StateDict, path: Path) -> None:
    for name, tensor in state.items():
        bad = int((~torch.isfinite(tensor)).sum())
        if bad:
            raise CheckpointError(
                f"{path}: tensor {name} holds {bad} NaN or infinite values of {tensor.numel()}; "
                "the file is damaged or training diverged"
            )


def _hints(path: Path, metadata: dict[str, str]) -> dict[str, Any]:
    hints = _metadata_hints(metadata, path)
    for name in ("config.json", "open_clip_config.json"):
        config = path.parent / name
        if config.is_file():
            found = _config_hints(config)
            for key, value in found.items():
                if key not in hints:
                    hints[key] = value
                    hints[f"{key}_source"] = str(config)
    return hints


def _metadata_hints(metadata: dict[str, str], path: Path) -> dict[str, Any]:
    hints: dict[str, Any] = {}
    try:
        for key, ours in (("vision_heads", "heads"), ("heads", "heads"), ("text_heads", "text_heads")):
            if key in metadata:
                hints[ours] = int(metadata[key])
        if "activation" in metadata:
            hints["activation"] = _activation(metadata["activation"])
        if "calibration" in metadata:
            hints["calibration"] = json.loads(metadata["calibration"])
    except ValueError as error:
        raise CheckpointError(f"{path}: its metadata can't be read ({error})") from error
    return hints | {f"{key}_source": f"metadata of {path.name}" for key in list(hints)}


def _activation(name: str) -> str:
    known = {"quickgelu": "quickgelu", "quick_gelu": "quickgelu", "gelu": "gelu"}
    if name.lower() not in known:
        raise CheckpointError(f"activation {name!r} is neither quickgelu nor gelu; pass --activation")
    return known[name.lower()]


def _config_hints(path: Path) -> dict[str, Any]:
    """Read a Hugging Face CLIP `config.json` or open_clip's `open_clip_config.json`; anything else says nothing."""
    try:
        config = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{path} lies beside the checkpoint but is not readable JSON ({error})"
        ) from error
    if isinstance(config, dict) and config.get("model_type") == "clip":
        vision, text = config.get("vision_config") or {}, config.get("text_config") or {}
        # The defaults are those of transformers' CLIPVisionConfig and CLIPTextConfig, which files leave out.
        return {
            "heads": int(vision.get("num_attention_heads", 12)),
            "text_heads": int(text.get("num_attention_heads", 8)),
            "activation": _activation(str(vision.get("hidden_act", "quick_gelu"))),
        }
    model = config.get("model_cfg", config) if isinstance(config, dict) else {}
    if not isinstance(model, dict) or "vision_cfg" not in model:
        return {}
    vision, text = model["vision_cfg"], model.get("text_cfg", {})
    hints: dict[str, Any] = {"activation": "quickgelu" if model.get("quick_gelu") else "gelu"}
    if isinstance(vision.get("width"), int):
        hints["heads"] = vision["width"] // int(vision.get("head_width", 64))
    if "heads" in text:
        hints["text_heads"] = int(text["heads"])
    return hints
