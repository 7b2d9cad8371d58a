"""Measure the demo model: mIoU on held-out scenes with the calibration, as MaskCLIP, and as plain CLIP.

    python -m benchmarks.demo.evaluate CHECKPOINT [--split test] [--scenes 300] [--json FILE]

The encoder is the one that is exported, in torch; resizing, windows and decoding are the runtime's.
"""

import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from numpy.typing import NDArray
from open_clip.model import CLIP
from torch import Tensor
from torch.nn import functional

from benchmarks.demo.checkpoint import load_checkpoint
from benchmarks.demo.model import PATCH, encode_texts
from benchmarks.harness import parser, write_report
from scclip_export.methods.last_block import PLAIN, VALUES
from scclip_export.model.calibration import CalibrationConfig, calibration_for
from scclip_export.model.encoder import CalibratedEncoder, Trunk
from scclip_rt.decode.decode import decode
from scclip_rt.decode.plan import decode_plan
from scclip_rt.decode.settings import DecodeSettings
from scclip_rt.demo.scenes import CLASSES, HELD_OUT_PAIRS, TEST_SCENES, Scene, test_scene, tuning_scene
from scclip_rt.evaluation.metrics import ConfusionMatrix
from scclip_rt.image.geometry import Tiling, cut_windows, resize, resize_shape, whole_image_shape

WINDOW, SHORT_SIDE = 224, 336
METHODS = ("scclip", "maskclip", "none")  # those that share the trunk; `scclip compare-methods` has all


@dataclass(frozen=True, slots=True)
class EncodedScene:
    """One scene as the blocks before the last one see it.

    Attributes:
        trunk: what those blocks left.
        tiling: where the windows are.
        grid: rows and columns of patches per window.
        mask: uint8 (H, W).
    """

    trunk: Trunk
    tiling: Tiling
    grid: tuple[int, int]
    mask: NDArray[np.uint8]


class Evaluator:
    """Labels scenes by one model under any method and calibration."""

    def __init__(self, model: CLIP, text: Tensor, calibration: CalibrationConfig) -> None:
        self.text = text.numpy()
        self.encoders = {
            method: CalibratedEncoder(model.visual, parts, grid=None).eval()
            for method, parts in zip(METHODS, (calibration, VALUES, PLAIN), strict=True)
        }

    @torch.no_grad()
    def encode(self, scene: Scene, *, plain: bool = False, whole: bool = False) -> EncodedScene:
        """Resize, cut and encode; `plain`: one window, the middle 224 pixels; `whole`: the scene in one pass."""
        image, mask = scene.image, scene.mask
        if plain:
            top, left = ((side - WINDOW) // 2 for side in mask.shape)
            image, mask = (a[top : top + WINDOW, left : left + WINDOW] for a in (image, mask))
        if whole:
            shape = whole_image_shape(*mask.shape, patch=PATCH, short_side=SHORT_SIDE)
            tiling = Tiling.whole(*shape)
        else:
            side = WINDOW if plain else SHORT_SIDE
            shape = resize_shape(*mask.shape, short_side=side, min_side=WINDOW)
            tiling = Tiling.windows(*shape, window=WINDOW)
        windows = torch.from_numpy(cut_windows(resize(image, shape), tiling))
        encoder = self.encoders["scclip"]
        grid = (tiling.window[0] // PATCH, tiling.window[1] // PATCH)
        return EncodedScene(encoder.trunk(windows), tiling, grid, mask)

    @torch.no_grad()
    def label(self, encoded: EncodedScene, method: str, config: CalibrationConfig | None = None) -> Any:
        """Labels (H, W) of the scene; `config` replaces the calibration for good."""
        encoder = self.encoders[method]
        if config is not None:
            encoder.parts = config
        dense, _ = encoder.dense_tokens(encoded.trunk, *encoded.grid)
        features = functional.normalize(encoder.proj(encoder.ln_post(dense)), dim=-1).numpy()
        plan = decode_plan(encoded.tiling, encoded.grid, encoded.mask.shape)
        settings = DecodeSettings(query_class=range(len(self.text)), num_classes=len(self.text))
        return decode(features, self.text, plan, settings, threads=1).labels


@torch.no_grad()
def class_embeddings(model: CLIP, index: Tensor) -> Tensor:
    """(Q, E): every class of the scenes in the 80 ImageNet templates, normalised, averaged, normalised."""
    tokenizer = open_clip.tokenizer.SimpleTokenizer()
    rows = []
    for name in CLASSES:
        prompts = [template(name) for template in open_clip.OPENAI_IMAGENET_TEMPLATES]
        tokens = index.long()[tokenizer(prompts)]
        longest = int(tokens.argmax(1).max()) + 1
        rows.append(functional.normalize(encode_texts(model, tokens[:, :longest]).mean(0), dim=0))
    return torch.stack(rows)


def scenes(split: str, count: int) -> Iterator[Scene]:
    """The first `count` held-out ("test") or tuning ("tune") scenes."""
    make = {"test": test_scene, "tune": tuning_scene}[split]
    return map(make, range(count))


def calibration_from(values: dict[str, Any], blocks: int) -> CalibrationConfig:
    """A calibration from the checkpoint's or the command line's JSON; the exporter's default without any."""
    if not values:
        return calibration_for(blocks, PATCH)
    values = values | {"fusion_layers": tuple(values["fusion_layers"])}
    return CalibrationConfig(**values, source="checkpoint")


def has_new_pair(scene: Scene) -> bool:
    """Whether the scene shows two materials that no training scene shows together."""
    names = [CLASSES[index] for index in scene.classes]
    return any(frozenset((a, b)) in HELD_OUT_PAIRS for a in names for b in names)


def main() -> None:
    """Parse, measure, print, write."""
    options = parser(__doc__)
    options.add_argument("checkpoint", type=Path)
    options.add_argument("--split", choices=("test", "tune"), default="test")
    options.add_argument("--scenes", type=int, default=TEST_SCENES)
    options.add_argument("--calibration", type=json.loads, default={}, help="JSON (the checkpoint's own)")
    options.add_argument("--plain", action="store_true", help="each scene's middle 224 pixels, one window")
    options.add_argument("--whole-image", action="store_true", help="each scene in one pass, no windows")
    options.add_argument("--threads", type=int, default=2)
    args = options.parse_args()
    torch.set_num_threads(args.threads)
    clock = time.monotonic()
    model, index, shipped = load_checkpoint(args.checkpoint)
    config = calibration_from(args.calibration or shipped, len(model.visual.transformer.resblocks))
    evaluator = Evaluator(model, class_embeddings(model, index), config)
    matrices = {method: ConfusionMatrix(len(CLASSES)) for method in METHODS}
    new_pairs = ConfusionMatrix(len(CLASSES))
    for scene in scenes(args.split, args.scenes):
        encoded = evaluator.encode(scene, plain=args.plain, whole=args.whole_image)
        for method, matrix in matrices.items():
            labels = evaluator.label(encoded, method)
            matrix.update(encoded.mask, labels)
            if method == "scclip" and has_new_pair(scene):
                new_pairs.update(encoded.mask, labels)
    scores = {method: matrix.scores() for method, matrix in matrices.items()}
    report = {
        "checkpoint": args.checkpoint.name,
        "split": args.split,
        "scenes": args.scenes,
        "plain": args.plain,
        "whole_image": args.whole_image,
        "calibration": asdict(config),
        "miou": {method: round(score.miou, 2) for method, score in scores.items()},
        "pixel_accuracy": {method: round(score.aacc, 2) for method, score in scores.items()},
        "new_pairs_pixel_accuracy": round(new_pairs.scores().aacc, 2) if new_pairs.pixels else None,
        "per_class": dict(zip(CLASSES, scores["scclip"].iou.round(1).tolist(), strict=True)),
        "seconds": round(time.monotonic() - clock, 1),
    }
    print(json.dumps(report, indent=2))
    write_report(args.json, "the demo model on scenes that it has never seen", **report)


if __name__ == "__main__":
    main()
