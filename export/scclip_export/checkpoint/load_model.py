"""Where a model comes from: a named backbone, any open_clip ViT, or a file."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from open_clip.model import CLIP

from scclip_export.checkpoint.architecture import Activation, Architecture, build_clip, infer_architecture
from scclip_export.checkpoint.backbones import (
    backbone,
    is_published_width,
    model_config,
    pretrained_config,
    weights_with_hash,
)
from scclip_export.checkpoint.config_files import model_claims
from scclip_export.checkpoint.read import Checkpoint, load_checkpoint
from scclip_export.checkpoint.settings import OPTIONS, Claim, normalisation_claims
from scclip_export.errors import ExportError

CLIP_VOCABULARY = 49408


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """What the user named: `backbone`, or `model` with `pretrained`, or only a `checkpoint`.

    `mean` and `std`: R, G, B, as fractions or, where one is above 1, in 0..255 units.
    """

    backbone: str | None = None
    model: str | None = None
    pretrained: str | None = None
    checkpoint: Path | None = None
    heads: int | None = None
    text_heads: int | None = None
    activation: Activation | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

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
        if (self.mean is None) != (self.std is None):
            raise ExportError("--mean and --std go together: both are of the training's normalisation")


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedModel:
    """A CLIP ViT, ready to be wrapped, and all that bundle.json says of its origin.

    Attributes:
        sources: of each setting, who told it; of a guess, a text that begins with "assumed".
        assumptions: the guesses and what was left out, in words for people.
    """

    clip: CLIP
    architecture: Architecture
    checkpoint: Checkpoint
    name: str
    backbone: str | None
    open_clip_name: str
    pretrained: str | None
    mean: tuple[float, ...]
    std: tuple[float, ...]
    sources: Mapping[str, str]
    assumptions: tuple[str, ...]

    def require_activation(self) -> None:
        """Refuse to guess the activation of a model that is published with either; no check could see a wrong one.

        Raises:
            ExportError: nothing tells it, and the width is that of public models.
        """
        guessed = self.sources["activation"].startswith("assumed")
        if guessed and is_published_width(self.architecture.width):
            raise ExportError(
                "nothing tells this checkpoint's activation: no tensor does, and neither the file nor a "
                "configuration beside "
                "it does. Pass --activation quickgelu (OpenAI's, DFN's and MetaCLIP's models, and what was "
                "fine-tuned from "
                "them) or --activation gelu (LAION's, DataComp's), or --model NAME --pretrained TAG of the "
                "training it is "
                "from, or put its open_clip_config.json or config.json beside it"
            )


def load_model(source: Source, progress: Callable[[str], None]) -> LoadedModel:
    """Find, read and build the model.

    Args:
        source: what the user named.
        progress: is told of each long step.

    Raises:
        ExportError: unknown name, failed download, contradicting settings, or a model that SC-CLIP can't calibrate.
        CheckpointError: the weights are unreadable, damaged or not a CLIP ViT's.
    """
    row = backbone(source.backbone) if source.backbone else None
    name = row.architecture if row else source.model
    tag = row.pretrained if row else source.pretrained
    claims = _option_claims(source) + (_table_claims(name, tag) if name else [])  # before a long download
    path = source.checkpoint
    if path is None:
        progress(f"downloading {name} ({tag})")
        path = download(str(name), str(tag), pretrained_config(str(name), str(tag)))
    progress(f"reading {path}")
    checkpoint = load_checkpoint(path)
    known = weights_with_hash(checkpoint.sha256)
    architecture, settled = infer_architecture(
        checkpoint.state, [*claims, *checkpoint.claims, *(_table_claims(*known) if known else [])]
    )
    if architecture.vocab_size != CLIP_VOCABULARY:
        raise ExportError(
            f"the text tower knows {architecture.vocab_size} tokens; CLIP's own tokenizer has {CLIP_VOCABULARY}, "
            "and the bundle carries only that one"
        )
    if architecture.context_length < 3:
        raise ExportError(
            f"the text tower takes {architecture.context_length} tokens; a name between start and end needs 3 or more"
        )
    mean, std = settled["mean"].value, settled["std"].value
    assert isinstance(mean, tuple)
    assert isinstance(std, tuple)
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
        sources={
            setting: claim.source for setting, claim in settled.items() if claim.source != "the tensors"
        },
        assumptions=(*_guesses(settled), *checkpoint.notes),
    )


def _option_claims(source: Source) -> list[Claim]:
    claims = [
        Claim(setting=setting, value=value, source=option)
        for setting, value, option in (
            ("heads", source.heads, "--heads"),
            ("text_heads", source.text_heads, "--text-heads"),
            ("activation", source.activation, "--activation"),
            ("text_activation", source.activation, "--activation"),
        )
        if value is not None
    ]
    if source.mean is not None and source.std is not None:
        scale = 1.0 if max(*source.mean, *source.std) > 1 else 255.0
        claims += normalisation_claims(source.mean, source.std, "--mean and --std", scale=scale)
    return claims


def _table_claims(name: str, tag: str | None) -> list[Claim]:
    """What open_clip's tables say of an architecture and, with a tag, of its weights.

    A name alone is an architecture: without `quick_gelu` it means GELU unless the file knows better. A tag is a
    training: the same file has the same activation under either name, and its own mean and std.
    """
    config = model_config(name)
    if tag is None:
        return model_claims(config, f"open_clip's {name}", firm_activation=False)
    weights = pretrained_config(name, tag)
    source = f"open_clip's {name} ({tag})"
    quick = weights.get("quick_gelu") or config.get("quick_gelu", False)
    claims = model_claims({**config, "quick_gelu": quick}, source)
    return claims + normalisation_claims(weights["mean"], weights["std"], source)


def _guesses(settled: Mapping[str, Claim]) -> list[str]:
    lines = []
    for setting, option in OPTIONS.items():
        claim = settled[setting]
        if claim.source.startswith("assumed"):
            value = claim.value
            shown = ", ".join(f"{number:.3f}" for number in value) if isinstance(value, tuple) else value
            reason = claim.source.removeprefix("assumed, ")
            lines.append(f"{setting.replace('_', ' ')}: {shown} ({reason}); {option} changes it")
    activation = settled["activation"]
    if not activation.firm and not activation.source.startswith("assumed"):
        lines.append(
            f"activation: {activation.value}, by the name of {activation.source}; weights of OpenAI's, DFN's "
            "and MetaCLIP's "
            "trainings have quickgelu: --pretrained TAG or --activation changes it"
        )
    return lines


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
            "the file elsewhere and pass it with --checkpoint FILE beside the same --backbone, or --model and "
            "--pretrained: "
            "its normalisation and activation come from there"
        ) from error
    return Path(path)
