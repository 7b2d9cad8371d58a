"""Checkpoints: read in any of CLIP's layouts into one state dict, in float32, without running code from them.

The common layout is OpenAI's (`visual.conv1.weight`, `visual.transformer.resblocks.0.…`, `token_embedding.weight`),
which open_clip shares.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from scclip_export.checkpoint.config_files import claims_beside, metadata_claims
from scclip_export.checkpoint.files import StateDict, read_weights
from scclip_export.checkpoint.find import weight_files
from scclip_export.checkpoint.layouts import expand_token_table, openai_layout
from scclip_export.checkpoint.settings import Claim, Value
from scclip_export.errors import CheckpointError
from scclip_export.model.geometry import CLIP_MEAN, CLIP_STD
from scclip_rt.files import sha256_file


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A CLIP ViT's weights.

    Attributes:
        state: float32 tensors in OpenAI's layout.
        sha256: of the file; of several, of the text with one line `SHA256 NAME`, ended by a line feed, for each.
        claims: what the file and the configurations beside it say of the settings that no tensor tells.
        calibration: parameters of SC-CLIP that the file carries, by field of `CalibrationConfig`.
        notes: what was chosen or left out, in words.
    """

    state: StateDict
    sha256: str
    claims: tuple[Claim, ...] = ()
    calibration: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint.

    Args:
        path: OpenAI's TorchScript archive; a state dict saved by torch or as safetensors, in OpenAI's, open_clip's or
            Hugging Face's layout, with any wrapper's prefix; an index of shards, one shard of several, or a folder.

    Raises:
        CheckpointError: the file is missing, unreadable, not a CLIP ViT, or holds a NaN or infinity.
        ExportError: a configuration beside it describes a model that can't be exported.
    """
    files = weight_files(path)
    tensors: StateDict = {}
    claims: list[Claim] = []
    calibration: dict[str, Any] = {}
    notes: list[str] = []
    for file in files:  # one at a time, so that no more than one stays in its stored dtype
        weights = read_weights(file)
        found, stored = metadata_claims(weights.metadata, file.name)
        claims, calibration, notes = claims + found, calibration | stored, notes + list(weights.notes)
        if weights.torchscript:
            claims += _openai_claims()
        for name in list(weights.tensors):
            tensors[name] = _float32(weights.tensors.pop(name), name, file)
    where = str(path)
    layout = openai_layout(tensors, where)
    expand_token_table(layout.state, where)
    _check_numbers(layout.state, where)
    return Checkpoint(
        state=layout.state,
        sha256=_sha256(files),
        claims=(*claims, *claims_beside(files[0].parent)),
        calibration=calibration,
        notes=(*notes, *layout.notes),
    )


def _float32(tensor: Tensor, name: str, file: Path) -> Tensor:
    tensor = tensor.detach()
    odd = {
        "sparse": tensor.layout != torch.strided,
        "quantised": tensor.is_quantized,
        "without values (meta)": tensor.is_meta,
        "nested": tensor.is_nested,
    }
    what = next((kind for kind, is_so in odd.items() if is_so), None)
    if what is not None:
        raise CheckpointError(f"{file}: tensor {name} is {what}; save the weights as dense float tensors")
    return tensor.to(torch.float32) if tensor.is_floating_point() else tensor


def _openai_claims() -> list[Claim]:
    """What is true of every TorchScript archive of a CLIP: only OpenAI published such."""
    source = "the TorchScript archive, OpenAI's"
    values: dict[str, Value] = {
        "activation": "quickgelu",
        "text_activation": "quickgelu",
        "mean": CLIP_MEAN,
        "std": CLIP_STD,
    }
    return [Claim(setting=name, value=value, source=source) for name, value in values.items()]


def _sha256(files: tuple[Path, ...]) -> str:
    if len(files) == 1:
        return sha256_file(files[0])
    lines = "".join(f"{sha256_file(file)} {file.name}\n" for file in files)
    return hashlib.sha256(lines.encode()).hexdigest()


def _check_numbers(state: StateDict, where: str) -> None:
    for name, tensor in state.items():
        if not tensor.is_floating_point():
            raise CheckpointError(
                f"{where}: tensor {name} holds {str(tensor.dtype).removeprefix('torch.')}, not floating point "
                "numbers (a quantised model?); save the weights in float32 or float16"
            )
        if torch.isfinite(tensor.sum()):  # one pass and no copy; a sum that overflows is looked at again
            continue
        bad = int((~torch.isfinite(tensor)).sum())
        if bad:
            raise CheckpointError(
                f"{where}: tensor {name} holds {bad} NaN or infinite values of {tensor.numel()}; "
                "the file is damaged or training diverged"
            )
