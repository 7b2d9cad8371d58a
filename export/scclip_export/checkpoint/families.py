"""What a checkpoint is that can't be exported: the family by its tensors' names, and what would work instead."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from scclip_export.errors import ExportError

_PLAIN = "Use a plain CLIP ViT, such as --backbone vitb16"


@dataclass(frozen=True, slots=True)
class Family:
    """A kind of model, known by a tensor whose name matches `sign`."""

    sign: str
    says: str


# In this order: the first whose sign is found.
FAMILIES: tuple[Family, ...] = (
    Family(
        r"lora_[AB]\b|\.lora_",
        "LoRA adapters; merge them into their base first (peft: model.merge_and_unload()) and save the result's "
        "state dict",
    ),
    Family(
        r"(^|\.)language_model\.|vision_tower\.vision_tower\.",
        "a vision-language chat model; SC-CLIP needs a CLIP whose text tower was trained with its image tower. "
        + _PLAIN,
    ),
    Family(
        r"(^|\.)visual\.layer1\.",
        "a CLIP ResNet; SC-CLIP needs a ViT's patch tokens. Use --backbone vitb16 or another ViT",
    ),
    Family(
        r"vision_model\.head\.probe$|visual\.trunk\.attn_pool\.latent$",
        "a SigLIP or PE-Core: its image tower pools its patches by attention, so no text was trained against a "
        "patch or a "
        "class token, and SigLIP has no class token that SC-CLIP could add to every patch. " + _PLAIN,
    ),
    Family(
        r"(^|\.)visual\.attn_pool\.probe$",
        "a PE-Core: rotary positions and pooling by attention, which SC-CLIP is not defined for. " + _PLAIN,
    ),
    Family(
        r"(^|\.)text_decoder\.|(^|\.)visual\.attn_pool\.",
        "a CoCa: its image tower pools by attention, and its text tower is not CLIP's. " + _PLAIN,
    ),
    Family(
        r"visual_encoder\.|(^|\.)qformer\.|(^|\.)Qformer\.|vision_model\.encoder\.layers\.\d+\.self_attn\.qkv\.",
        "a BLIP: its text tower is a BERT with its own tokenizer. " + _PLAIN,
    ),
    Family(
        r"(^|\.)text_model\.roberta\.",
        "an AltCLIP: its text tower is an XLM-RoBERTa with its own tokenizer. " + _PLAIN,
    ),
    Family(
        r"(^|\.)text_model\.encoder\.layer\.\d|(^|\.)bert\.(embeddings|encoder)\.",
        "a ChineseCLIP: its text tower is a BERT with its own tokenizer. " + _PLAIN,
    ),
    Family(
        r"visual\.(trunk\.)?blocks\.\d+\.(attn\.(q_proj|q_bias|inner_attn_ln|rope)|mlp\.(w1|fc1_g|w12))|visual\.rope"
        r"|visual\.blocks\.\d|visual\.trunk\.rope",
        "an EVA: its blocks are not CLIP's (rotary positions, gated MLPs). " + _PLAIN,
    ),
    Family(
        r"(^|\.)text\.transformer\.(embeddings|encoder|block|shared|layers)\.|(^|\.)text\.proj\.\d",
        "a CLIP with a Hugging Face text tower (RoBERTa, mT5, NLLB, …); the bundle carries CLIP's own text "
        "transformer and "
        "tokenizer only. " + _PLAIN,
    ),
    Family(
        r"(^|\.)visual\.trunk\.(stem|stages|patch_embed\.backbone)|(^|\.)image_encoder\.model\.",
        "a CLIP whose image tower is a timm model with convolutions (ConvNeXt, ViTamin, MobileCLIP, …); SC-CLIP "
        "calibrates a ViT. " + _PLAIN,
    ),
    Family(
        r"(^|\.)visual\.trunk\.",
        "a CLIP whose image tower is a timm model that is not CLIP's ViT in other names: it lacks a class "
        "token, learned "
        "positions, or has other blocks. " + _PLAIN,
    ),
    Family(
        r"(^|\.)embeddings\.mask_token$|^blocks\.\d+\.attn\.qkv\.|^encoder\.layer\.\d+\.attention\.attention\.",
        "an image model alone (DINO, a timm ViT, …): without a text tower trained with it, class names mean "
        "nothing to it. " + _PLAIN,
    ),
)


def family_of(names: Iterable[str]) -> str | None:
    """Return what a checkpoint with tensors of these names is, in words; None if that is not known."""
    listed = list(names)
    for family in FAMILIES:
        sign = re.compile(family.sign)
        if any(sign.search(name) for name in listed):
            return family.says
    return None


# timm's names of image towers, and why SC-CLIP does not take them. `vit_…_clip_…` are CLIP's own.
_TIMM: tuple[tuple[str, str], ...] = (
    (
        r"siglip",
        "SigLIP pools its patches by attention and has no class token, which SC-CLIP adds to every patch",
    ),
    (r"pe_core", "PE-Core has rotary positions and pools by attention, which SC-CLIP is not defined for"),
    (r"^eva", "EVA's blocks are not CLIP's (rotary positions, gated MLPs)"),
    (
        r"_mci|fastvit|convnext|vitamin|swin|resnet",
        "it has convolutions or stages in place of a ViT's equal blocks",
    ),
    (r"_gap_", "it has no class token, which SC-CLIP adds to every patch"),
    (r"relpos", "it has relative positions in every block, which the exported blocks do not compute"),
)


def refuse_timm(name: str, source: str) -> None:
    """Refuse an image tower of timm that is not CLIP's ViT in other names.

    Raises:
        ExportError: it is another kind of model; the message says which.
    """
    if re.match(r"vit_\w*patch\d+_clip_", name):
        return
    why = next(
        (reason for sign, reason in _TIMM if re.search(sign, name)),
        "only timm's vit_…_clip_… are CLIP's ViT in other names",
    )
    raise ExportError(f"{source}: its image tower is timm's {name}: {why}. {_PLAIN}")
