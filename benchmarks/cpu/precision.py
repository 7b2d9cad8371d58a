"""What narrow arithmetic costs in accuracy: the window encoders of a bundle on the demo's held-out scenes.

    python -m benchmarks.cpu.precision BUNDLE [--encoders fp16 bf16] [--scenes 300] [--first 0] [--json FILE]

BUNDLE is the demo model exported with `--fp16 --bf16 --fp8`; everything is compared with its float32 encoder. The files
themselves are run on the CPU, float16 and float8 by ONNX Runtime and bfloat16 with every narrow result rounded
(`scclip_export.onnx.runners`); resizing, windows and decoding are the runtime's.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.environment import environment
from scclip_export.onnx.runners import Runner
from scclip_export.writers import WRITERS
from scclip_rt import Bundle
from scclip_rt.decode.decode import decode
from scclip_rt.decode.plan import decode_plan
from scclip_rt.decode.settings import DecodeSettings
from scclip_rt.demo.scenes import CLASSES, TEST_SCENES, test_scene
from scclip_rt.image.geometry import Tiling, cut_windows, resize, resize_shape
from scclip_rt.vocabulary.file import load_vocabulary


class Tally:
    """One encoder's counts over many scenes."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.confusion = np.zeros((len(CLASSES), len(CLASSES)), np.int64)
        self.pixels = self.same = self.windows = self.sets = self.outliers = self.found = 0
        self.difference = 0.0

    def add(self, mask: NDArray[np.uint8], got: Encoded, reference: Encoded) -> None:
        """Count one scene."""
        pairs = mask.ravel().astype(np.int64) * len(CLASSES) + got.labels.ravel()
        self.confusion += np.bincount(pairs, minlength=len(CLASSES) ** 2).reshape(self.confusion.shape)
        self.pixels += mask.size
        self.same += int((got.labels == reference.labels).sum())
        self.windows += len(got.outliers)
        self.sets += int((got.outliers == reference.outliers).all(axis=1).sum())
        self.outliers += reference.outliers.size
        self.found += sum(
            int(np.isin(wanted, found).sum())
            for wanted, found in zip(reference.outliers, got.outliers, strict=True)
        )
        self.difference += float(np.abs(got.features - reference.features).mean()) * len(got.outliers)

    def row(self) -> dict[str, Any]:
        """The figures, in percent where they are shares."""
        hit = np.diag(self.confusion)
        union = self.confusion.sum(0) + self.confusion.sum(1) - hit
        return {
            "encoder": self.name,
            "miou": round(100 * float(np.mean(hit[union > 0] / union[union > 0])), 3),
            "labels_as_fp32": round(100 * self.same / self.pixels, 3),
            "outlier_sets_as_fp32": round(100 * self.sets / self.windows, 3),
            "outliers_as_fp32": round(100 * self.found / self.outliers, 3),
            "features_mean_abs": self.difference / self.windows,
            "windows": self.windows,
        }


class Encoded:
    """One scene through one encoder: `features` (B, N, E), `outliers` (B, m), `labels` (H, W)."""

    def __init__(self, run: Runner, image: NDArray[np.uint8], shape: tuple[int, int], setup: Setup) -> None:
        spec = setup.bundle.preprocessing
        side = resize_shape(
            *shape, short_side=spec.short_side, long_side=spec.long_side, min_side=spec.window
        )
        tiling = Tiling.windows(*side, window=spec.window, stride=spec.stride)
        windows = cut_windows(resize(image, side), tiling)
        self.features, _, self.outliers = run(windows, setup.vocabulary.embeddings)
        grid = spec.window // setup.bundle.model.patch_size
        plan = decode_plan(tiling, (grid, grid), shape)
        self.labels = decode(
            self.features,
            setup.vocabulary.embeddings,
            plan,
            DecodeSettings(
                query_class=setup.vocabulary.query_class, num_classes=len(setup.vocabulary.classes)
            ),
        ).labels


class Setup:
    """The bundle and its demo vocabulary."""

    def __init__(self, path: Path) -> None:
        self.bundle = Bundle.open(path)
        self.vocabulary = load_vocabulary(path / "vocabularies/classes.safetensors")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--encoders", nargs="+", choices=list(WRITERS), help="beside fp32 (all)")
    parser.add_argument("--scenes", type=int, default=TEST_SCENES)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    setup = Setup(args.bundle)
    files = [encoder.file for encoder in setup.bundle.encoders_for("window")]
    runs = {
        name: WRITERS[name].open(args.bundle / file)
        for file in files
        if (name := file.removeprefix("encoder.").removesuffix(".onnx")) in WRITERS
        and name in ("fp32", *(args.encoders or WRITERS))
    }
    tallies = {name: Tally(name) for name in runs}
    for index in range(args.first, args.first + args.scenes):
        scene = test_scene(index)
        encoded = {name: Encoded(run, scene.image, scene.mask.shape, setup) for name, run in runs.items()}
        for name, tally in tallies.items():
            tally.add(scene.mask, encoded[name], encoded["fp32"])
        if index % 25 == 24:
            print(f"{index + 1} scenes", [tally.row()["miou"] for tally in tallies.values()], file=sys.stderr)
    rows = [tally.row() for tally in tallies.values()]
    for row in rows:
        print(row)
    if args.json:
        args.json.write_text(
            json.dumps({"scenes": args.scenes, "rows": rows, "environment": environment()}, indent=1)
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
