"""Check, then time, everything on one GPU: kernels, encoders, decode, whole images, every backend that is installed.

    python -m benchmarks.gpu                                   # ViT-B/16 and ViT-L/14, torch and Triton alone
    python -m benchmarks.gpu --bundle vitb16.scclip …          # and the backends, on bundles exported anywhere
    python -m benchmarks.gpu --budget 540                      # stop after nine minutes; the same line goes on
    python -m benchmarks.gpu --device cpu --quick              # the whole script on a tiny model: what CI runs

It needs torch (and uses Triton, cuda-python, ONNX Runtime, TensorRT and TensorRT-RTX where they are); weights are
synthetic. Numbers come first: a kernel that is further from a float64 oracle than allowed, or labels that differ from
float32's on more pixels than allowed, make it exit with 1, and nothing wrong is timed. Rows go to
benchmarks/results/gpu-NAME.json as they come, with the ceilings that were measured beside them, the table to
standard output, and the choice between kernels to gpu-kernels-NAME.json. Exit code 3: --budget ended it; the same
command goes on where it stopped.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks/results"
for folder in (ROOT, ROOT / "export", ROOT / "kernels", ROOT / "tests"):
    sys.path.insert(0, str(folder))
PARTS = ("kernels", "models", "bundles", "compiled")
NOT_FINISHED = 3


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--device", default="cuda:0", help="cuda:N, or cpu to run the script at all (%(default)s)")
    add("--quick", action="store_true", help="tiny model, few sizes, few runs: no figure to quote")
    add("--part", nargs="+", choices=PARTS, default=PARTS, help="(all)")
    add("--arch", nargs="+", default=["vitb16", "vitl14"], help="models (%(default)s)")
    add("--bundle", nargs="*", type=Path, default=[], help="bundles for the installed backends")
    add("--queries", nargs="+", type=int, default=[20, 150, 1000], help="(%(default)s)")
    add("--windows", nargs="+", type=int, default=[1, 6, 16, 32, 64], help="batches (%(default)s)")
    add("--iterations", type=int, default=100, help="timed runs of a row (%(default)s)")
    add("--warmup", type=int, default=10, help="runs before the clock (%(default)s)")
    add("--seconds", type=float, default=2.0, help="of timed runs per row, at least 20 runs (%(default)s)")
    add("--budget", type=float, metavar="SECONDS", help="begin no row after this (no limit)")
    add("--fresh", action="store_true", help="forget the rows of earlier calls")
    add("--results", type=Path, default=RESULTS, help="folder for the JSON (%(default)s)")
    args = parser.parse_args(arguments)
    if args.quick:
        args.arch, args.queries, args.windows = ["micro"], [5], [2]
        args.iterations, args.warmup = 1, 0
    if args.device == "cpu":
        # Before Triton is imported: kernels run in its interpreter.
        os.environ["TRITON_INTERPRET"] = "1"
    return args


def set_up(device: Any) -> None:
    """The arithmetic that is promised, and no silent way out of the compiler."""
    import torch

    if device.type == "cuda":
        torch.cuda.set_device(device)
    else:
        torch.set_num_threads(1)  # nothing here is worth the other cores
    # The float32 islands are float32: TF32 has the mantissa of fp16.
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    # By default torch goes on eagerly once a function has been compiled for eight sizes: its time would be called that
    # of compiled code.
    torch._dynamo.config.recompile_limit = 64
    torch._dynamo.config.fail_on_recompile_limit_hit = True


def main(arguments: list[str] | None = None) -> int:
    """Measure; 0 if all numbers were right, 1 if one was not, 2 without a GPU, 3 if time ended it."""
    args = parse(arguments)
    import torch

    from benchmarks.gpu.clock import Clock
    from benchmarks.gpu.run import ContextLostError, OutOfTimeError, Run, start_again

    device = torch.device(args.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        print("error: torch sees no GPU; --device cpu --quick runs the script without one", file=sys.stderr)
        return 2
    set_up(device)
    clock = Clock(device=device, warmup=args.warmup, iterations=args.iterations, seconds=args.seconds)
    run = Run(args=args, clock=clock, environment=device_environment(device))
    try:
        with torch.inference_mode():
            measure(run)
        run.complete = set(args.part) == set(PARTS)
    except OutOfTimeError:
        print("the time is up; the same command goes on from here", file=sys.stderr)
        finish(run)
        return NOT_FINISHED
    except ContextLostError:
        start_again(list(sys.argv), run.seconds_left())
    return finish(run)


def measure(run: Any) -> None:
    """Every part, what matters most first: what takes the compiler minutes comes last."""
    from benchmarks.gpu.measure import (
        measure_bundles,
        measure_ceilings,
        measure_compiled,
        measure_kernels,
        measure_model,
    )

    if not run.ceilings:
        measure_ceilings(run)
        run.save()
    if "models" in run.args.part:
        for arch in run.args.arch:
            measure_model(run, arch)
    if "kernels" in run.args.part:
        measure_kernels(run)
    if "bundles" in run.args.part:
        measure_bundles(run)
    if "compiled" in run.args.part:
        for arch in run.args.arch:
            measure_compiled(run, arch)


def device_environment(device: Any) -> dict[str, Any]:
    """The machine, with its GPU, driver and CUDA."""
    import torch

    from scclip_rt.bench.environment import environment

    told = dict(environment())
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        told["gpu"] = {
            "name": properties.name,
            "compute_capability": f"{properties.major}.{properties.minor}",
            "memory_bytes": properties.total_memory,
            "multiprocessors": properties.multi_processor_count,
            "cuda": torch.version.cuda,
            "nvidia_smi": _nvidia_smi(),
        }
    return told


def _nvidia_smi() -> str | None:
    """Driver, clocks and power limit, as nvidia-smi tells them."""
    fields = "driver_version,clocks.max.sm,clocks.sm,power.limit,temperature.gpu,utilization.gpu"
    command = ["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None


def finish(run: Any) -> int:
    """Write what was found and print it."""
    from benchmarks.gpu.kernels import choice_table
    from benchmarks.gpu.report import tables

    run.save()
    kernels = [row for row in run.rows if row["question"] == "kernel" and "error" in row]
    path = run.path.with_name(run.path.name.replace("gpu-", "gpu-kernels-", 1))
    document = choice_table(kernels, run.environment)
    path.write_text(json.dumps(document, indent=1, default=str) + "\n", "utf-8")
    print(f"wrote {run.path} and {path}", file=sys.stderr)
    print(tables(run.report()))
    for failure in run.failures:
        print(f"FAILED: {failure}", file=sys.stderr)
    return 1 if run.failures else 0


if __name__ == "__main__":
    sys.exit(main())
