"""What narrow arithmetic costs in accuracy: the window encoders of a bundle on the demo's held-out scenes.

    python -m benchmarks.cpu.precision BUNDLE [--encoders fp16 bf16] [--scenes 300] [--first 0] [--json FILE]

BUNDLE is the demo model exported with `--fp16 --bf16 --fp8`; everything is compared with its float32 encoder. The files
themselves are run on the CPU, float16 and float8 by ONNX Runtime and bfloat16 with every narrow result rounded
(`scclip_export.onnx.runners`); resizing, windows and decoding are the runtime's.
"""

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.harness import Row, parser, write_report
from scclip_export.writers import WRITERS
from scclip_rt import Segmenter
from scclip_rt.demo.scenes import CLASSES, TEST_SCENES, test_scene
from scclip_rt.encoded import Encoded
from scclip_rt.evaluation.metrics import ConfusionMatrix


@dataclass(frozen=True, slots=True, kw_only=True)
class Labelled:
    """One scene through one encoder: `features` (B, N, E), `outliers` (B, m), `labels` (H, W)."""

    features: NDArray[np.float32]
    outliers: NDArray[np.int64]
    labels: NDArray[Any]


@dataclass(slots=True)
class Tally:
    """One encoder's counts over many scenes."""

    name: str
    matrix: ConfusionMatrix = field(default_factory=lambda: ConfusionMatrix(len(CLASSES)))
    same: int = 0
    windows: int = 0
    sets: int = 0
    outliers: int = 0
    found: int = 0
    difference: float = 0.0

    def add(self, mask: NDArray[np.uint8], got: Labelled, reference: Labelled) -> None:
        """Count one scene."""
        self.matrix.update(mask, got.labels)
        self.same += int((got.labels == reference.labels).sum())
        self.windows += len(got.outliers)
        self.sets += int((got.outliers == reference.outliers).all(axis=1).sum())
        self.outliers += reference.outliers.size
        pairs = zip(reference.outliers, got.outliers, strict=True)
        self.found += sum(int(np.isin(wanted, found).sum()) for wanted, found in pairs)
        self.difference += float(np.abs(got.features - reference.features).mean()) * len(got.outliers)

    def row(self) -> Row:
        """The figures, in percent where they are shares."""
        return {
            "encoder": self.name,
            "miou": round(self.matrix.scores().miou, 3),
            "labels_as_fp32": round(100 * self.same / self.matrix.pixels, 3),
            "outlier_sets_as_fp32": round(100 * self.sets / self.windows, 3),
            "outliers_as_fp32": round(100 * self.found / self.outliers, 3),
            "features_mean_abs": self.difference / self.windows,
            "windows": self.windows,
        }


def main() -> None:
    """Parse, measure, print, write."""
    options = parser(__doc__)
    options.add_argument("bundle", type=Path)
    options.add_argument("--encoders", nargs="+", choices=list(WRITERS), help="beside fp32 (all)")
    options.add_argument("--scenes", type=int, default=TEST_SCENES)
    options.add_argument("--first", type=int, default=0)
    args = options.parse_args()
    segmenter = Segmenter(args.bundle)
    wanted = ("fp32", *(args.encoders or WRITERS))
    specs = segmenter.bundle.encoders_for("window")
    files = {spec.file.removeprefix("encoder.").removesuffix(".onnx"): spec.file for spec in specs}
    runs = {name: WRITERS[name].open(args.bundle / file) for name, file in files.items() if name in wanted}
    tallies = {name: Tally(name) for name in runs}
    for index in range(args.first, args.first + args.scenes):
        scene = test_scene(index)
        prepared = segmenter.preparation(scene.image)
        found = {}
        for name, run in runs.items():
            features, _, outliers = run(prepared.windows, segmenter.vocabulary.embeddings)
            labels = segmenter.decode(Encoded.of(prepared, features)).labels
            found[name] = Labelled(features=features, outliers=outliers, labels=labels)
        for name, tally in tallies.items():
            tally.add(scene.mask, found[name], found["fp32"])
        if index % 25 == 24:
            print(f"{index + 1} scenes", [tally.row()["miou"] for tally in tallies.values()], file=sys.stderr)
    rows = [tally.row() for tally in tallies.values()]
    for row in rows:
        print(row)
    write_report(args.json, "narrow encoders on the demo's scenes", scenes=args.scenes, rows=rows)


if __name__ == "__main__":
    main()
