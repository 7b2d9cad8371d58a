"""Where a model comes from: a named backbone, any open_clip ViT, or a file."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from open_clip.model import CLIP

from scclip_export.checkpoint.architecture import (
    Activation,
    Architecture,
    Choice,
    build_clip,
    infer_architecture,
    read_sizes,
)
from scclip_export.checkpoint.backbones import backbone, model_config
from scclip_export.checkpoint.read import Checkpoint, load_checkpoint
from scclip_export.errors import ExportError
from scclip_export.model.geometry import CLIP_MEAN, CLIP_STD

CLIP_VOCABULARY = 49408


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """What the user named: `backbone`, or `model` with `pretrained`, or only a `checkpoint`."""

    backbone: str | None = None
    model: str | None = None
    pretrained: str | None = None
    checkpoint: Path | None = None
    heads: int | None = None
    text_heads: int | None = None
    activation: Activation | None = None

    def __post_init__(self) -> None:
        if self.backbone and self.model:
            raise ExportError("--backbone and --model both name a model; pass one of them")
        if self.model and not (self.pretrained or self.checkpoint):
            raise ExportError(f"--model {self.model} needs --pretrained TAG or --checkpoint FILE")
        if self.pretrained and not self.model:
            raise ExportError("--pretrained TAG goes with --model NAME")
        if not (self.backbone or self.model or self.checkpoint):
            raise ExportError(
                "name a model: --backbone NAME, --model NAME --pretrained TAG, or --checkpoint FILE"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedModel:
    """A CLIP ViT, ready to be wrapped, and all that bundle.json says of its origin."""

    clip: CLIP
    architecture: Architecture
    checkpoint: Checkpoint
    name: str
    backbone: str | None
    open_clip_name: str
    pretrained: str | None
    mean: tuple[float, ...]
    std: tuple[float, ...]
    assumptions: tuple[str, ...]


def load_model(source: Source, progress: Callable[[str], None]) -> LoadedModel:
    """Find, read and build the model.

    Args:
        source: what the user named.
        progress: is told of each long step.

    Raises:
        ExportError: unknown name, failed download, or a model that SC-CLIP can't calibrate.
        CheckpointError: the weights are unreadable, damaged or not a CLIP ViT's.
    """
    row = backbone(source.backbone) if source.backbone else None
    name = row.architecture if row else source.model
    tag = (row.pretrained if row else source.pretrained) if source.checkpoint is None else None
    config = model_config(name) if name else None
    weights_config = _pretrained_config(name, tag) if name and tag else {}
    path = source.checkpoint
    if path is None:
        progress(f"downloading {name} ({tag})")
        path = download(str(name), str(tag), weights_config)
    progress(f"reading {path}")
    checkpoint = load_checkpoint(path)
    if config:
        _check_sizes(str(name), config, read_sizes(checkpoint.state), path)
    choices = [Choice(heads=source.heads, text_heads=source.text_heads, activation=source.activation)]
    if config:
        choices.append(_table_choice(config, weights_config))
    architecture, assumptions = infer_architecture(checkpoint.state, checkpoint.hints, tuple(choices))
    if architecture.vocab_size != CLIP_VOCABULARY:
        raise ExportError(
            f"the text tower knows {architecture.vocab_size} tokens; CLIP's own tokenizer has {CLIP_VOCABULARY}, "
            "and the bundle carries only that one"
        )
    mean, std = _normalisation(weights_config)
    return LoadedModel(
        clip=build_clip(architecture, checkpoint.state),
        architecture=architecture,
        checkpoint=checkpoint,
        name=source.backbone.lower() if source.backbone else (source.model or path.stem),
        backbone=source.backbone.lower() if source.backbone else None,
        open_clip_name=name or f"ViT {architecture.width}×{architecture.layers}/{architecture.patch_size}",
        pretrained=tag,
        mean=mean,
        std=std,
        assumptions=tuple(assumptions),
    )


def _pretrained_config(name: str, tag: str) -> dict[str, Any]:
    import open_clip

    config: dict[str, Any] = open_clip.get_pretrained_cfg(name, tag)
    if not config:
        tags = ", ".join(open_clip.list_pretrained_tags_by_model(name)) or "none"
        raise ExportError(f"open_clip has no weights {tag!r} for {name}; it has: {tags}")
    return config


def download(name: str, tag: str, config: dict[str, Any]) -> Path:
    """Download weights through open_clip into its cache.

    Raises:
        ExportError: the download failed; the message says how to go on without it.
    """
    import open_clip

    try:
        path = open_clip.download_pretrained(config)
    except Exception as error:  # hub, network and file system errors of several libraries
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:300]
        where = config.get("hf_hub") or config.get("url")
        raise ExportError(
            f"could not download the weights {tag!r} of {name} from {where} ({reason}). Check the network, or fetch "
            "the file elsewhere and pass it with --checkpoint FILE (keep --backbone or --model)"
        ) from error
    return Path(path)


def _table_choice(config: dict[str, Any], weights: dict[str, Any]) -> Choice:
    """Heads and activation as open_clip configures them; the weights' own word on QuickGELU wins, as there."""
    vision, text = config["vision_cfg"], config["text_cfg"]
    quick = weights.get("quick_gelu") or config.get("quick_gelu", False)
    return Choice(
        heads=vision["width"] // vision.get("head_width", 64),
        text_heads=text.get("heads", 8),
        activation="quickgelu" if quick else "gelu",
    )


def _check_sizes(name: str, config: dict[str, Any], found: dict[str, int], path: Path) -> None:
    vision, text = config["vision_cfg"], config["text_cfg"]
    expected = {
        "width": vision["width"],
        "layers": vision["layers"],
        "patch_size": vision["patch_size"],
        "image_size": vision.get("image_size", 224),
        "embed_dim": config["embed_dim"],
        "text_width": text["width"],
        "text_layers": text["layers"],
    }
    wrong = [
        f"{key} {found[key]} instead of {value}" for key, value in expected.items() if found[key] != value
    ]
    if wrong:
        raise ExportError(
            f"{path} is not {name}: {', '.join(wrong)}. Leave the model name out to take the sizes from the file"
        )


def _normalisation(weights: dict[str, Any]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation in 0..255 units."""
    mean, std = (
        tuple(weights.get(key) or default)
        for key, default in (("mean", OPENAI_DATASET_MEAN), ("std", OPENAI_DATASET_STD))
    )
    if (mean, std) == (OPENAI_DATASET_MEAN, OPENAI_DATASET_STD):
        return CLIP_MEAN, CLIP_STD  # the method's constants, which are these rounded
    return tuple(255.0 * value for value in mean), tuple(255.0 * value for value in std)
