"""Measure the demo model: mIoU on held-out scenes with the calibration, as MaskCLIP, and as plain CLIP.

    python benchmarks/demo/evaluate.py CHECKPOINT [--split test] [--scenes 300] [--json FILE]

Self-contained (open_clip modules and torch only), so that it can measure a checkpoint before any export.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import open_clip
import torch
from checkpoint import load_checkpoint
from model import PATCH, block_forward, encode_texts, patchify
from numpy.typing import NDArray
from open_clip.model import CLIP
from torch import Tensor
from torch.nn import functional

from scclip_rt.demo.scenes import CLASSES, TEST_SCENES, Scene, test_scene, tuning_scene

WINDOW, STRIDE = 224, 112
METHODS = ("calibrated", "maskclip", "none")


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """Constants of the calibration; layers count block outputs from 0, the fusion range is half open."""

    pre_layer: int = 6
    post_layer: int = 2
    fusion_layers: tuple[int, int] = (5, 7)
    cls_residual: float = 0.07
    similarity_floor: float = 0.4
    outlier_neighbors: int = 30
    outlier_fraction: float = 0.05


def block_features(model: CLIP, windows: Tensor) -> list[Tensor]:
    """Outputs of every block, float32 (B, 1 + N, D) each, for uint8 windows (B, 224, 224, 3)."""
    visual = model.visual
    x = functional.linear(patchify(windows), visual.conv1.weight.flatten(1))
    x = torch.cat([visual.class_embedding.expand(len(x), 1, -1), x], 1) + visual.positional_embedding
    x = visual.ln_pre(x)
    features = []
    for block in visual.transformer.resblocks:
        x = block_forward(block, x, causal=False)
        features.append(x)
    return features


def project(model: CLIP, tokens: Tensor) -> Tensor:
    """ln_post, projection and unit length: (B, N, D) → (B, N, E)."""
    return functional.normalize(model.visual.ln_post(tokens) @ model.visual.proj, dim=-1)


def maskclip_features(model: CLIP, features: list[Tensor]) -> Tensor:
    """The last block's value path alone, (B, N, E)."""
    block = model.visual.transformer.resblocks[-1]
    width = features[-2].shape[-1]
    value = functional.linear(
        block.ln_1(features[-2][:, 1:]), block.attn.in_proj_weight[-width:], block.attn.in_proj_bias[-width:]
    )
    return project(model, block.attn.out_proj(value))


def outliers(patches: Tensor, config: Calibration) -> Tensor:
    """Bool (B, N): patches with the largest local outlier scores."""
    count = patches.shape[1]
    number = count - 1 - int((1 - config.outlier_fraction) * (count - 1))
    centred = patches - patches.mean(1, keepdim=True)
    squares = centred.square().sum(-1)
    distance = squares[:, :, None] + squares[:, None] - 2 * centred @ centred.mT
    distance.diagonal(dim1=1, dim2=2).fill_(-1)
    nearest = distance.topk(config.outlier_neighbors + 1, dim=-1, largest=False)
    reach = nearest.values[..., -1]
    neighbours = nearest.indices[..., 1:].flatten(1)
    inverse = (1 / reach).gather(1, neighbours).view(*reach.shape, -1)
    score = reach * inverse.mean(-1)
    return torch.zeros_like(score, dtype=torch.bool).scatter_(
        1, score.topk(number, dim=1).indices, value=True
    )


def resolve(patches: Tensor, marked: Tensor) -> Tensor:
    """Replace marked patches by the mean of their unmarked neighbours, where there are any."""
    batch, count, width = patches.shape
    side = int(count**0.5)
    keep = (~marked).to(patches.dtype)[..., None]
    planes = torch.cat([patches * keep, keep], -1).mT.reshape(batch, width + 1, side, side)
    summed = functional.avg_pool2d(planes, 3, 1, 1, divisor_override=1).flatten(2).mT
    mean = summed[..., :-1] / summed[..., -1:].clamp_min(1)
    return torch.where(marked[..., None] & (summed[..., -1:] > 0), mean, patches)


def affinity(similarity: Tensor, floor: float) -> Tensor:
    """Similarities of at least `floor`, rows summing to one."""
    kept = torch.where(similarity >= floor, similarity, 0.0)
    return kept / (kept.sum(-1, keepdim=True) + 1e-6)


def calibrated_features(model: CLIP, features: list[Tensor], config: Calibration) -> Tensor:
    """SC-CLIP's patch features, (B, N, E)."""
    block = model.visual.transformer.resblocks[-1]
    last = features[-2]
    marked = outliers(last[:, 1:], config)
    guide = functional.normalize(resolve(features[config.pre_layer][:, 1:], marked), dim=-1)
    similarity = guide @ guide.mT
    adjusted = affinity(similarity, config.similarity_floor) @ resolve(last[:, 1:], marked)
    weight = 3 * (similarity - similarity.mean((1, 2), keepdim=True))
    prior = weight.masked_fill(weight < 0, float("-inf")).softmax(-1)

    def attend(tokens: Tensor) -> Tensor:
        batch, count, width = tokens.shape
        heads = block.attn.num_heads
        qkv = functional.linear(block.ln_1(tokens), block.attn.in_proj_weight, block.attn.in_proj_bias)
        _, key, value = qkv.chunk(3, dim=-1)
        k, v = (t.view(batch, count, heads, -1).transpose(1, 2) for t in (key, value))
        own = functional.scaled_dot_product_attention(k, k, v).transpose(1, 2).reshape(batch, count, width)
        return block.attn.out_proj(0.5 * (prior @ value + own))

    fused = torch.stack(features[slice(*config.fusion_layers)]).sum(0)
    outer = functional.normalize(features[config.post_layer][:, 1:], dim=-1)
    residual = config.cls_residual * (last[:, :1] + fused[:, :1])
    mixed = attend(adjusted) + attend(fused[:, 1:]) + residual
    return project(model, affinity(outer @ outer.mT, config.similarity_floor) @ mixed)


@torch.no_grad()
def class_embeddings(model: CLIP, index: Tensor, names: Iterable[str] = CLASSES) -> Tensor:
    """(Q, E): every name in the 80 ImageNet templates, normalised, averaged, normalised."""
    tokenizer = open_clip.tokenizer.SimpleTokenizer()
    rows = []
    for name in names:
        prompts = [template(name) for template in open_clip.OPENAI_IMAGENET_TEMPLATES]
        tokens = index.long()[tokenizer(prompts)]
        longest = int(tokens.argmax(1).max()) + 1
        rows.append(functional.normalize(encode_texts(model, tokens[:, :longest]).mean(0), dim=0))
    return torch.stack(rows)


def window_starts(length: int) -> list[int]:
    """Starts of the windows along an axis of at least one window."""
    count = max(length - WINDOW + STRIDE - 1, 0) // STRIDE + 1
    return [min(STRIDE * i + WINDOW, length) - WINDOW for i in range(count)]


def windows_of(image: NDArray[np.uint8]) -> tuple[Tensor, list[tuple[int, int]]]:
    """uint8 (B, 224, 224, 3) and the top left corners, row by row."""
    corners = [(y, x) for y in window_starts(image.shape[0]) for x in window_starts(image.shape[1])]
    return torch.from_numpy(np.stack([image[y : y + WINDOW, x : x + WINDOW] for y, x in corners])), corners


def decode(logits: Tensor, corners: list[tuple[int, int]], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Window logits (B, N, Q) → labels (H, W): bilinear, averaged where windows overlap, arg-max."""
    side = WINDOW // PATCH
    maps = logits.mT.reshape(len(logits), -1, side, side)
    maps = functional.interpolate(maps, (WINDOW, WINDOW), mode="bilinear", align_corners=False)
    total = torch.zeros(maps.shape[1], *size)
    count = torch.zeros(size)
    for one, (y, x) in zip(maps, corners, strict=True):
        total[:, y : y + WINDOW, x : x + WINDOW] += one
        count[y : y + WINDOW, x : x + WINDOW] += 1
    return (total / count).argmax(0).to(torch.uint8).numpy()


def method_features(model: CLIP, features: list[Tensor], method: str, config: Calibration) -> Tensor:
    """Patch embeddings (B, N, E) by "calibrated", "maskclip" or "none"."""
    if method == "calibrated":
        return calibrated_features(model, features, config)
    if method == "maskclip":
        return maskclip_features(model, features)
    if method == "none":
        return project(model, features[-1][:, 1:])
    raise ValueError(f"unknown method {method!r}; known: {', '.join(METHODS)}")


class Score:
    """Intersections and unions over many scenes."""

    def __init__(self, classes: int = len(CLASSES)) -> None:
        self.confusion = np.zeros((classes, classes), np.int64)

    def add(self, mask: NDArray[np.uint8], labels: NDArray[np.uint8]) -> None:
        """Count one scene."""
        classes = len(self.confusion)
        pairs = mask.ravel().astype(np.int64) * classes + labels.ravel()
        self.confusion += np.bincount(pairs, minlength=classes**2).reshape(classes, classes)

    @property
    def per_class(self) -> NDArray[np.float64]:
        """IoU of every class; NaN for one that neither occurs nor is predicted."""
        hit = np.diag(self.confusion)
        union = self.confusion.sum(0) + self.confusion.sum(1) - hit
        return np.where(union > 0, hit / np.maximum(union, 1), np.nan)

    @property
    def miou(self) -> float:
        """Mean IoU in percent."""
        return float(100 * np.nanmean(self.per_class))


def scenes(split: str, count: int, first: int = 0) -> Iterator[Scene]:
    """The first `count` held-out or tuning scenes."""
    make = {"test": test_scene, "tune": tuning_scene}[split]
    return (make(first + i) for i in range(count))


def centre_crop(scene: Scene) -> Scene:
    """The middle window of a scene: the measure without sliding windows."""
    y, x = ((n - WINDOW) // 2 for n in scene.mask.shape)
    part = np.s_[y : y + WINDOW, x : x + WINDOW]
    return Scene(image=scene.image[part], mask=scene.mask[part], classes=scene.classes)


@torch.no_grad()
def evaluate(
    model: CLIP, text: Tensor, source: Iterable[Scene], config: Calibration, methods: Iterable[str] = METHODS
) -> dict[str, Score]:
    """Scores of every method over the scenes, each at its own size."""
    scores = {method: Score() for method in methods}
    for scene in source:
        windows, corners = windows_of(scene.image)
        features = block_features(model, windows)
        for method, score in scores.items():
            logits = method_features(model, features, method, config) @ text.T
            score.add(scene.mask, decode(logits, corners, scene.mask.shape))
    return scores


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--split", choices=("test", "tune"), default="test")
    parser.add_argument("--scenes", type=int, default=TEST_SCENES)
    parser.add_argument("--calibration", type=json.loads, help="JSON; default: the checkpoint's own")
    parser.add_argument("--plain", action="store_true", help="the middle 224 pixels, one window")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model, index, shipped = load_checkpoint(options.checkpoint)
    config = Calibration(**(options.calibration or shipped))
    clock = time.monotonic()
    source = scenes(options.split, options.scenes)
    source = map(centre_crop, source) if options.plain else source
    scores = evaluate(model, class_embeddings(model, index), source, config)
    per_class = 100 * scores["calibrated"].per_class
    report = {
        "checkpoint": options.checkpoint.name,
        "split": options.split,
        "scenes": options.scenes,
        "plain": options.plain,
        "calibration": asdict(config),
        "miou": {method: round(score.miou, 2) for method, score in scores.items()},
        "per_class": dict(zip(CLASSES, per_class.round(1).tolist(), strict=True)),
        "seconds": round(time.monotonic() - clock, 1),
    }
    text = json.dumps(report, indent=2)
    print(text)
    if options.json:
        options.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
