"""Where an encoder's time goes: its operators, by type, as the library's own profiler tells.

    python -m benchmarks.cpu.profile_ops BUNDLE [--precision int8] [--backend onnxruntime|openvino] [--json FILE]

One image of six windows (or `--batch` of them) goes through the graph; the share of matrix products is what the GEMM
limit of `scclip bench` can explain, the rest is what a leaner graph could save.
"""

import json
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.harness import parser, write_report
from benchmarks.tables.summary import profile_table
from scclip_rt.backends.onnxruntime.session import load_onnxruntime
from scclip_rt.bench.case import Workload
from scclip_rt.bench.inputs import bench_image
from scclip_rt.bundle.bundle import Bundle
from scclip_rt.bundle.manifest import EncoderSpec
from scclip_rt.cpus import default_threads
from scclip_rt.errors import ScclipError

WARM_UP = 2
Operators = dict[str, tuple[float, int]]
"""Operator → milliseconds and calls of one run."""


def windows(bundle: Bundle, batch: int) -> NDArray[np.uint8]:
    """Windows of the packaged scene, (batch, window, window, 3)."""
    side = bundle.preprocessing.window
    image = bench_image(Workload(image_size=(side + 4 * batch, side + 4 * batch)))
    return np.stack([image[4 * i : 4 * i + side, 4 * i : 4 * i + side] for i in range(batch)])


def by_type(events: Iterable[tuple[str, float]], runs: int) -> Operators:
    """Add up (operator, milliseconds) of several runs, per run, the costliest first."""
    total: dict[str, float] = defaultdict(float)
    calls: dict[str, int] = defaultdict(int)
    for name, milliseconds in events:
        total[name] += milliseconds
        calls[name] += 1
    return {
        name: (total[name] / runs, calls[name] // runs) for name in sorted(total, key=lambda n: -total[n])
    }


def onnxruntime_events(log: list[dict[str, Any]], skip: int) -> list[tuple[str, float]]:
    """(operator, milliseconds) of every kernel after the first `skip` runs, from ONNX Runtime's profile."""
    starts = sorted(event["ts"] for event in log if event["name"] == "model_run")
    kernels = (e for e in log if e.get("cat") == "Node" and e["name"].endswith("_kernel_time"))
    return [(e["args"]["op_name"], e["dur"] / 1000) for e in kernels if e["ts"] >= starts[skip]]


def profile_onnxruntime(path: Path, feeds: dict[str, Any], threads: int, runs: int) -> Operators:
    """Run on ONNX Runtime's CPU provider."""
    onnxruntime = load_onnxruntime()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.enable_profiling = True
    options.log_severity_level = 3
    with tempfile.TemporaryDirectory() as folder:
        options.profile_file_prefix = f"{folder}/profile"
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        for _ in range(WARM_UP + runs):
            session.run(["features"], feeds)
        log = json.loads(Path(session.end_profiling()).read_text("utf-8"))
    return by_type(onnxruntime_events(log, WARM_UP), runs)


def profile_openvino(path: Path, feeds: dict[str, Any], threads: int, runs: int, hint: str) -> Operators:
    """Run on OpenVINO's CPU plug-in; `hint` is its inference precision."""
    from scclip_rt.backends.openvino.encoder import load_openvino

    config = {
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        "INFERENCE_PRECISION_HINT": hint,
        "PERF_COUNT": True,
    }
    infer = load_openvino().Core().compile_model(str(path), "CPU", config).create_infer_request()
    events = []
    for run in range(WARM_UP + runs):
        infer.infer(feeds)
        if run >= WARM_UP:
            events += [
                (f"{info.node_type} {info.exec_type}", info.real_time.total_seconds() * 1000)
                for info in infer.profiling_info
                if info.real_time.total_seconds() > 0
            ]
    return by_type(events, runs)


def window_encoder(bundle: Bundle, precision: str) -> EncoderSpec:
    """The window encoder in a precision; bf16 is the fp32 file."""
    wanted = "fp32" if precision == "bf16" else precision
    for spec in bundle.encoders_for("window"):
        if spec.precision == wanted:
            return spec
    sys.exit(f"error: {bundle.path} has no window encoder in {wanted}")


def main() -> None:
    """Parse, profile, print, write."""
    options = parser(__doc__)
    options.add_argument("bundle")
    options.add_argument("--precision", default="fp32", choices=("fp32", "bf16", "int8"), help="(fp32)")
    options.add_argument("--backend", default="onnxruntime", choices=("onnxruntime", "openvino"))
    options.add_argument("--batch", type=int, default=6, help="windows at once (6)")
    options.add_argument("--threads", type=int, default=default_threads(), help="(%(default)s)")
    options.add_argument("--iterations", type=int, default=5, help="runs (5)")
    args = options.parse_args()
    try:
        bundle = Bundle.open(args.bundle)
        path = bundle.checked_graph(window_encoder(bundle, args.precision).file)
    except ScclipError as error:
        sys.exit(f"error: {error}")
    text = np.eye(1, bundle.model.embed_dim, dtype=np.float32)
    feeds = {"windows": windows(bundle, args.batch), "text": text}
    if args.backend == "onnxruntime":
        if args.precision == "bf16":
            sys.exit("error: ONNX Runtime has no bf16 products on CPUs; use --backend openvino")
        operators = profile_onnxruntime(path, feeds, args.threads, args.iterations)
    else:
        hint = "bf16" if args.precision == "bf16" else "f32"
        operators = profile_openvino(path, feeds, args.threads, args.iterations, hint)
    rows = [{"operator": name, "milliseconds": ms, "calls": n} for name, (ms, n) in operators.items()]
    setup = {"bundle": bundle.name, "backend": args.backend, "precision": args.precision, "batch": args.batch}
    print(profile_table(rows))
    write_report(args.json, "time by operator", **setup, rows=rows)


if __name__ == "__main__":
    main()
