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
    """Return open_clip's configuration of a model.

    Raises:
        ExportError: open_clip has no such architecture.
    """
    import open_clip

    config = open_clip.get_model_config(architecture)
    if config is None:
        similar = [
            name for name in open_clip.list_models() if name.lower().startswith(architecture.lower()[:6])
        ]
        hint = f" Similar: {', '.join(similar[:8])}" if similar else ""
        raise ExportError(f"open_clip has no model {architecture!r}.{hint}")
    return dict(config)


def is_published_width(width: int) -> bool:
    """Whether open_clip has a plain ViT of this width: then its weights exist with either activation."""
    import open_clip

    configs = (open_clip.get_model_config(name) for name in open_clip.list_models())
    towers = (config["vision_cfg"] for config in configs if config)
    return any(tower.get("width") == width and isinstance(tower.get("layers"), int) for tower in towers)


def pretrained_config(architecture: str, tag: str) -> dict[str, Any]:
    """Return open_clip's description of trained weights: where they are, mean, std, perhaps `quick_gelu`.

    Raises:
        ExportError: open_clip has no such weights of this architecture.
    """
    import open_clip

    config: dict[str, Any] = open_clip.get_pretrained_cfg(architecture, tag)
    if not config:
        tags = ", ".join(open_clip.list_pretrained_tags_by_model(architecture)) or "none"
        raise ExportError(f"open_clip has no weights {tag!r} for {architecture}; it has: {tags}")
    return config


def weights_with_hash(sha256: str) -> tuple[str, str] | None:
    """Return the open_clip names (architecture, tag) of a file with this SHA-256, if its address tells it.

    OpenAI's addresses hold the whole hash, open_clip's own releases the first eight digits.
    """
    from open_clip import get_pretrained_url, list_pretrained

    for architecture, tag in list_pretrained():
        address = get_pretrained_url(architecture, tag)
        if f"/{sha256}/" in address or address.endswith(f"-{sha256[:8]}.pt"):
            return architecture, tag
    return None
