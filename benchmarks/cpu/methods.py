"""Every method's speed: its encoder beside the plain one, and a photo with 150 classes beside the method run naively.

    python -m benchmarks.cpu.methods encoder [--methods sfp naclip …] [--json benchmarks/results/methods-encoder.json]
    python -m benchmarks.cpu.methods photo   [--methods sfp naclip …] [--json benchmarks/results/methods-photo.json]

`encoder` pairs each method with the same checkpoint exported with `--calibration none`, at the same windows (224 pixels
every 112, the short side 336), float32. `photo` pairs the runtime with the naive torch form of the method
(tests/oracles/family.py, and tests/oracles/scclip.py for SC-CLIP), which is held to golden arrays of the official codes
by tests. Pairs take turns, each side in a process of its own, after the correctness gate. PAMR and thresholds are off.
"""

import argparse
import sys
from pathlib import Path

from benchmarks.harness import measure, parser
from benchmarks.models import add_model_options, exported, photo
from scclip_rt.bench import Case, Entry, Workload

COMMON = {"backend": "onnxruntime", "precision": "fp32", "refine": "none"}
METHODS = (
    "scclip",
    "sfp",
    "naclip",
    "clearclip",
    "sclip",
    "segearth",
    "resclip",
    "maskclip",
    "surgery",
    "gem",
)


def method_bundle(model: str, work: Path, method: str) -> Path:
    """A float32 bundle with the same windows for every method; exported if it is not there."""
    options = ["--calibration", method, "--window", "224", "--stride", "112", "--short-side", "336"]
    return exported(model, work, f"{model}-{method}-224", options)


def encoder_pair(args: argparse.Namespace, method: str) -> list[Entry]:
    """The plain encoder and a method's."""
    plain, own = (method_bundle(args.model, args.work, name) for name in ("none", method))
    return [
        Entry(name=f"plain, for {method}", case=Case(bundle=str(plain), **COMMON)),
        Entry(name=method, case=Case(bundle=str(own), **COMMON)),
    ]


def photo_pair(args: argparse.Namespace, method: str) -> list[Entry]:
    """The naive form and the runtime."""
    # Not at the top: every contender's process imports this module again, and torch would count in its memory.
    from benchmarks.cpu.naive_contender import NaiveContender

    path = method_bundle(args.model, args.work, method)
    workload = Workload(image=str(photo(args.work)), queries=150)
    case = Case(bundle=str(path), **COMMON, workload=workload)
    return [
        Entry(name=f"naive {method}", case=case, factory=NaiveContender),
        Entry(name=method, case=case),
    ]


def main() -> None:
    """Parse, measure, print, write."""
    arguments = parser(__doc__, iterations=9)
    arguments.add_argument("what", choices=("encoder", "photo"))
    add_model_options(arguments)
    arguments.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS, metavar="NAME")
    args = arguments.parse_args()
    pair, question = {
        "encoder": (encoder_pair, "each method's encoder over the plain one"),
        "photo": (photo_pair, "one photo, 150 classes, against the method run naively"),
    }[args.what]
    measure(question, [pair(args, method) for method in args.methods], args, limit=False)


if __name__ == "__main__":
    sys.exit(main())
