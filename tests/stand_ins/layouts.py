"""The layouts that CLIP checkpoints come in, made from a state dict in OpenAI's."""

from pathlib import Path

import torch
from torch import Tensor, nn

State = dict[str, Tensor]


def hugging_face(state: State) -> State:
    """The micro checkpoint in transformers' CLIPModel layout."""
    out: State = {
        "vision_model.embeddings.class_embedding": state["visual.class_embedding"],
        "vision_model.embeddings.patch_embedding.weight": state["visual.conv1.weight"],
        "vision_model.embeddings.position_embedding.weight": state["visual.positional_embedding"],
        "vision_model.embeddings.position_ids": torch.arange(197)[None],
        "visual_projection.weight": state["visual.proj"].T.contiguous(),
        "text_model.embeddings.token_embedding.weight": state["token_embedding.weight"],
        "text_model.embeddings.position_embedding.weight": state["positional_embedding"],
        "text_projection.weight": state["text_projection"].T.contiguous(),
        "logit_scale": state["logit_scale"],
    }
    norms = {
        "visual.ln_pre": "vision_model.pre_layrnorm",
        "visual.ln_post": "vision_model.post_layernorm",
        "ln_final": "text_model.final_layer_norm",
    }
    names = {
        "ln_1": "layer_norm1",
        "ln_2": "layer_norm2",
        "mlp.c_fc": "mlp.fc1",
        "mlp.c_proj": "mlp.fc2",
        "attn.out_proj": "self_attn.out_proj",
    }
    for suffix in ("weight", "bias"):
        for ours, theirs in norms.items():
            out[f"{theirs}.{suffix}"] = state[f"{ours}.{suffix}"]
    for prefix, tower in (("visual.transformer", "vision_model"), ("transformer", "text_model")):
        layers = sum(
            name.startswith(f"{prefix}.resblocks.") and name.endswith(".ln_1.weight") for name in state
        )
        for index in range(layers):
            block, target = f"{prefix}.resblocks.{index}", f"{tower}.encoder.layers.{index}"
            for suffix in ("weight", "bias"):
                for ours, theirs in names.items():
                    out[f"{target}.{theirs}.{suffix}"] = state[f"{block}.{ours}.{suffix}"]
                for part, tensor in zip("qkv", state[f"{block}.attn.in_proj_{suffix}"].chunk(3), strict=True):
                    out[f"{target}.self_attn.{part}_proj.{suffix}"] = tensor.clone()
    return out


class _Holder(nn.Module):
    """A module whose state dict has the given dotted names, for a TorchScript archive."""

    def __init__(self, state: State) -> None:
        super().__init__()
        for name, tensor in state.items():
            *path, leaf = name.split(".")
            module: nn.Module = self
            for part in path:
                if part not in dict(module.named_children()):
                    module.add_module(part, nn.Module())
                module = getattr(module, part)
            module.register_parameter(leaf, nn.Parameter(tensor, requires_grad=False))

    def forward(self, x: Tensor) -> Tensor:
        return x


def save_torchscript(state: State, path: Path) -> None:
    buffers = {
        "input_resolution": torch.tensor(224),
        "context_length": torch.tensor(77),
        "vocab_size": torch.tensor(49408),
    }
    holder = _Holder(state)
    for name, value in buffers.items():
        holder.register_buffer(name, value)
    torch.jit.save(torch.jit.trace(holder, torch.zeros(1)), str(path))


def custom_text(state: State) -> State:
    return {
        name if name.startswith("visual.") or name == "logit_scale" else f"text.{name}": t
        for name, t in state.items()
    }
