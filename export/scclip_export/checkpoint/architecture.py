"""From a state dict to open_clip's CLIP: the sizes come from the tensors, the rest from whoever knows it."""

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

import torch
from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg
from open_clip.transformer import QuickGELU
from torch import Tensor, nn

from scclip_export.checkpoint.settings import Claim, Value, settle
from scclip_export.errors import CheckpointError, ExportError
from scclip_export.model.geometry import CLIP_MEAN, CLIP_STD

Activation = Literal["quickgelu", "gelu", "gelu_tanh"]

# What has to be assumed where nobody tells: image heads by width, as the known models have them.
_HEADS_BY_WIDTH = {768: 12, 1024: 16, 1280: 16, 1408: 16, 1664: 16}
_TENSORS = "the tensors"


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """The shape of a CLIP ViT; lengths in tokens, sizes in pixels.

    What has a default is CLIP's own where no configuration says otherwise.
    """

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
    text_activation: Activation
    norm_eps: float = 1e-5
    text_norm_eps: float = 1e-5
    causal: bool = True  # whether a text token sees only those before it
    text_pool: Literal["argmax", "first", "last"] = "argmax"  # argmax: the end token, whose id is the highest
    ln_pre: bool = True
    layer_scale: bool = False


def infer_architecture(
    state: Mapping[str, Tensor], claims: Iterable[Claim] = ()
) -> tuple[Architecture, dict[str, Claim]]:
    """Read the architecture off a state dict in OpenAI's layout.

    Args:
        state: float32 tensors.
        claims: what is said of the settings that no tensor tells, and of those that tensors do.

    Returns:
        The architecture, and for each setting the claim that holds. A source that begins with "assumed" is a guess.

    Raises:
        CheckpointError: a tensor is missing or has an impossible shape.
        ExportError: claims contradict each other or the tensors.
    """
    sizes = read_sizes(state)
    told = {**sizes, "ln_pre": "visual.ln_pre.weight" in state}
    settled = settle(
        [
            *(Claim(setting=name, value=value, source=_TENSORS) for name, value in told.items()),
            *claims,
            *_assumptions(sizes),
        ]
    )
    # One activation for both towers, unless the text tower's is told.
    settled.setdefault("text_activation", replace(settled["activation"], setting="text_activation"))
    for setting, width in (("heads", sizes["width"]), ("text_heads", sizes["text_width"])):
        claim = settled[setting]
        if not isinstance(claim.value, int) or claim.value < 1 or width % claim.value:
            raise ExportError(
                f"{claim.source}: {claim.value} {setting.replace('_', ' ')} do not divide the width {width}"
            )
    names = {field.name for field in fields(Architecture)}
    values: dict[str, Any] = {name: claim.value for name, claim in settled.items() if name in names}
    layer_scale = "visual.transformer.resblocks.0.ls_1.gamma" in state
    return Architecture(**values, layer_scale=layer_scale), settled


def _assumptions(sizes: Mapping[str, int]) -> list[Claim]:
    """What gives way to any claim: CLIP's usual heads, QuickGELU and the normalisation of OpenAI's training."""
    width = sizes["width"]
    known = (
        f"assumed, as the known models of width {width}"
        if width in _HEADS_BY_WIDTH
        else "assumed, width / 64"
    )
    values: list[tuple[str, Value, str]] = [
        ("heads", _HEADS_BY_WIDTH.get(width, max(width // 64, 1)), known),
        ("text_heads", max(sizes["text_width"] // 64, 1), "assumed, width / 64"),
        ("activation", "quickgelu", "assumed, as OpenAI's models"),
        ("mean", CLIP_MEAN, "assumed, as OpenAI's models"),
        ("std", CLIP_STD, "assumed, as OpenAI's models"),
    ]
    return [
        Claim(setting=setting, value=value, source=source, firm=False) for setting, value, source in values
    ]


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
    with torch.device("meta"):
        model = CLIP(a.embed_dim, _vision_config(a), _text_config(a, state))
    for tower, activation in (
        (model.visual.transformer, a.activation),
        (model.transformer, a.text_activation),
    ):
        for block in tower.resblocks:
            block.mlp.gelu = _activation(activation)
    weights = dict(state)
    weights.setdefault("logit_scale", torch.tensor(100.0).log())
    if weights["logit_scale"].numel() != 1:
        raise CheckpointError(f"logit_scale holds {weights['logit_scale'].numel()} numbers; a CLIP has one")
    weights["logit_scale"] = weights["logit_scale"].reshape(())
    projection_bias = weights.pop("visual.proj_bias", None)  # of timm's towers; CLIP's own have none
    _check_names(model, weights)
    try:
        model.load_state_dict(weights, strict=True, assign=True)
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines()[1:4]]
        raise CheckpointError(f"the checkpoint's tensors do not fit a CLIP ViT: {' '.join(lines)}") from error
    model.visual.register_buffer("proj_bias", projection_bias, persistent=False)
    # Off the meta device; the text graph builds its own.
    mask = torch.full((a.context_length, a.context_length), float("-inf")).triu_(1) if a.causal else None
    model.register_buffer("attn_mask", mask, persistent=False)
    return model.eval().requires_grad_(False)


def _vision_config(a: Architecture) -> CLIPVisionCfg:
    return CLIPVisionCfg(
        layers=a.layers,
        width=a.width,
        head_width=a.width // a.heads,
        mlp_ratio=a.mlp_width / a.width,
        patch_size=a.patch_size,
        image_size=a.image_size,
        no_ln_pre=not a.ln_pre,
        ls_init_value=1.0 if a.layer_scale else None,
        norm_kwargs={"eps": a.norm_eps},
    )


def _text_config(a: Architecture, state: Mapping[str, Tensor]) -> CLIPTextCfg:
    return CLIPTextCfg(
        context_length=a.context_length,
        vocab_size=a.vocab_size,
        width=a.text_width,
        heads=a.text_heads,
        layers=a.text_layers,
        mlp_ratio=a.text_mlp_width / a.text_width,
        ls_init_value=1.0 if "transformer.resblocks.0.ls_1.gamma" in state else None,
        no_causal_mask=not a.causal,
        pool_type=a.text_pool,
        norm_kwargs={"eps": a.text_norm_eps},
    )


def _activation(name: Activation) -> nn.Module:
    if name == "quickgelu":
        return QuickGELU()
    return nn.GELU(approximate="tanh" if name == "gelu_tanh" else "none")


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
