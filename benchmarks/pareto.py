"""mIoU of the demo model against latency, for every precision, backend and grid.

    python benchmarks/pareto.py miou    [--targets fp32 int8 …] --json benchmarks/results/pareto-miou.json
    python benchmarks/pareto.py latency [--targets fp32 int8 …] --json benchmarks/results/pareto-latency.json

Both take the same targets; summary.py joins the rows by target. mIoU is over held-out demo scenes with the demo
classes, and labels are compared with those of the first target, pixel by pixel.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

from harness import measure, parser
from models import add_model_options, bundle

from scclip_rt.bench import Case, Entry, parse_target
from scclip_rt.cli.options import write_json

TARGETS = ("fp32", "fp32@whole")


def cases(path: Path, targets: list[str]) -> dict[str, Case]:
    """Target → case."""
    return {target: parse_target(f"{path}@{target}", Case(bundle=str(path))) for target in targets}


def accuracy(path: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Evaluate every target against the first."""
    from scclip_rt.bench.environment import environment
    from scclip_rt.evaluation import compare, open_dataset, open_segmenter

    dataset = open_dataset("demo")
    named = cases(path, args.targets)
    first = open_segmenter(path, dataset, **_options(named[args.targets[0]]))
    rows = []
    for target, case in named.items():
        result = compare(first, open_segmenter(path, dataset, **_options(case)), dataset, limit=args.scenes)
        row = {
            "name": target.replace("@", " "),
            "miou": result.second.scores.miou,
            "agreement": result.agreement,
        }
        rows.append(row | {"least_agreement": result.least_agreement, "scenes": result.second.images})
        print(rows[-1], flush=True)
    return {"question": "demo model: mIoU", "environment": environment(), "rows": rows}


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
    report = accuracy(path, args)
    if args.json is not None:
        write_json(report, str(args.json), force=True)


if __name__ == "__main__":
    sys.exit(main())
