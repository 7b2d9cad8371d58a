"""Weights and images that a few lines of numpy make again: tests run without downloads."""

import numpy as np
from numpy.typing import NDArray

# width, layers, patch, resolution, embed_dim, text width, text layers, vocabulary
ARCHITECTURES = {
    "tiny": (128, 12, 16, 224, 64, 64, 2, 49408),
    "tiny14": (128, 12, 14, 224, 64, 64, 2, 49408),
    "tiny32": (128, 12, 32, 224, 64, 64, 2, 49408),
    "micro": (
        64,
        4,
        32,
        224,
        32,
        32,
        1,
        64,
    ),  # 49 patches: half precision, and Triton interpreted, are slow on CPUs
    "vitb16": (768, 12, 16, 224, 512, 512, 12, 49408),
    "vitl14": (1024, 24, 14, 224, 768, 768, 12, 49408),
    "huge": (2048, 46, 14, 224, 1024, 1024, 24, 49408),  # 10 GB in float32
}


class _Weights:
    """Draws from one generator in a fixed order; PCG64 is the same on every platform."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.Generator(np.random.PCG64(seed))
        self.state: dict[str, NDArray[np.float32]] = {}

    def normal(self, *shape: int, std: float) -> NDArray[np.float32]:
        drawn = self.rng.standard_normal(shape, dtype=np.float32) * np.float32(std)
        return drawn.astype(np.float32)

    def norm(self, name: str, width: int, bias_std: float) -> None:
        self.state[f"{name}.weight"] = 1 + self.normal(width, std=0.1)
        self.state[f"{name}.bias"] = self.normal(width, std=bias_std)

    def block(self, name: str, width: int) -> None:
        state, std = self.state, width**-0.5
        state[f"{name}.attn.in_proj_weight"] = self.normal(3 * width, width, std=std * 1.3)
        state[f"{name}.attn.in_proj_bias"] = self.normal(3 * width, std=0.02)
        state[f"{name}.attn.out_proj.weight"] = self.normal(width, width, std=std * 0.3)
        state[f"{name}.attn.out_proj.bias"] = self.normal(width, std=0.02)
        self.norm(f"{name}.ln_1", width, 0.02)
        state[f"{name}.mlp.c_fc.weight"] = self.normal(4 * width, width, std=std)
        state[f"{name}.mlp.c_fc.bias"] = self.normal(4 * width, std=0.02)
        projection = self.normal(width, 4 * width, std=(4 * width) ** -0.5)
        state[f"{name}.mlp.c_proj.weight"] = projection - projection.mean(axis=1, keepdims=True)
        state[f"{name}.mlp.c_proj.bias"] = self.normal(width, std=0.02)
        self.norm(f"{name}.ln_2", width, 0.02)


def clip_state_dict(architecture: str, seed: int = 0) -> dict[str, NDArray[np.float32]]:
    """Return random float32 weights in the layout of OpenAI's CLIP ViT checkpoints.

    They are scaled so that features behave like a trained CLIP's: tokens differ from one another, similarities fall on
    both sides of 0.4, a few tokens are outliers. They segment nothing; they pin down arithmetic.
    """
    width, layers, patch, resolution, embed, text_width, text_layers, vocabulary = ARCHITECTURES[architecture]
    make, grid = _Weights(seed), resolution // patch
    state = make.state
    state["visual.class_embedding"] = make.normal(width, std=1.0)
    state["visual.positional_embedding"] = make.normal(grid * grid + 1, width, std=0.2)
    state["visual.proj"] = make.normal(width, embed, std=width**-0.5)
    kernel = make.normal(width, 3, patch, patch, std=(3 * patch * patch) ** -0.5 * 4)
    state["visual.conv1.weight"] = kernel - 0.95 * kernel.mean(axis=(2, 3), keepdims=True)
    make.norm("visual.ln_pre", width, 0.05)
    make.norm("visual.ln_post", width, 0.05)
    for index in range(layers):
        make.block(f"visual.transformer.resblocks.{index}", width)
    # The last block carries the patch content; keep it above the broadcast class token.
    last = f"visual.transformer.resblocks.{layers - 1}.attn.out_proj.weight"
    state[last] = state[last] * np.float32(60.0)
    state["positional_embedding"] = make.normal(77, text_width, std=0.3)
    state["text_projection"] = make.normal(text_width, embed, std=text_width**-0.5)
    state["logit_scale"] = np.array(np.log(100.0), dtype=np.float32)
    state["token_embedding.weight"] = make.normal(vocabulary, text_width, std=1.0)
    make.norm("ln_final", text_width, 0.05)
    for index in range(text_layers):
        make.block(f"transformer.resblocks.{index}", text_width)
    return state


def scene(height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    """Return a test image of gradients, textures and shapes: uint8 (height, width, 3), RGB."""
    rng = np.random.Generator(np.random.PCG64(seed))
    yy, xx = np.mgrid[0:height, 0:width].astype(np.float64)
    image = np.stack([40 + 120 * yy / height, 60 + 100 * xx / width, 150 - 80 * yy / height], -1)
    for _ in range(14):
        cy, cx = rng.uniform(0, height), rng.uniform(0, width)
        ry, rx = rng.uniform(0.06, 0.25, 2) * (height, width)
        color = rng.uniform(0, 255, 3)
        if rng.random() < 0.5:
            inside = ((yy - cy) / ry) ** 2 + ((xx - cx) / rx) ** 2 < 1
        else:
            inside = (abs(yy - cy) < ry) & (abs(xx - cx) < rx)
        frequency, angle = rng.uniform(0.02, 0.5), rng.uniform(0, np.pi)
        wave = 45 * np.sin(frequency * (np.cos(angle) * xx + np.sin(angle) * yy))
        image[inside] = (color + wave[..., None])[inside]
    image += rng.normal(0, 6, image.shape)
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)
