"""Every method at full size: exports a synthetic ViT-B/16 or L/14 in every precision, and keeps the parity figures.

    python -m benchmarks.cpu.method_exports [--model vitb16] [--methods sfp gem …] [--precisions fp32 int8 …]
        [--cpp BUILD] [--json FILE]

With `--cpp build/cpp/release`, which cpp/test.sh builds, fp32 and int8 run in C++ too, and cpp/parity.py compares it
with Python.

An export that misses its parity limits fails, and so does a method whose labels in C++ differ; its row says why, the
others go on, and the exit code is 1. Rows of an earlier run in FILE are kept: methods can be done one at a time.
Bundles are removed again: they take a gigabyte each. It takes minutes and 6 GB of memory for each method of B/16, three
times as much for L/14.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.cpu.methods import METHODS
from benchmarks.harness import Row, parser, write_report
from benchmarks.models import ROOT, add_model_options, checkpoint
from scclip_rt.precisions import PRECISIONS

PARITY = ROOT / "cpp/parity.py"
ALL = (*METHODS, "none")
IN_CPP = ("fp32", "int8")
"""What runs on a CPU in C++: ONNX Runtime has no float16 there that it would choose, and fp8 is for engines."""


def export_row(args: argparse.Namespace, method: str) -> Row:
    """Export one method, read its parity figures, and compare C++ with Python."""
    started = time.monotonic()
    row: Row = {"model": args.model, "method": method}
    with TemporaryDirectory(prefix="scclip-full-", dir=args.work) as scratch:
        bundle = Path(scratch) / f"{args.model}-{method}.scclip"
        narrow = [f"--{precision}" for precision in args.precisions if precision != "fp32"]
        weights = ["--checkpoint", str(checkpoint(args.model, args.work)), "--activation", "quickgelu"]
        command = [sys.executable, "-m", "scclip_export.cli.main", *weights, "--calibration", method]
        done = subprocess.run(
            [*command, *narrow, "--output", str(bundle)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        row["seconds"] = round(time.monotonic() - started)
        if done.returncode:
            return row | {"passed": False, "reason": done.stderr.strip().splitlines()[-1]}
        manifest = json.loads((bundle / "bundle.json").read_text("utf-8"))
        row["format_version"] = manifest["format_version"]
        row["encoders"] = {spec["file"]: spec["parity"] for spec in manifest["encoders"]}
        if args.cpp is not None:
            own = [precision for precision in args.precisions if precision in IN_CPP]
            row["cpp"] = {precision: cpp_labels(args.cpp, bundle, precision) for precision in own}
    failed = [precision for precision, found in row.get("cpp", {}).items() if not found["passed"]]
    if failed:
        return row | {"passed": False, "reason": f"C++ and Python differ in {', '.join(failed)}"}
    return row | {"passed": True}


def cpp_labels(build: Path, bundle: Path, precision: str) -> Row:
    """What cpp/parity.py finds, and whether it is within its limits."""
    command = [sys.executable, str(PARITY), str(build), str(bundle), "--precision", precision]
    done = subprocess.run(command, capture_output=True, text=True)
    if not done.stdout:
        return {"passed": False, "reason": done.stderr.strip().splitlines()[-1]}
    found = json.loads(done.stdout)
    kept = ("pixels", "classes", "agreement", "own_agreement", "largest_feature_gap", "largest_logit_gap")
    return {key: found[key] for key in kept} | {"passed": done.returncode == 0}


def main() -> None:
    """Parse, export, print, write after each."""
    options = parser(__doc__)
    add_model_options(options)
    options.add_argument("--methods", nargs="+", choices=ALL, default=ALL, metavar="NAME")
    options.add_argument(
        "--precisions", nargs="+", choices=PRECISIONS, default=PRECISIONS, metavar="NAME", help="(all)"
    )
    options.add_argument(
        "--cpp", type=Path, metavar="BUILD", help="compare this build's labels with Python's"
    )
    args = options.parse_args()
    rows: list[Row] = []
    if args.json is not None and args.json.exists():
        rows = json.loads(args.json.read_text("utf-8"))["rows"]
    for method in args.methods:
        row = export_row(args, method)
        rows = [old for old in rows if (old["model"], old["method"]) != (args.model, method)] + [row]
        print(
            args.model,
            method,
            "passed" if row["passed"] else row["reason"],
            f"{row['seconds']} s",
            flush=True,
        )
        write_report(args.json, "every method at full size: exports and parity", rows=rows)
    sys.exit(0 if all(row["passed"] for row in rows) else 1)


if __name__ == "__main__":
    main()
