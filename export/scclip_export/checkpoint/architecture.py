"""From a state dict to open_clip's CLIP: the sizes come from the tensors, the rest from whoever knows it."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg
from torch import Tensor

from scclip_export.checkpoint.backbones import ACTIVATION_BY_WIDTH, HEADS_BY_WIDTH
from scclip_export.errors import CheckpointError, ExportError

Activation = Literal["quickgelu", "gelu"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """The shape of a CLIP ViT; lengths in tokens, sizes in pixels."""

    width: int
    layers: int
    heads: int
    mlp_width: int
    patch_size: int
    image_size: int
    embed_dim: int
    text_width: int
    text_layers: int
    text_heads: int
    text_mlp_width: int
    vocab_size: int
    context_length: int
    activation: Activation
    layer_scale: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """What the user or a table says of the things no tensor tells; None leaves it to the checkpoint's hints."""

    heads: int | None = None
    text_heads: int | None = None
    activation: Activation | None = None


def infer_architecture(
    state: Mapping[str, Tensor], hints: Mapping[str, Any], choices: tuple[Choice, ...] = ()
) -> tuple[Architecture, list[str]]:
    """Read the architecture off a state dict in OpenAI's layout.

    Args:
        state: float32 tensors.
        hints: what the checkpoint's configuration says, see `Checkpoint.hints`.
        choices: who decides on heads and activation, the first that has an opinion wins; then come the hints, then the
            table row of that width, then width / 64 heads and QuickGELU.

    Returns:
        The architecture, and one line for each thing that had to be assumed.

    Raises:
        CheckpointError: a tensor is missing or has an impossible shape.
    """
    sizes = read_sizes(state)
    assumptions: list[str] = []
    told = [
        *choices,
        Choice(
            heads=hints.get("heads"), text_heads=hints.get("text_heads"), activation=hints.get("activation")
        ),
    ]
    heads = _first(told, "heads")
    if heads is None:
        heads, why = _assumed_heads(sizes["width"])
        assumptions.append(f"image heads: {heads} ({why}); --heads changes it")
    text_heads = _first(told, "text_heads")
    if text_heads is None:
        text_heads = max(sizes["text_width"] // 64, 1)
        assumptions.append(f"text heads: {text_heads} (width / 64); --text-heads changes it")
    activation = _first(told, "activation")
    if activation is None:
        activation = ACTIVATION_BY_WIDTH.get(sizes["width"], "quickgelu")
        assumptions.append(f"activation: {activation}; --activation quickgelu|gelu changes it")
    for flag, count, width in (
        ("--heads", heads, sizes["width"]),
        ("--text-heads", text_heads, sizes["text_width"]),
    ):
        if count < 1 or width % count:
            raise ExportError(f"{flag} {count} does not divide the width {width}")
    layer_scale = "visual.transformer.resblocks.0.ls_1.gamma" in state
    architecture = Architecture(
        **sizes, heads=heads, text_heads=text_heads, activation=activation, layer_scale=layer_scale
    )
    return architecture, assumptions


def _first(told: list[Choice], name: str) -> Any:
    return next((value for choice in told if (value := getattr(choice, name)) is not None), None)


def _assumed_heads(width: int) -> tuple[int, str]:
    if width in HEADS_BY_WIDTH:
        return HEADS_BY_WIDTH[width], f"as the known models of width {width}"
    return max(width // 64, 1), "width / 64"


def read_sizes(state: Mapping[str, Tensor]) -> dict[str, int]:
    """Return what the tensors tell of an `Architecture`: every field but heads, activation and LayerScale.

    Raises:
        CheckpointError: a tensor is missing or has an impossible shape.
    """
    try:
        return _sizes(state)
    except KeyError as error:
        raise CheckpointError(f"the checkpoint lacks the tensor {error} of a CLIP ViT") from error
    except (IndexError, ValueError) as error:
        raise CheckpointError("a tensor of the checkpoint has the wrong number of dimensions") from error


def _sizes(state: Mapping[str, Tensor]) -> dict[str, int]:
    conv = state["visual.conv1.weight"].shape
    positions = state["visual.positional_embedding"].shape[0] - 1
    grid = math.isqrt(max(positions, 0))
    if len(conv) != 4 or conv[1] != 3 or conv[2] != conv[3] or grid * grid != positions or grid == 0:
        raise CheckpointError(
            f"not a square CLIP ViT: patch convolution {tuple(conv)}, {positions} patch positions (no square number)"
        )
    vocabulary, text_width = state["token_embedding.weight"].shape
    return {
        "width": conv[0],
        "layers": _depth(state, "visual.transformer."),
        "mlp_width": state["visual.transformer.resblocks.0.mlp.c_fc.weight"].shape[0],
        "patch_size": conv[2],
        "image_size": grid * conv[2],
        "embed_dim": state["visual.proj"].shape[1],
        "text_width": text_width,
        "text_layers": _depth(state, "transformer."),
        "text_mlp_width": state["transformer.resblocks.0.mlp.c_fc.weight"].shape[0],
        "vocab_size": vocabulary,
        "context_length": state["positional_embedding"].shape[0],
    }


def _depth(state: Mapping[str, Tensor], prefix: str) -> int:
    pattern = re.compile(re.escape(prefix) + r"resblocks\.(\d+)\.")
    return 1 + max((int(match[1]) for name in state if (match := pattern.match(name))), default=-1)


def build_clip(architecture: Architecture, state: Mapping[str, Tensor]) -> CLIP:
    """Build open_clip's CLIP and load the weights in float32.

    The state dict is loaded into a model built from sizes, not through open_clip's OpenAI loader: that one rounds
    float32 weights to float16 on the way (open_clip 3.3), which moves text embeddings by 8e-5.

    Raises:
        CheckpointError: tensors are missing, left over, or of another shape.
    """
    a = architecture
    scale = 1.0 if a.layer_scale else None
    vision = CLIPVisionCfg(
        layers=a.layers,
        width=a.width,
        head_width=a.width // a.heads,
        mlp_ratio=a.mlp_width / a.width,
        patch_size=a.patch_size,
        image_size=a.image_size,
        ls_init_value=scale,
    )
    text = CLIPTextCfg(
        context_length=a.context_length,
        vocab_size=a.vocab_size,
        width=a.text_width,
        heads=a.text_heads,
        layers=a.text_layers,
        mlp_ratio=a.text_mlp_width / a.text_width,
        ls_init_value=scale if "transformer.resblocks.0.ls_1.gamma" in state else None,
    )
    with torch.device("meta"):
        model = CLIP(a.embed_dim, vision, text, quick_gelu=a.activation == "quickgelu")
    weights = dict(state)
    weights.setdefault("logit_scale", torch.tensor(100.0).log())
    weights["logit_scale"] = weights["logit_scale"].reshape(())
    _check_names(model, weights)
    try:
        model.load_state_dict(weights, strict=True, assign=True)
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines()[1:4]]
        raise CheckpointError(f"the checkpoint's tensors do not fit a CLIP ViT: {' '.join(lines)}") from error
    model.register_buffer("attn_mask", None, persistent=False)  # the meta mask; the text graph builds its own
    return model.eval().requires_grad_(False)


def _check_names(model: CLIP, state: Mapping[str, Tensor]) -> None:
    expected, found = set(model.state_dict()), set(state)
    missing, extra = sorted(expected - found), sorted(found - expected)
    if missing or extra:
        parts = [
            f"{word} {len(names)} ({', '.join(names[:3])}{', …' if len(names) > 3 else ''})"
            for word, names in (("lacks", missing), ("has unknown", extra))
            if names
        ]
        raise CheckpointError(
            f"the checkpoint's tensors are not those of a plain CLIP ViT: it {' and '.join(parts)}"
        )
