"""From the names that checkpoints use to OpenAI's (`visual.conv1.weight`, `transformer.resblocks.0.…`).

The towers are found by a tensor that each has: whatever stands before it is a wrapper's prefix. Every tensor under a
tower is used, or named in a refusal; what lies outside the wrapper is named in a note.
"""

import re
from dataclasses import dataclass

import torch
from torch import Tensor

from scclip_export.checkpoint.families import family_of
from scclip_export.checkpoint.files import StateDict
from scclip_export.errors import CheckpointError

_OPENAI = "visual.conv1.weight"
_HUGGING_FACE = "vision_model.embeddings.patch_embedding.weight"
_TIMM = "visual.trunk.patch_embed.proj.weight"
_TEXT = "token_embedding.weight"
# Constants and counters, which no exported tower computes with.
_BUFFERS = re.compile(
    r"(^|\.)(input_resolution|context_length|vocab_size|attn_mask|logit_bias|n_averaged|position_ids|mask1|mask2)$"
)
# What torch's compiler, FSDP and activation checkpointing put into names, wherever a module is wrapped.
_WRAPPERS = re.compile(r"(?<![^.])(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
# LongCLIP keeps CLIP's first positions as they were and trains the rest (its paper, "knowledge-preserved stretching").
_KEPT_POSITIONS = 20


@dataclass(frozen=True, slots=True)
class Layout:
    """A state dict in OpenAI's layout, and what was left out of it, in words."""

    state: StateDict
    notes: tuple[str, ...] = ()


def openai_layout(tensors: StateDict, where: str) -> Layout:
    """Bring a checkpoint's tensors into OpenAI's layout; `tensors` is emptied on the way, to hold nothing twice.

    Raises:
        CheckpointError: it is no CLIP ViT (the message names what it is), or has tensors that would be ignored.
    """
    for name in [name for name in tensors if _WRAPPERS.search(name)]:
        tensors.setdefault(_WRAPPERS.sub("", name), tensors.pop(name))
    for anchor, convert in ((_HUGGING_FACE, _hugging_face), (_TIMM, _timm), (_OPENAI, _openai)):
        prefix = _prefix(tensors, anchor, where)
        if prefix is not None:
            layout = convert(tensors, prefix, where)
            break
    else:
        raise CheckpointError(f"{where} is not a CLIP ViT: {_what_it_is(tensors)}")
    if "visual.class_embedding" not in layout.state:
        raise CheckpointError(f"{where} is not a CLIP ViT: {_what_it_is(layout.state)}")
    if _TEXT not in layout.state or "text_projection" not in layout.state:
        raise CheckpointError(
            f"{where} has CLIP's image tower but not its text transformer; class names can't be embedded without it. "
            "Save the whole model's state dict"
        )
    _merge_long_positions(layout.state)
    return layout


def _prefix(tensors: StateDict, anchor: str, where: str) -> str | None:
    """What stands before the anchor's name; None if no tensor has it."""
    found = [name[: -len(anchor)] for name in tensors if name == anchor or name.endswith(f".{anchor}")]
    if len(found) > 1:
        raise CheckpointError(
            f"{where} holds {len(found)} image towers ({', '.join(repr(prefix) for prefix in found[:4])}); "
            "save the state dict of the model to export alone"
        )
    return found[0] if found else None


def _what_it_is(state: StateDict) -> str:
    if not state:
        return "it holds no tensors"
    known = family_of(state)
    if known:
        return f"it is {known}"
    names = ", ".join(list(state)[:3])
    return f"it holds {len(state)} tensors ({names}, …) but no `visual.conv1.weight` with `visual.class_embedding`"


def _openai(tensors: StateDict, prefix: str, where: str) -> Layout:
    _refuse_family(tensors, prefix, where)
    state = _take(tensors, f"{prefix}visual.", "visual.")
    return _with_text(tensors, prefix, state, where)


def _timm(tensors: StateDict, prefix: str, where: str) -> Layout:
    """A timm ViT with a class token: CLIP's blocks by other names (open_clip's TimmModel)."""
    if f"{prefix}visual.trunk.cls_token" not in tensors or f"{prefix}visual.trunk.pos_embed" not in tensors:
        raise CheckpointError(f"{where} is not a CLIP ViT: it is {family_of(tensors)}")
    _refuse_family(tensors, prefix, where, but="a CLIP whose image tower is a timm model")
    source = _take(tensors, f"{prefix}visual.", "")
    state: StateDict = {}
    for name in list(source):
        state[_timm_name(name)] = source.pop(name)
    state["visual.class_embedding"] = state["visual.class_embedding"].flatten()
    positions = state["visual.positional_embedding"].flatten(0, 1)
    bias = state.pop("visual.conv1.bias", None)
    if bias is not None:  # the same for every patch, so it is part of the positions, on any grid
        positions = torch.cat([positions[:1], positions[1:] + bias])
    state["visual.positional_embedding"] = positions
    if "visual.proj" in state:
        state["visual.proj"] = state["visual.proj"].T
    return _with_text(tensors, prefix, state, where)


_TIMM_NAMES = (
    (r"^trunk\.cls_token$", "class_embedding"),
    (r"^trunk\.pos_embed$", "positional_embedding"),
    (r"^trunk\.patch_embed\.proj\.", "conv1."),
    (r"^trunk\.norm_pre\.", "ln_pre."),
    (r"^trunk\.norm\.", "ln_post."),
    (r"^(trunk\.head|head\.proj)\.weight$", "proj"),
    (r"^(trunk\.head|head\.proj)\.bias$", "proj_bias"),
    (r"^trunk\.blocks\.(\d+)\.norm([12])\.", r"transformer.resblocks.\1.ln_\2."),
    (r"^trunk\.blocks\.(\d+)\.attn\.qkv\.", r"transformer.resblocks.\1.attn.in_proj_"),
    (r"^trunk\.blocks\.(\d+)\.attn\.proj\.", r"transformer.resblocks.\1.attn.out_proj."),
    (r"^trunk\.blocks\.(\d+)\.mlp\.fc1\.", r"transformer.resblocks.\1.mlp.c_fc."),
    (r"^trunk\.blocks\.(\d+)\.mlp\.fc2\.", r"transformer.resblocks.\1.mlp.c_proj."),
    (r"^trunk\.blocks\.(\d+)\.ls([12])\.", r"transformer.resblocks.\1.ls_\2."),
)


def _timm_name(name: str) -> str:
    for pattern, target in _TIMM_NAMES:
        renamed, count = re.subn(pattern, target, name)
        if count:
            return f"visual.{renamed}"
    return f"visual.{name}"  # unknown: named by the comparison with CLIP's tensors


def _with_text(tensors: StateDict, prefix: str, state: StateDict, where: str) -> Layout:
    """Add the text tower: beside the image tower, under `text.` (CustomTextCLIP), or in a wrapper of its own."""
    text = f"{prefix}text." if any(name.startswith(f"{prefix}text.") for name in tensors) else prefix
    if f"{text}{_TEXT}" not in tensors:
        found = _prefix(tensors, _TEXT, where)
        text = text if found is None else found
    state |= {name: t for name, t in _take(tensors, text, "").items() if not _BUFFERS.search(name)}
    if text != prefix:  # beside the towers: open_clip's logit_scale, or what nobody knows
        state |= {name: t for name, t in _take(tensors, prefix, "").items() if not _BUFFERS.search(name)}
    for name in [name for name in state if name.endswith(".logit_scale")]:
        state["logit_scale"] = state.pop(name)
    for name in [name for name in tensors if name.endswith("logit_scale")]:
        state.setdefault("logit_scale", tensors.pop(name))
    return Layout(state=state, notes=_left_out(tensors, prefix or text))


def _left_out(tensors: StateDict, prefix: str) -> tuple[str, ...]:
    names = [name for name in tensors if not _BUFFERS.search(name)]
    if not names:
        return ()
    shown = ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
    return (f"left out: {len(names)} tensors outside {prefix.rstrip('.')!r} ({shown})",)


def _take(tensors: StateDict, prefix: str, target: str) -> StateDict:
    """Move the tensors under a prefix into a new state dict, under another."""
    return {
        target + name[len(prefix) :]: tensors.pop(name) for name in list(tensors) if name.startswith(prefix)
    }


def _refuse_family(tensors: StateDict, prefix: str, where: str, but: str | None = None) -> None:
    """Refuse a relative of CLIP that shares its image tower's first tensors (CoCa, PE-Core, a BERT beside it)."""
    known = family_of(name for name in tensors if name.startswith(prefix))
    if known and not (but and known.startswith(but)):
        raise CheckpointError(f"{where} is not a plain CLIP ViT: it is {known}")


def _merge_long_positions(state: StateDict) -> None:
    """LongCLIP adds two tables of positions under masks: the first 20 rows of one, the rest of the other."""
    rest = state.pop("positional_embedding_res", None)
    if rest is not None:
        state["positional_embedding"] = torch.cat(
            [state["positional_embedding"][:_KEPT_POSITIONS], rest[_KEPT_POSITIONS:]]
        )


_HF_BLOCK = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "self_attn.out_proj": "attn.out_proj",
}
_HF_TENSORS = {
    "vision_model.embeddings.class_embedding": "visual.class_embedding",
    "vision_model.embeddings.patch_embedding.weight": "visual.conv1.weight",
    "vision_model.embeddings.position_embedding.weight": "visual.positional_embedding",
    "text_model.embeddings.token_embedding.weight": _TEXT,
    "text_model.embeddings.position_embedding.weight": "positional_embedding",
}
_HF_NORMS = {
    "vision_model.pre_layrnorm": "visual.ln_pre",
    "vision_model.post_layernorm": "visual.ln_post",
    "text_model.final_layer_norm": "ln_final",
}
# FG-CLIP embeds text of up to 77 tokens as CLIP does; these serve its long texts and its regions.
_FG_CLIP = re.compile(
    r"text_filip_projection\.|logit_scale_|text_model\.embeddings\.position_embedding_(res|ori)\.|roi|longtext_"
)


def _hugging_face(tensors: StateDict, prefix: str, where: str) -> Layout:
    """Transformers' CLIPModel, also inside another model (CLIPSeg), LongCLIP's and FG-CLIP's short path."""
    _refuse_family(tensors, prefix, where)
    source = _take(tensors, prefix, "")
    notes = list(_left_out(tensors, prefix))
    if "vision_model.embeddings.class_embedding" not in source:
        raise CheckpointError(
            f"{where} is not a CLIP ViT: its image tower has no class token (a SigLIP?), which SC-CLIP adds to every "
            "patch. Use a plain CLIP ViT, such as --backbone vitb16"
        )
    if "text_model.embeddings.token_embedding.weight" not in source or "text_projection.weight" not in source:
        return Layout(state={"visual.class_embedding": source["vision_model.embeddings.class_embedding"]})
    state: StateDict = {}
    try:
        _hugging_face_towers(source, state)
    except KeyError as error:
        raise CheckpointError(
            f"{where} looks like a Hugging Face CLIP but lacks the tensor {error}"
        ) from error
    _hugging_face_positions(source, state)
    if "logit_scale" in source:
        state["logit_scale"] = source.pop("logit_scale")
    unused = [name for name in source if not _BUFFERS.search(name)]
    if any(name.startswith("text_filip_projection.") for name in unused):
        short = [name for name in unused if _FG_CLIP.search(name)]
        unused = [name for name in unused if not _FG_CLIP.search(name)]
        notes.append(
            f"left out: FG-CLIP's {len(short)} tensors for long texts and regions; texts of up to 77 tokens"
        )
    if unused:
        shown = ", ".join(unused[:3]) + (", …" if len(unused) > 3 else "")
        raise CheckpointError(
            f"the tensors of {where} are not those of a plain CLIP ViT: it has {len(unused)} that a Hugging Face CLIP "
            f"does not know ({shown}). If they change nothing, save the state dict without them"
        )
    return Layout(state=state, notes=tuple(notes))


def _hugging_face_towers(source: StateDict, state: StateDict) -> None:
    for theirs, ours in _HF_TENSORS.items():
        state[ours] = source.pop(theirs)
    for theirs, ours in (("visual_projection", "visual.proj"), ("text_projection", "text_projection")):
        state[ours] = source.pop(f"{theirs}.weight").T
    for theirs, ours in _HF_NORMS.items():
        for suffix in ("weight", "bias"):
            state[f"{ours}.{suffix}"] = source.pop(f"{theirs}.{suffix}")
    for tower, target in (("vision_model", "visual."), ("text_model", "")):
        pattern = re.compile(rf"{tower}\.encoder\.layers\.(\d+)\.")
        for index in sorted({int(match[1]) for name in source if (match := pattern.match(name))}):
            block = f"{tower}.encoder.layers.{index}"
            _hugging_face_block(source, state, block, f"{target}transformer.resblocks.{index}")


def _hugging_face_block(source: StateDict, state: StateDict, block: str, target: str) -> None:
    for suffix in ("weight", "bias"):
        for theirs, ours in _HF_BLOCK.items():
            state[f"{target}.{ours}.{suffix}"] = source.pop(f"{block}.{theirs}.{suffix}")
        parts = [source.pop(f"{block}.self_attn.{name}_proj.{suffix}") for name in "qkv"]
        state[f"{target}.attn.in_proj_{suffix}"] = torch.cat(parts)


def _hugging_face_positions(source: StateDict, state: StateDict) -> None:
    """Take LongCLIP's second table; FG-CLIP's, beside a short table of its own, stay for its long path."""
    rest = source.get("text_model.embeddings.position_embedding_res.weight")
    if rest is not None and rest.shape == state["positional_embedding"].shape:
        state["positional_embedding_res"] = source.pop("text_model.embeddings.position_embedding_res.weight")


def expand_token_table(state: StateDict, where: str) -> None:
    """Undo a pruned token table: `token_embedding.index` (vocabulary,) names the row of each token.

    Raises:
        CheckpointError: it points outside the table.
    """
    index = state.pop("token_embedding.index", None)
    if index is None:
        return
    table: Tensor = state[_TEXT]
    if index.ndim != 1 or int(index.min()) < 0 or int(index.max()) >= len(table):
        raise CheckpointError(f"{where}: token_embedding.index points outside the table of {len(table)} rows")
    state[_TEXT] = table[index.long()]
