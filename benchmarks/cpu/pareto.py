"""The dial between speed and quality: mIoU of the demo model against the processor's time for a scene.

    python -m benchmarks.cpu.pareto [--targets int8 int8@stride=224 …] [--json benchmarks/results/pareto.json]

A target is what `scclip bench` takes behind a bundle's name: a precision, a library, `whole`, `stride=PIXELS`,
`short_side=PIXELS`, `preset=NAME`; and `window=PIXELS`, for which the model is exported again. Every target labels each
held-out scene, in turn, on one thread: seconds are the processor's, from pixels in memory to labels, and ratios are of
the same scene. Labels are compared with those of the first target, pixel by pixel.
"""

import argparse
import statistics
import sys
import time
from pathlib import Path

import numpy as np

from benchmarks.harness import Row, parser, ratios, write_report
from benchmarks.models import DEMO_CLASSES, add_model_options, bundle, exported
from scclip_rt import Segmenter
from scclip_rt.bench import Case, parse_target
from scclip_rt.evaluation import open_dataset, open_segmenter
from scclip_rt.evaluation.evaluate import count, new_matrix

TARGETS = (
    "fp32",
    "bf16",
    "int8",
    "int8@stride=56",
    "int8@stride=224",
    "fp32@stride=224",
    "int8@short_side=224",
    "int8@short_side=448@window=448",
    "int8@whole",
    "fp32@whole",
    "int8@whole@short_side=448",
)


def case(target: str, args: argparse.Namespace) -> Case:
    """The bundle and the options of a target."""
    parts = [part for part in target.split("@") if not part.startswith("window=")]
    windows = [part.removeprefix("window=") for part in target.split("@") if part not in parts]
    path = bundle(args.model, args.work)
    for window in windows:
        stride = str(int(window) // 2)
        options = ["--int8", "--vocabulary", str(DEMO_CLASSES), "--window", window, "--stride", stride]
        path = exported(args.model, args.work, f"{args.model}-{window}", options)
    return parse_target("@".join([str(path), *parts]), Case(bundle=str(path), threads=1))


def measure(segmenters: dict[str, Segmenter], scenes: int) -> list[Row]:
    """Label every scene with every target; compare with the truth and with the first target's labels."""
    dataset = open_dataset("demo")
    matrices = {target: new_matrix(dataset) for target in segmenters}
    same: dict[str, list[float]] = {target: [] for target in segmenters}
    seconds: dict[str, list[float]] = {target: [] for target in segmenters}
    for segmenter in segmenters.values():
        segmenter(dataset.samples[0].image)  # the first run is not timed
    for index in range(scenes):
        sample = dataset.samples[index]
        labels = {}
        for target, segmenter in segmenters.items():
            start = time.process_time()
            result = segmenter(sample.image)
            seconds[target].append(time.process_time() - start)
            labels[target] = result.labels
            matrices[target].counts += count(
                matrices[target], sample, result, sample.truth_for(result.labels.shape)
            )
        first = next(iter(labels.values()))
        for target, found in labels.items():
            same[target].append(100 * (found == first).mean())
        if index % 25 == 24:
            print(f"{index + 1} scenes", file=sys.stderr, flush=True)
    base = next(iter(seconds.values()))
    return [
        {
            "name": target.replace("@", " "),
            "backend": segmenter.backend.describe()["backend"],
            "windows": len(segmenter.preparation(dataset.samples[0].image).windows),
            "miou": matrices[target].scores().miou,
            "agreement": np.mean(same[target]),
            "least_agreement": min(same[target]),
            "scenes": scenes,
            "processor_seconds": statistics.median(seconds[target]),
            "ratio": statistics.median(ratios(base, seconds[target])),
        }
        for target, segmenter in segmenters.items()
    ]


def main() -> None:
    """Parse, measure, print, write."""
    options = parser(__doc__)
    add_model_options(options)
    options.set_defaults(model="demo")
    options.add_argument("--targets", nargs="+", default=list(TARGETS), help="(%(default)s)")
    options.add_argument("--scenes", type=int, default=300, help="held-out scenes (%(default)s)")
    args = options.parse_args()
    dataset = open_dataset("demo")
    segmenters = {}
    for target in args.targets:
        made = case(target, args)
        segmenters[target] = open_segmenter(Path(made.bundle), dataset, **made.options())
    rows = measure(segmenters, args.scenes)
    print(*rows, sep="\n")
    write_report(args.json, "demo model: quality against the processor's time", rows=rows)


if __name__ == "__main__":
    main()
