"""A batch of windows in one run on all threads, against a part for each thread at the same time.

    python -m benchmarks.cpu.parts --model vitb16 demo --json benchmarks/results/parts.json

Both sides are the same session and take turns; features must be equal to the bit.
"""

import statistics
import sys
from functools import partial

import numpy as np

from benchmarks.harness import Row, parser, ratios, spread, take_turns, write_report
from benchmarks.models import FULL_SIZE, bundle, work_folder
from scclip_rt.backends import open_backend
from scclip_rt.backends.host_encoder import BatchedEncoder
from scclip_rt.bundle.bundle import Bundle
from scclip_rt.cpus import default_threads


def compare(model: str, precision: str, windows: int, rounds: int) -> Row:
    """One encoder with so many windows."""
    backend = open_backend(
        Bundle.open(bundle(model, work_folder())), backend="onnxruntime", precision=precision
    )
    if not isinstance(backend, BatchedEncoder):
        sys.exit(f"{model}: {type(backend).__name__} cuts no batches")
    encoder = backend
    pixels = np.random.default_rng(0).integers(0, 256, (windows, 224, 224, 3), dtype=np.uint8)
    found = {}

    def run(parts: int) -> None:
        encoder.parts = parts
        found[parts] = encoder.features(pixels)

    threads = default_threads()
    seconds = take_turns({parts: partial(run, parts) for parts in (1, threads)}, rounds, warmup=1)
    if not np.array_equal(found[1], found[threads]):
        sys.exit(f"{model} {precision}: parts give other features")
    gain = ratios(seconds[1], seconds[threads])
    print(f"{model} {precision}, {windows} windows, {threads} threads: {spread(gain)} as fast in parts")
    return {
        "model": model,
        "precision": precision,
        "windows": windows,
        "threads": threads,
        "one_run_ms": 1000 * statistics.median(seconds[1]),
        "parts_ms": 1000 * statistics.median(seconds[threads]),
        "ratios": gain,
    }


def main() -> None:
    """Measure, print, write."""
    options = parser(__doc__)
    options.add_argument("--model", nargs="+", default=["vitb16", "demo"], choices=(*FULL_SIZE, "demo"))
    options.add_argument("--windows", type=int, nargs="+", default=[2, 6, 8])
    options.add_argument("--rounds", type=int, default=9)
    args = options.parse_args()
    rows = [
        compare(model, precision, windows, args.rounds)
        for model in args.model
        for precision in ("fp32", "int8")
        for windows in args.windows
    ]
    write_report(args.json, "a batch in one run, or in a part for each thread", rows=rows)


if __name__ == "__main__":
    main()
