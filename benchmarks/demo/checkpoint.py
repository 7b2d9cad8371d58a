"""Reading and writing the demo checkpoint: OpenAI's state-dict layout, float16, with a pruned token table."""

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from open_clip.model import CLIP
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from benchmarks.demo.model import ModelConfig, build_model

ARCHITECTURE = (
    "demo CLIP, ViT/16 of {0.blocks} blocks {0.width} wide, text {0.text_blocks} blocks {0.text_width} wide"
)


def load_checkpoint(path: Path) -> tuple[CLIP, Tensor, dict[str, Any]]:
    """Open a training checkpoint (.pt) or a shipped one (.safetensors).

    Returns:
        The model in float32, the int32 (49408,) map from token id to embedding row, and the calibration
        (empty for a training checkpoint).
    """
    calibration: dict[str, Any] = {}
    if path.suffix == ".safetensors":
        with safe_open(path, "pt") as file:
            metadata = file.metadata()
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (safe_open is no mapping)
        index = state.pop("token_embedding.index")
        calibration = json.loads(metadata["calibration"])
        calibration["fusion_layers"] = tuple(calibration["fusion_layers"])
        config = _config_of(state, int(metadata["vision_heads"]), int(metadata["text_heads"]))
    else:
        saved = torch.load(path, weights_only=True)
        state, index = saved["model"], saved["token_index"]
        config = ModelConfig(**json.loads(saved["recipe"])["model"])
    model = build_model(config, len(state["token_embedding.weight"]))
    model.load_state_dict({key: value.float() for key, value in state.items()}, strict=False)
    return model.eval(), index, calibration


def _config_of(state: dict[str, Tensor], heads: int, text_heads: int) -> ModelConfig:
    """Sizes read off the tensors; heads are in no tensor."""
    return ModelConfig(
        width=state["visual.conv1.weight"].shape[0],
        blocks=sum(key.endswith("ln_1.weight") for key in state if key.startswith("visual.")),
        heads=heads,
        embedding=state["text_projection"].shape[1],
        text_width=state["text_projection"].shape[0],
        text_blocks=sum(key.endswith("ln_1.weight") for key in state if key.startswith("transformer.")),
        text_heads=text_heads,
        context=state["positional_embedding"].shape[0],
    )


def ship(source: Path, target: Path, calibration: dict[str, Any]) -> None:
    """Turn a training checkpoint into the file that is committed."""
    saved = torch.load(source, weights_only=True)
    config = ModelConfig(**json.loads(saved["recipe"])["model"])
    # The attention mask is a constant that open_clip rebuilds; OpenAI's files do not hold it.
    state = {k: v.half().contiguous() for k, v in saved["model"].items() if k != "attn_mask"}
    state["logit_scale"] = saved["model"]["logit_scale"].float()
    state["token_embedding.index"] = saved["token_index"].int()
    metadata = {
        "vision_heads": str(config.heads),
        "text_heads": str(config.text_heads),
        "activation": "quickgelu",
        "architecture": ARCHITECTURE.format(config),
        "calibration": json.dumps(calibration),
    }
    partial = target.with_suffix(".partial")
    save_file(state, partial, metadata=metadata)
    partial.chmod(0o644)  # safetensors creates it for its owner alone
    partial.replace(target)


def main() -> None:
    parser = argparse.ArgumentParser(description="Write the shipped checkpoint from a training checkpoint.")
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    parser.add_argument("--calibration", type=json.loads, required=True)
    options = parser.parse_args()
    ship(options.source, options.target, options.calibration)


if __name__ == "__main__":
    main()
