"""int8 and bf16 on this processor: beside ONNX Runtime's float32 in pairs, beside the library's products, by operator.

    python -m benchmarks.cpu.narrow [--isa AVX2] [--iterations 9]

One 375×500 photo with 20 queries, windows and the whole image in one pass; then each narrow encoder's time by
operator. Rows go to benchmarks/results/narrow-PROCESSOR.json, so that those of several machines are kept. `--isa` holds
OpenVINO to older instructions (oneDNN's names: AVX2, AVX512_CORE_VNNI, …) in a file of its own, with its own float32 as
the base: ONNX Runtime has no such switch. OpenVINO's float32 products are not held either.
"""

import os
import re
import sys
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.cpu.profile_ops import profile_onnxruntime, profile_openvino, window_encoder, windows
from benchmarks.harness import parser
from benchmarks.models import ROOT, add_model_options, bundle, photo
from scclip_rt.backends.processor import BF16_FLAGS, ISA_LIMITS, processor_flags
from scclip_rt.bench import Bench, Case, Entry, Plan, Workload, document, parse_target, table
from scclip_rt.bench.environment import environment
from scclip_rt.bundle.bundle import Bundle
from scclip_rt.cli.options import write_json
from scclip_rt.cpus import default_threads
from scclip_rt.errors import ScclipError

PROFILE_RUNS = 5


def targets(flags: Collection[str], isa: str | None) -> list[str]:
    """The contenders on a processor with these flags (the kernel's names), the base first."""
    libraries = ["openvino"] if isa else ["onnxruntime", "openvino"]
    named = [f"fp32@{libraries[0]}", *(f"int8@{library}" for library in libraries)]
    if BF16_FLAGS & set(flags):
        named.append("bf16@openvino")
    return named + [f"int8@{library}@whole" for library in libraries]


def file_name(processor: str, isa: str | None) -> str:
    """`narrow-PROCESSOR.json` for a processor as `environment` describes it; an ISA it is held to comes last."""
    words = f"{processor} as {isa}" if isa else processor
    return f"narrow-{re.sub(r'[^a-z0-9]+', '-', words.lower()).strip('-')}.json"


def profile(path: Path, target: str) -> list[dict[str, Any]]:
    """Time by operator of a window encoder, six windows at once."""
    precision, library = target.split("@")
    opened = Bundle.open(path)
    graph = opened.checked_graph(window_encoder(opened, precision).file)
    feeds = {"windows": windows(opened, 6), "text": np.eye(1, opened.model.embed_dim, dtype=np.float32)}
    threads = default_threads()
    if library == "onnxruntime":
        operators = profile_onnxruntime(graph, feeds, threads, PROFILE_RUNS)
    else:
        hint = "bf16" if precision == "bf16" else "f32"
        operators = profile_openvino(graph, feeds, threads, PROFILE_RUNS, hint)
    return [{"operator": name, "milliseconds": ms, "calls": n} for name, (ms, n) in operators.items()]


def main() -> None:
    """Parse, measure, profile, print, write."""
    options = parser(__doc__, iterations=9)
    add_model_options(options)
    options.add_argument("--isa", help="hold OpenVINO to these instructions (the processor's)")
    args = options.parse_args()
    if args.isa:
        os.environ |= dict.fromkeys(ISA_LIMITS, args.isa)  # read when the library loads, in every process
    path = bundle(args.model, args.work)
    base = Case(bundle=str(path), workload=Workload(image=str(photo(args.work)), queries=20))
    named = targets(processor_flags(), args.isa)
    group = [Entry(name=name.replace("@", " "), case=parse_target(f"{path}@{name}", base)) for name in named]
    plan = Plan(warmup=args.warmup, iterations=args.iterations)
    try:
        results = [Bench(plan, progress=lambda line: print(line, file=sys.stderr)).run(group)]
    except ScclipError as error:
        sys.exit(f"error: {error}")
    report = {
        "question": "int8 and bf16 on one processor",
        "isa": args.isa,
        **document(results, plan, samples=True),
        "profiles": {name: profile(path, name) for name in named[1:] if "whole" not in name},
    }
    print(table(report))
    name = file_name(environment()["processor"], args.isa)
    write_json(report, str(args.json or ROOT / "benchmarks/results" / name), force=True)


if __name__ == "__main__":
    main()
