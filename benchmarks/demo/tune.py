"""Tune the calibration of a demo checkpoint by coordinate descent, on the tuning scenes only.

    python benchmarks/demo/tune.py CHECKPOINT [--scenes 120] [--json FILE]

Every constant is tried in turn, the best kept, until a round changes nothing. Scenes are their middle window,
encoded once.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from checkpoint import load_checkpoint
from evaluate import (
    Calibration,
    Score,
    block_features,
    calibrated_features,
    centre_crop,
    class_embeddings,
    decode,
    scenes,
)
from numpy.typing import NDArray
from open_clip.model import CLIP
from torch import Tensor

RESIDUALS = (0.0, 0.01, 0.02, 0.03, 0.05, 0.07, 0.1, 0.15, 0.2, 0.3)
FLOORS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)
FRACTIONS = (0.01, 0.02, 0.05)


def candidates(blocks: int) -> Iterator[tuple[str, list[Any]]]:
    """The values each constant is tried at."""
    yield "cls_residual", list(RESIDUALS)
    ranges = [(a, b) for a in range(blocks - 1) for b in range(a + 1, blocks) if b - a <= 5]
    yield "fusion_layers", ranges
    yield "pre_layer", list(range(blocks - 1))
    yield "post_layer", list(range(blocks - 1))
    yield "similarity_floor", list(FLOORS)
    yield "outlier_fraction", list(FRACTIONS)


class Bench:
    """Encoded windows with their masks."""

    def __init__(self, model: CLIP, text: Tensor, count: int, first: int = 0) -> None:
        self.model, self.text = model, text
        crops = [centre_crop(scene) for scene in scenes("tune", count, first)]
        self.masks: list[NDArray[Any]] = [crop.mask for crop in crops]
        self.features: list[list[Tensor]] = []
        for crop in crops:
            self.features.append(block_features(model, torch.from_numpy(crop.image.copy())[None]))

    def miou(self, config: Calibration) -> float:
        """MIoU of the calibrated features over all windows."""
        score = Score()
        for features, mask in zip(self.features, self.masks, strict=True):
            logits = calibrated_features(self.model, features, config) @ self.text.T
            score.add(mask, decode(logits, [(0, 0)], mask.shape))
        return score.miou


def descend(bench: Bench, config: Calibration, blocks: int, rounds: int = 2) -> tuple[Calibration, list[Any]]:
    """Best calibration found and every trial as (constant, value, mIoU)."""
    best, trials = bench.miou(config), []
    for _ in range(rounds):
        before = config
        for name, values in candidates(blocks):
            for value in values:
                if value == getattr(config, name):
                    continue
                trial = replace(config, **{name: value})
                miou = bench.miou(trial)
                trials.append((name, value, round(miou, 2)))
                if miou > best:
                    best, config = miou, trial
            print(json.dumps({"after": name, "miou": round(best, 2), **asdict(config)}), flush=True)
        if config == before:
            break
    return config, trials


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--scenes", type=int, default=120)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--start", type=json.loads, default={}, help="JSON of the first calibration")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model, index, shipped = load_checkpoint(options.checkpoint)
    start = Calibration(**(shipped | options.start))
    bench = Bench(model, class_embeddings(model, index), options.scenes)
    blocks = len(model.visual.transformer.resblocks)
    config, trials = descend(bench, start, blocks, options.rounds)
    report = {
        "scenes": options.scenes,
        "miou": bench.miou(config),
        "calibration": asdict(config),
        "trials": trials,
    }
    print(json.dumps({key: report[key] for key in ("miou", "calibration")}))
    if options.json:
        options.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
