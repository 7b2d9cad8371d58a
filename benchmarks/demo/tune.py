"""Tune the calibration of a demo checkpoint by coordinate descent, on the tuning scenes only.

    python -m benchmarks.demo.tune CHECKPOINT [--scenes 60] [--json FILE]

Every constant is tried in turn, the best kept, until a round changes nothing. Scenes are encoded once.
"""

import json
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.demo.checkpoint import load_checkpoint
from benchmarks.demo.evaluate import Evaluator, calibration_from, class_embeddings, scenes
from benchmarks.harness import parser, write_report
from scclip_export.model.calibration import CalibrationConfig
from scclip_rt.demo.scenes import CLASSES
from scclip_rt.evaluation.metrics import ConfusionMatrix

RESIDUALS = (0.0, 0.03, 0.05, 0.07, 0.1, 0.12, 0.15, 0.2, 0.3)
FLOORS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
FRACTIONS = (0.0, 0.02, 0.05)
WIDEST_FUSION = 3


def candidates(blocks: int) -> Iterator[tuple[str, list[Any]]]:
    """The values each constant is tried at."""
    yield "cls_residual", list(RESIDUALS)
    layers = range(blocks - 1)
    yield (
        "fusion_layers",
        [(a, b) for a in layers for b in range(a + 1, min(a + WIDEST_FUSION, blocks - 1) + 1)],
    )
    yield "pre_layer", list(layers)
    yield "post_layer", list(layers)
    yield "similarity_floor", list(FLOORS)
    yield "outlier_fraction", list(FRACTIONS)


class Bench:
    """Encoded tuning scenes."""

    def __init__(self, evaluator: Evaluator, count: int) -> None:
        self.evaluator = evaluator
        self.encoded = [evaluator.encode(scene) for scene in scenes("tune", count)]

    def miou(self, config: CalibrationConfig) -> float:
        """MIoU of the calibrated model over all scenes."""
        matrix = ConfusionMatrix(len(CLASSES))
        for encoded in self.encoded:
            matrix.update(encoded.mask, self.evaluator.label(encoded, "scclip", config))
        return matrix.scores().miou


def descend(
    bench: Bench, config: CalibrationConfig, blocks: int, rounds: int
) -> tuple[CalibrationConfig, list[Any]]:
    """Best calibration found and every trial as [constant, value, mIoU]."""
    best, trials = bench.miou(config), []
    for _ in range(rounds):
        before = config
        for name, values in candidates(blocks):
            chosen = config
            for value in values:
                if value == getattr(config, name):
                    continue
                trial = replace(config, **{name: value})
                miou = bench.miou(trial)
                trials.append([name, value, round(miou, 2)])
                if miou > best:
                    best, chosen = miou, trial
            config = chosen
            print(json.dumps({"after": name, "miou": round(best, 2), **asdict(config)}), flush=True)
        if config == before:
            break
    return config, trials


def main() -> None:
    """Parse, descend, print, write."""
    options = parser(__doc__)
    options.add_argument("checkpoint", type=Path)
    options.add_argument("--scenes", type=int, default=60)
    options.add_argument("--rounds", type=int, default=2)
    options.add_argument("--start", type=json.loads, default={}, help="JSON of the first calibration")
    options.add_argument("--threads", type=int, default=2)
    args = options.parse_args()
    torch.set_num_threads(args.threads)
    model, index, shipped = load_checkpoint(args.checkpoint)
    blocks = len(model.visual.transformer.resblocks)
    start = calibration_from(args.start or shipped, blocks)
    bench = Bench(Evaluator(model, class_embeddings(model, index), start), args.scenes)
    config, trials = descend(bench, start, blocks, args.rounds)
    calibration = asdict(config)
    calibration.pop("source")
    report = {"scenes": args.scenes, "miou": round(bench.miou(config), 2), "calibration": calibration}
    print(json.dumps(report))
    write_report(args.json, "the calibration of the demo model", **report, trials=trials)


if __name__ == "__main__":
    main()
