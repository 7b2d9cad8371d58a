"""Draw the learning curves of a run: loss and retrieval accuracy, and mIoU of evaluated checkpoints.

python -m benchmarks.demo.plot --log benchmarks/demo/results/log.jsonl \
        --scores benchmarks/demo/results/curve.json --out docs/demo-learning-curve.png
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Told apart by colour-blind readers too.
COLOURS = ("#0072b2", "#009e73", "#d55e00")


def panel(
    axes: Axes, seen: Sequence[float], series: Mapping[str, Sequence[float]], *, title: str, top: float
) -> None:
    """Named series over thousands of scenes seen."""
    for (name, values), colour in zip(series.items(), COLOURS, strict=False):
        axes.plot(seen, values, color=colour, label=name, marker="o" if len(seen) < 30 else None)
    axes.set(xlabel="thousands of scenes seen", title=title, xlim=(0, None), ylim=(0, top))
    axes.grid(color="#e1e1e1")
    axes.legend(frameon=False)


def main() -> None:
    """Parse, draw."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--log", type=Path, required=True, help="log.jsonl of the training run")
    parser.add_argument("--scores", type=Path, required=True, help='JSON list of {"images", "miou": {…}}')
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    log = [json.loads(line) for line in args.log.read_text().splitlines()]
    scores = sorted(json.loads(args.scores.read_text()), key=lambda row: row["images"])
    figure = Figure(figsize=(10.4, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    training = {"loss": [row["loss"] for row in log], "batch accuracy": [row["accuracy"] for row in log]}
    panel(left, [row["images"] / 1000 for row in log], training, title="contrastive training", top=2.0)
    measured = {name: [row["miou"][name] for row in scores] for name in scores[0]["miou"]}
    panel(
        right, [row["images"] / 1000 for row in scores], measured, title="mIoU (%), tuning scenes", top=100.0
    )
    figure.savefig(args.out, dpi=100, metadata={"Software": None})


if __name__ == "__main__":
    main()
