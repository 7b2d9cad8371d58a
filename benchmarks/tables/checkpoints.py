"""Every model configuration of open_clip, and its state: `python -m benchmarks.tables.checkpoints`.

Each is made small (two blocks, one of text, a small image) and filled with random weights; all that changes the
arithmetic stays. Its state dict goes through `scclip-export`'s reader and the traced graphs, and the result is compared
with open_clip's own model: dense patch tokens (`--calibration none`) and text embeddings. Configurations that are equal
once made small run once. What is refused is refused by name, before any weights.

Needs no download. Writes the table into docs/checkpoints.md.
"""

import argparse
import copy
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from safetensors.torch import save_file
from torch import Tensor

from benchmarks.tables.summary import fill, markdown
from scclip_export.checkpoint.backbones import BACKBONES
from scclip_export.checkpoint.config_files import model_claims
from scclip_export.checkpoint.load_model import LoadedModel, Source, load_model
from scclip_export.errors import ExportError
from scclip_export.methods.last_block import PLAIN
from scclip_export.model.encoder import CalibratedEncoder
from scclip_export.model.text_encoder import TextEncoder
from scclip_export.onnx.runners import onnx_runner
from scclip_export.onnx.trace import onnx_from_encoder, onnx_from_text_encoder
from scclip_rt.backends.onnxruntime.session import cpu_session

LIMIT = 1e-5
DOCUMENT = Path(__file__).parents[2] / "docs" / "checkpoints.md"
GRID = 6
# timm builds no tower of other sizes by open_clip's configuration: its smallest CLIP ViT stands in for the others.
SMALL_TIMM = "vit_xsmall_patch16_clip_224"

Config = dict[str, Any]


def small(config: Mapping[str, Any]) -> Config:
    """The configuration with few blocks, two heads and a small image; what changes the arithmetic is kept."""
    made = copy.deepcopy(dict(config))
    vision, text = made["vision_cfg"], made["text_cfg"]
    made["embed_dim"] = 64
    if vision.get("timm_model_name"):
        vision |= {"timm_model_name": SMALL_TIMM, "timm_drop_path": 0.0, "image_size": 224}
    else:
        head = vision.get("head_width", 64)
        vision |= {"layers": 2, "width": 2 * head, "image_size": GRID * vision["patch_size"]}
    text |= {"layers": 1, "width": 128, "heads": 2}
    return made


def refusal(name: str) -> str | None:
    """Why a configuration is refused, without its name; None if it is not."""
    source = f"open_clip's {name}"
    try:
        model_claims(open_clip.get_model_config(name), source)
    except ExportError as error:
        return str(error).removeprefix(source).lstrip(" :")
    return None


def random_model(config: Mapping[str, Any]) -> torch.nn.Module:
    """open_clip's own model of a configuration, with random weights."""
    torch.manual_seed(0)
    kind = open_clip.model.CustomTextCLIP if config.get("custom_text") else open_clip.model.CLIP
    arguments = {key: value for key, value in config.items() if key != "custom_text"}
    model: torch.nn.Module = kind(**arguments)
    with torch.no_grad():
        for (
            parameter
        ) in model.parameters():  # open_clip starts biases at 0 and gains at 1: nothing would test them
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return model.eval()


def differences(config: Mapping[str, Any], folder: Path) -> tuple[float, float]:
    """Export a random model of a configuration; return how far its graphs are from open_clip's own model.

    Returns:
        Largest differences of unit patch features and of unit text embeddings.
    """
    model = random_model(config)
    save_file(
        {k: v.contiguous() for k, v in model.state_dict().items()}, folder / "open_clip_model.safetensors"
    )
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config}))
    loaded = load_model(Source(checkpoint=folder), lambda _: None)
    return image_difference(model, loaded, folder), text_difference(model, loaded, folder)


def image_difference(model: Any, loaded: LoadedModel, folder: Path) -> float:
    """The largest difference of unit patch features between the exported graph and open_clip's model."""
    side = loaded.architecture.image_size
    grid = side // loaded.architecture.patch_size
    encoder = CalibratedEncoder(
        loaded.clip.visual, PLAIN, grid=(grid, grid), mean=loaded.mean, std=loaded.std
    ).eval()
    onnx_from_encoder(encoder, folder / "encoder.onnx", opset=20, example_size=(side, side))
    windows = np.random.default_rng(0).integers(0, 256, (2, side, side, 3), dtype=np.uint8)
    text = np.zeros((1, loaded.architecture.embed_dim), np.float32)
    got = onnx_runner(folder / "encoder.onnx")(windows, text)[0]
    pixels = torch.from_numpy(windows).float()
    pixels = (pixels - torch.tensor(loaded.mean)) / torch.tensor(loaded.std)
    with torch.inference_mode():
        expected = torch.nn.functional.normalize(_patches(model.visual, pixels.permute(0, 3, 1, 2)), dim=-1)
    return float(np.abs(got - expected.numpy()).max())


def _patches(visual: Any, pixels: Tensor) -> Tensor:
    """Projected patch tokens of open_clip's image tower, by its own modules."""
    if hasattr(visual, "trunk"):
        projected: Tensor = visual.head(visual.trunk.head(visual.trunk.forward_features(pixels)[:, 1:]))
        return projected
    tokens: Tensor = visual.ln_post(visual.transformer(visual._embeds(pixels)))
    return tokens[:, 1:] @ visual.proj


def text_difference(model: Any, loaded: LoadedModel, folder: Path) -> float:
    """The largest difference of unit text embeddings, on tokens cut to the longest row as the runtimes cut them."""
    encoder = TextEncoder(loaded.clip).eval()
    onnx_from_text_encoder(encoder, folder / "text.onnx", opset=20)
    tokens = open_clip.tokenize(["a cat", "a long and winding road", "x"], loaded.architecture.context_length)
    longest = int((tokens != 0).sum(dim=1).max())
    got = cpu_session(str(folder / "text.onnx")).run(None, {"tokens": tokens[:, :longest].numpy()})[0]
    with torch.inference_mode():
        expected = model.encode_text(tokens, normalize=True)
    return float(np.abs(got - expected.numpy()).max())


def table() -> str:
    """The table, a row a configuration: exported or refused, and why."""
    rows: list[tuple[str, ...]] = []
    measured: dict[str, tuple[float, float]] = {}
    short = {row.architecture: name for name, row in BACKBONES.items()}
    for name in sorted(open_clip.list_models(), key=str.lower):
        why = refusal(name)
        if why is not None:
            rows.append((f"`{name}`", "refused", why))
            continue
        config = small(open_clip.get_model_config(name))
        key = json.dumps(config, sort_keys=True)
        if key not in measured:
            with tempfile.TemporaryDirectory() as folder:
                measured[key] = differences(config, Path(folder))
            print(name, *(f"{value:.1e}" for value in measured[key]), flush=True)
        image, text = measured[key]
        state = "exact" if max(image, text) <= LIMIT else "DIFFERS"
        backbone = f", `--backbone {short[name]}`" if name in short else ""
        rows.append((f"`{name}`", state, f"patches {image:.0e}, text {text:.0e}{backbone}"))
    rows.sort(key=lambda row: row[1])
    return markdown(("open_clip's model", "state", "why, or largest difference"), rows)


def main() -> None:
    """Measure, and write the table into docs/checkpoints.md."""
    argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None).parse_args()
    DOCUMENT.write_text(fill(DOCUMENT.read_text(), {"open-clip": table()}))


if __name__ == "__main__":
    main()
