"""mIoU of the demo model against latency, for every precision, backend and grid.

    python -m benchmarks.cpu.pareto miou    [--targets fp32 int8 …] --json benchmarks/results/pareto-miou.json
    python -m benchmarks.cpu.pareto latency [--targets fp32 int8 …] --json benchmarks/results/pareto-latency.json

Both take the same targets; summary.py joins the rows by target. mIoU is over held-out demo scenes with the demo
classes, and labels are compared with those of the first target, pixel by pixel.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness import Row, measure, parser, write_report
from benchmarks.models import add_model_options, bundle
from scclip_rt.bench import Case, Entry, parse_target

TARGETS = ("fp32", "fp32@whole", "int8", "int8@whole")


def cases(path: Path, targets: list[str]) -> dict[str, Case]:
    """Target → case."""
    return {target: parse_target(f"{path}@{target}", Case(bundle=str(path))) for target in targets}


def accuracy(path: Path, args: argparse.Namespace) -> list[Row]:
    """Label every scene with every target, and compare with the truth and with the first target's labels."""
    from scclip_rt.evaluation import open_dataset, open_segmenter
    from scclip_rt.evaluation.evaluate import count, new_matrix

    dataset = open_dataset("demo")
    named = cases(path, args.targets)
    segmenters = [open_segmenter(path, dataset, **_options(case)) for case in named.values()]
    matrices, same = [new_matrix(dataset) for _ in named], np.zeros((len(named), args.scenes))
    for index in range(args.scenes):
        sample = dataset.samples[index]
        results = [segmenter(sample.image) for segmenter in segmenters]
        truth = sample.truth_for(results[0].labels.shape)
        for number, (matrix, result) in enumerate(zip(matrices, results, strict=True)):
            matrix.counts += count(matrix, sample, result, truth)
            same[number, index] = 100 * (result.labels == results[0].labels).mean()
    return [
        {
            "name": target.replace("@", " "),
            "miou": matrix.scores().miou,
            "agreement": agreement.mean(),
            "least_agreement": agreement.min(),
            "scenes": args.scenes,
        }
        for target, matrix, agreement in zip(named, matrices, same, strict=True)
    ]


def _options(case: Case) -> dict[str, Any]:
    return {name: value for name, value in case.options().items() if name != "short_side"}


def main() -> None:
    """Parse, measure, print, write."""
    arguments = parser(__doc__, iterations=30)
    arguments.add_argument("figure", choices=("miou", "latency"))
    add_model_options(arguments)
    arguments.set_defaults(model="demo")
    arguments.add_argument("--targets", nargs="+", default=list(TARGETS), help="(%(default)s)")
    arguments.add_argument("--scenes", type=int, default=300, help="held-out scenes (300)")
    args = arguments.parse_args()
    path = bundle(args.model, args.work)
    if args.figure == "latency":
        named = [Entry(name=t.replace("@", " "), case=case) for t, case in cases(path, args.targets).items()]
        measure("demo model: latency", [named], args, limit=False)
        return
    rows = accuracy(path, args)
    print(*rows, sep="\n")
    write_report(args.json, "demo model: mIoU", rows=rows)


if __name__ == "__main__":
    sys.exit(main())
