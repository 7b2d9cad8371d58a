"""The backbones by short name: an open_clip architecture and the weights it is known for."""

from dataclasses import dataclass
from typing import Any

from scclip_export.errors import ExportError
from scclip_rt.errors import did_you_mean


@dataclass(frozen=True, slots=True)
class Backbone:
    """One row of the table; `architecture` and `pretrained` are open_clip's names."""

    architecture: str
    pretrained: str


BACKBONES: dict[str, Backbone] = {
    "vitb16": Backbone("ViT-B-16-quickgelu", "openai"),
    "vitb32": Backbone("ViT-B-32-quickgelu", "openai"),
    "vitl14": Backbone("ViT-L-14-quickgelu", "openai"),
    "vitl14-336": Backbone("ViT-L-14-336-quickgelu", "openai"),
    "vitb16-laion2b": Backbone("ViT-B-16", "laion2b_s34b_b88k"),
    "vitb16-datacomp": Backbone("ViT-B-16", "datacomp_xl_s13b_b90k"),
    "vitb16-metaclip": Backbone("ViT-B-16-quickgelu", "metaclip_fullcc"),
    "vitb16-dfn": Backbone("ViT-B-16-quickgelu", "dfn2b"),
    "vitl14-laion2b": Backbone("ViT-L-14", "laion2b_s32b_b82k"),
    "vitl14-datacomp": Backbone("ViT-L-14", "datacomp_xl_s13b_b90k"),
    "vitl14-metaclip": Backbone("ViT-L-14-quickgelu", "metaclip_fullcc"),
    "vith14": Backbone("ViT-H-14", "laion2b_s32b_b79k"),
    "vitg14": Backbone("ViT-g-14", "laion2b_s34b_b88k"),
    "vitbigg14": Backbone("ViT-bigG-14", "laion2b_s39b_b160k"),
}

# What no tensor tells, by the width of the image tower, for a checkpoint that comes without a configuration.
HEADS_BY_WIDTH: dict[int, int] = {768: 12, 1024: 16, 1280: 16, 1408: 16, 1664: 16}
ACTIVATION_BY_WIDTH: dict[int, str] = {
    768: "quickgelu",
    1024: "quickgelu",
    1280: "gelu",
    1408: "gelu",
    1664: "gelu",
}


def backbone(name: str) -> Backbone:
    """Return the row of `name`.

    Raises:
        ExportError: there is no such row.
    """
    row = BACKBONES.get(name.lower())
    if row is None:
        raise ExportError(
            f"unknown backbone {name!r}{did_you_mean(name, BACKBONES)}. Known: {', '.join(BACKBONES)}. "
            "Any other open_clip ViT: --model NAME --pretrained TAG",
            field="backbone",
        )
    return row


def model_config(architecture: str) -> dict[str, Any]:
    """Return open_clip's configuration of a plain CLIP ViT.

    Raises:
        ExportError: open_clip has no such architecture, or it is not CLIP's own ViT and text transformer.
    """
    import open_clip

    config = open_clip.get_model_config(architecture)
    if config is None:
        similar = [
            name for name in open_clip.list_models() if name.lower().startswith(architecture.lower()[:6])
        ]
        hint = f" Similar: {', '.join(similar[:8])}" if similar else ""
        raise ExportError(f"open_clip has no model {architecture!r}.{hint}")
    vision, text = config["vision_cfg"], config["text_cfg"]
    if vision.get("timm_model_name"):
        raise ExportError(
            f"{architecture!r} is a timm model ({vision['timm_model_name']}); SC-CLIP calibrates CLIP's own ViT. "
            f"Use one of --backbone {', '.join(BACKBONES)}"
        )
    if not isinstance(vision["layers"], int):
        raise ExportError(f"{architecture!r} is a ResNet; SC-CLIP needs a ViT")
    if text.get("hf_model_name") or text.get("hf_tokenizer_name") or text.get("tokenizer_kwargs"):
        raise ExportError(
            f"{architecture!r} does not use CLIP's own text transformer and tokenizer; the bundle carries only these"
        )
    return config
