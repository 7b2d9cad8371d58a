"""One figure per stage of the method, for docs/how-it-works.md: what the demo model computes on a rendered scene.

    python -m benchmarks.demo.stages [--scene 8] [--output docs/images/stages]

The numbers come from `oracles.scclip`, which states the method one window at a time.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from matplotlib import pyplot as plt
from matplotlib.patches import Rectangle
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from benchmarks.demo.checkpoint import load_checkpoint
from oracles.scclip import MEAN, STD, NaiveScclip
from scclip_rt import Segmenter
from scclip_rt.demo.scenes import test_scene

CHECKPOINT = Path(__file__).with_name("demo_clip.safetensors")
WINDOW, PATCH = 224, 16
SIDE = WINDOW // PATCH
INK = "#d62728"
LEVELS = (2, 4, 6)  # blocks, counted from 0 as METHOD does


@dataclass(frozen=True, kw_only=True)
class Stages:
    """What the method computes for one window, stage by stage; N = 14 · 14 patches.

    Attributes:
        window: (224, 224, 3) uint8.
        scores: (N,) outlier factors of the last layer but one.
        outliers: patches found anomalous.
        last, repaired: (N, D) that layer's patches, as they are and with outliers repaired.
        middle: (N, N) cosines of the mid-layer patches, repaired.
        deep: (N, N) cosines of the last layer but one, for comparison.
        by_key: (N, N) softmax(k kᵀ / √d) of the last block, mean over heads.
        by_similarity: (N, N) attention weights made from `middle`.
        levels: patches after an early, a middle and a late block, and the sum of all blocks from the early one on.
        features: (N, E) the result, unit rows.
        plain: (N, E) what the same weights give without calibration: the last block's values.
    """

    window: NDArray[np.uint8]
    scores: Tensor
    outliers: list[int]
    last: Tensor
    repaired: Tensor
    middle: Tensor
    deep: Tensor
    by_key: Tensor
    by_similarity: Tensor
    levels: list[Tensor]
    features: Tensor
    plain: Tensor


@torch.no_grad()
def compute(model: NaiveScclip, window: NDArray[np.uint8]) -> Stages:
    """Run one window through the method."""
    mean, std = (torch.tensor(values).reshape(3, 1, 1) for values in (MEAN, STD))
    pixels = (torch.from_numpy(window).permute(2, 0, 1).float() - mean) / std
    hidden = model.hidden_states(pixels)
    last = hidden[-1][1:]
    outliers = model.outliers(last)
    repaired = model.repair(last, outliers, SIDE)
    middle = cosines(model.repair(hidden[model.pre][1:], outliers, SIDE))
    levels = [hidden[block][1:] for block in LEVELS]
    levels.append(torch.stack(hidden[LEVELS[0] :]).sum(dim=0)[1:])
    visual = model.clip.visual
    return Stages(
        window=window,
        scores=outlier_factors(model, last),
        outliers=sorted(outliers),
        last=last,
        repaired=repaired,
        middle=middle,
        deep=cosines(last),
        by_key=key_attention(model, repaired),
        by_similarity=torch.softmax(
            (3 * (middle - middle.mean())).masked_fill(middle < middle.mean(), -torch.inf), dim=-1
        ),
        levels=levels,
        features=model.window_features(pixels),
        plain=F.normalize(visual.ln_post(values(model, last)) @ visual.proj, dim=-1),
    )


def cosines(patches: Tensor) -> Tensor:
    """(N, D) → (N, N)."""
    unit = F.normalize(patches, dim=-1)
    return unit @ unit.T


def outlier_factors(model: NaiveScclip, patches: Tensor) -> Tensor:
    """The score that `NaiveScclip.outliers` thresholds: (N, D) → (N,)."""
    distances = torch.cdist(patches, patches).square().fill_diagonal_(torch.inf)
    nearest = distances.topk(model.neighbors, largest=False)
    reach = nearest.values[:, -1]
    return reach * (1 / reach)[nearest.indices].mean(dim=1)


def keys_and_values(model: NaiveScclip, patches: Tensor) -> tuple[Tensor, Tensor]:
    """Of the last block: (N, D) → two (N, D)."""
    block = model.clip.visual.transformer.resblocks[-1]
    attention = block.attn
    projected = F.linear(block.ln_1(patches), attention.in_proj_weight, attention.in_proj_bias)
    return projected.chunk(3, dim=-1)[1:]


def key_attention(model: NaiveScclip, patches: Tensor) -> Tensor:
    """softmax(k kᵀ / √d), mean over heads: (N, D) → (N, N)."""
    heads = model.clip.visual.transformer.resblocks[-1].attn.num_heads
    keys = keys_and_values(model, patches)[0].chunk(heads, dim=-1)
    return torch.stack([(k @ k.T / k.shape[-1] ** 0.5).softmax(dim=-1) for k in keys]).mean(dim=0)


def values(model: NaiveScclip, patches: Tensor) -> Tensor:
    """The last block's value path, as MaskCLIP uses it: (N, D) → (N, D)."""
    attention = model.clip.visual.transformer.resblocks[-1].attn
    return F.linear(keys_and_values(model, patches)[1], attention.out_proj.weight, attention.out_proj.bias)


def colours(*groups: Tensor) -> list[NDArray[np.float64]]:
    """Patches as colours, by the three strongest directions of all groups together: (N, D) → (14, 14, 3) in [0, 1].

    Groups share directions and range, so that the same colour means the same feature.
    """
    together = torch.cat(groups)
    centred = together - together.mean(dim=0)
    directions = torch.linalg.svd(centred, full_matrices=False).Vh[:3]
    # The sign of a direction is the solver's choice; fix it so that every machine draws the same colours.
    directions = directions * directions.gather(1, directions.abs().argmax(dim=1, keepdim=True)).sign()
    projected = (centred @ directions.T).double()
    low, high = (projected.quantile(q, dim=0) for q in (0.02, 0.98))
    scaled = ((projected - low) / (high - low)).clamp(0, 1).numpy()
    return [part.reshape(SIDE, SIDE, 3) for part in np.split(scaled, len(groups))]


def grid(vector: Tensor) -> NDArray[np.float32]:
    """(N,) → (14, 14)."""
    return vector.reshape(SIDE, SIDE).numpy()


def sheet(
    path: Path, panels: Sequence[tuple[str, Any, dict[str, Any]]], marks: Sequence[Sequence[int]] = ()
) -> Path:
    """Draw panels (title, image, options of imshow) side by side; `marks` outlines patches of each panel."""
    figure, axes = plt.subplots(1, len(panels), figsize=(2.6 * len(panels), 2.9), dpi=100)
    for index, (axis, (title, image, options)) in enumerate(zip(axes, panels, strict=True)):
        axis.imshow(image, extent=(0, SIDE, SIDE, 0), **options)
        axis.set_title(title, fontsize=9)
        axis.set_axis_off()
        for patch in marks[index] if index < len(marks) else ():
            row, column = divmod(patch, SIDE)
            axis.add_patch(Rectangle((column, row), 1, 1, fill=False, edgecolor=INK, linewidth=1.3))
    figure.tight_layout(pad=0.4)
    figure.canvas.draw()
    drawn = Image.fromarray(np.asarray(figure.canvas.buffer_rgba())[..., :3])
    plt.close(figure)
    drawn.quantize(128).save(path, optimize=True)  # a third of the bytes; these are pictures for a page
    return path


def draw(stages: Stages, query: int, text: Tensor, names: Sequence[str], folder: Path) -> list[Path]:
    """Write every figure.

    Args:
        stages: of one window.
        query: the patch whose similarities and attention are shown.
        text: (classes, E) unit rows.
        names: of the classes.
        folder: made if missing.
    """
    folder.mkdir(parents=True, exist_ok=True)
    plain: dict[str, Any] = {}
    heat = {"cmap": "magma", "interpolation": "nearest"}
    image = ("the window", stages.window, plain)
    before, after = colours(stages.last, stages.repaired)
    scores, raw = stages.features @ text.T, stages.plain @ text.T
    shown = int(scores.argmax(dim=1).mode().values)  # the class of most patches
    upsampled = F.interpolate(
        scores.T.reshape(1, -1, SIDE, SIDE), size=(WINDOW, WINDOW), mode="bilinear", align_corners=False
    )[0]
    spread = {"vmin": float(scores[:, shown].min()), "vmax": float(scores[:, shown].max())}
    labels = {"cmap": "tab20", "interpolation": "nearest", "vmin": 0, "vmax": len(names)}
    return [
        sheet(
            folder / "outliers.png",
            [
                image,
                ("outlier factor of each patch", grid(stages.scores), heat),
                ("the highest 5 %", stages.window, plain),
            ],
            marks=[(), (), stages.outliers],
        ),
        sheet(
            folder / "repair.png",
            [("features as they are", before, plain), ("outliers repaired", after, plain)],
            marks=[stages.outliers, stages.outliers],
        ),
        sheet(
            folder / "similarity.png",
            [
                ("one patch", stages.window, plain),
                ("like it, last layer but one", grid(stages.deep[query]), heat | {"vmin": 0, "vmax": 1}),
                ("like it, middle layer", grid(stages.middle[query]), heat | {"vmin": 0, "vmax": 1}),
            ],
            marks=[[query]] * 3,
        ),
        sheet(
            folder / "attention.png",
            [
                ("one patch", stages.window, plain),
                ("attention by keys", grid(stages.by_key[query]), heat),
                ("attention by similarity", grid(stages.by_similarity[query]), heat),
            ],
            marks=[[query]] * 3,
        ),
        sheet(
            folder / "fusion.png",
            [
                (title, colours(level)[0], plain)
                for title, level in zip(
                    [*(f"after block {block}" for block in LEVELS), "the sum"], stages.levels, strict=True
                )
            ],
        ),
        sheet(
            folder / "result.png",
            [
                image,
                ("classes, values alone", grid(raw.argmax(dim=1)), labels),
                ("classes, calibrated", grid(scores.argmax(dim=1)), labels),
            ],
        ),
        sheet(
            folder / "decode.png",
            [
                (f"cosines with “{names[shown]}”", grid(scores[:, shown]), heat | spread),
                ("the same, at each pixel", upsampled[shown].numpy(), heat | spread),
                ("best class of each pixel", upsampled.argmax(dim=0).numpy(), labels),
            ],
        ),
    ]


def load_model() -> NaiveScclip:
    """The demo checkpoint with its own parameters."""
    clip, _, calibration = load_checkpoint(CHECKPOINT)
    return NaiveScclip(
        clip=clip,
        pre=calibration["pre_layer"],
        post=calibration["post_layer"],
        multi=calibration["fusion_layers"],
        res_cls=calibration["cls_residual"],
        beta=calibration["similarity_floor"],
    )


def window_of(image: NDArray[np.uint8], column: int = 0) -> NDArray[np.uint8]:
    """The window at the top, `column` pixels from the left, of the image resized to a short side of 224."""
    height, width = image.shape[:2]
    scale = WINDOW / min(height, width)
    resized = cv2.resize(image, (round(width * scale), round(height * scale)), interpolation=cv2.INTER_LINEAR)
    return np.ascontiguousarray(resized[:WINDOW, column : column + WINDOW])


def main() -> None:
    """Parse, compute, draw."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scene", type=int, default=8, help="index of a held-out scene")
    parser.add_argument("--column", type=int, default=70, help="left edge of the window, pixels")
    parser.add_argument(
        "--query", type=int, nargs=2, default=(9, 4), help="row and column of the patch shown"
    )
    parser.add_argument("--output", type=Path, default=Path("docs/images/stages"))
    args = parser.parse_args()
    stages = compute(load_model(), window_of(test_scene(args.scene).image, args.column))
    vocabulary = Segmenter("demo").vocabulary
    text = torch.from_numpy(vocabulary.embeddings)
    names = [vocabulary.classes[index] for index in vocabulary.query_class]
    query = args.query[0] * SIDE + args.query[1]
    for path in draw(stages, query, text, names, args.output):
        print(path, f"{path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
