"""Every method at full size: exports a synthetic ViT-B/16 or L/14 in fp32, fp16 and int8, and keeps the parity figures.

    python -m benchmarks.cpu.method_exports [--model vitb16] [--methods sfp gem …] [--json FILE]

An export that misses its parity limits fails; its row says why, the others go on, and the exit code is 1. Rows of an
earlier run in FILE are kept, so that methods can be done one at a time. Bundles are removed again: they take a gigabyte
each. It takes minutes and 6 GB of memory for each method of B/16, three times as much for L/14.
"""

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.cpu.methods import METHODS
from benchmarks.harness import Row, parser, write_report
from benchmarks.models import add_model_options, checkpoint


def export_row(model: str, work: Path, method: str) -> Row:
    """Export one method and read its parity figures."""
    started = time.monotonic()
    with TemporaryDirectory(prefix="scclip-full-", dir=work) as scratch:
        bundle = Path(scratch) / f"{model}-{method}.scclip"
        command = [
            sys.executable,
            "-m",
            "scclip_export.cli.main",
            "--checkpoint",
            str(checkpoint(model, work)),
        ]
        command += [
            "--activation",
            "quickgelu",
            "--calibration",
            method,
            "--fp16",
            "--int8",
            "--output",
            str(bundle),
        ]
        done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        row: Row = {"model": model, "method": method, "seconds": round(time.monotonic() - started)}
        if done.returncode:
            return row | {"passed": False, "reason": done.stderr.strip().splitlines()[-1]}
        manifest = json.loads((bundle / "bundle.json").read_text("utf-8"))
        row["format_version"] = manifest["format_version"]
        row["encoders"] = {spec["file"]: spec["parity"] for spec in manifest["encoders"]}
        shutil.rmtree(bundle)
    return row | {"passed": True}


def main() -> None:
    """Parse, export, print, write after each."""
    options = parser(__doc__)
    add_model_options(options)
    options.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS, metavar="NAME")
    args = options.parse_args()
    rows: list[Row] = []
    if args.json is not None and args.json.exists():
        rows = json.loads(args.json.read_text("utf-8"))["rows"]
    for method in args.methods:
        row = export_row(args.model, args.work, method)
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
