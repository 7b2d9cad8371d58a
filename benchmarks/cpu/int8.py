"""Which int8: methods compared by accuracy on the demo model, also with outliers, and by speed on a full-size one.

    python -m benchmarks.cpu.int8 accuracy [--scenes 80] --json benchmarks/results/int8.json
    python -m benchmarks.cpu.int8 latency                --json benchmarks/results/int8-latency.json

Methods: the exporter's (scclip_export.quantize), ONNX Runtime's own `quantize_static`, NNCF on OpenVINO (if it is
installed), a scale per token computed at run time, and ONNX Runtime's `quantize_dynamic`, whose one scale per batch
breaks "a batch equals its singles": for comparison only. The same calibration windows and products for all.
Full-size files are kept in the work folder, so that a second `latency` only times. Rows are written as they come.
"""

import argparse
import re
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.cpu.int8_rivals import RIVALS
from benchmarks.cpu.outliers import with_outliers
from benchmarks.harness import Row, parser, ratios, take_turns, write_report
from benchmarks.models import add_model_options
from benchmarks.models import bundle as exported
from scclip_export.model.geometry import Geometry
from scclip_export.quantize import METHODS, Int8Options, calibration_windows, make_plan, write_int8
from scclip_rt import Segmenter
from scclip_rt.backends.onnxruntime.session import load_onnxruntime
from scclip_rt.cpus import default_threads
from scclip_rt.demo.scenes import CLASSES, Scene, test_scene
from scclip_rt.encoded import Encoded
from scclip_rt.evaluation.metrics import ConfusionMatrix

MODELS = ("demo", "channels", "massive")
FORMS = ("tuned", "ORT static, minmax", "per token", "ORT dynamic (per batch)", "NNCF (OpenVINO)")
"""Methods whose graphs differ: the rules for ranges make the same graph as `tuned`, so they are as fast."""
Encoder = Callable[[NDArray[np.uint8]], NDArray[np.float32]]


def on_onnxruntime(path: Path) -> Encoder:
    """An encoder's file on ONNX Runtime: windows to features."""
    ort = load_onnxruntime()
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = default_threads()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    text = np.eye(1, session.get_inputs()[1].shape[1], dtype=np.float32)

    def encode(windows: NDArray[np.uint8]) -> NDArray[np.float32]:
        out: NDArray[np.float32] = session.run(["features"], {"windows": windows, "text": text})[0]
        return out

    return encode


def on_openvino(path: Path) -> Encoder:
    """An encoder's file, ONNX or OpenVINO's own, on OpenVINO."""
    import openvino

    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": default_threads()}
    compiled = openvino.compile_model(str(path), "CPU", settings)
    text = np.eye(1, compiled.input("text").partial_shape[1].get_length(), dtype=np.float32)
    return lambda windows: np.array(compiled([windows, text])["features"])


RUNTIMES: Mapping[str, Callable[[Path], Encoder]] = {"onnxruntime": on_onnxruntime, "openvino": on_openvino}


def make(method: str, source: Path, windows: NDArray[np.uint8], folder: Path) -> tuple[Path, dict[str, Any]]:
    """Quantise by one method; return the file, and what there is to say of it."""
    started = time.perf_counter()
    if method in RIVALS:
        path = RIVALS[method].write(source, windows, folder)
        return path, {"seconds_to_quantise": round(time.perf_counter() - started, 1)}
    path, name = folder / "encoder.int8.onnx", method.removesuffix(", all int8")
    limit = 0.05 if name == method else float("inf")
    options = Int8Options(method=name, error_limit=limit)  # type: ignore[arg-type]
    plan = make_plan(source, windows, options, images="demo scenes", progress=lambda _: None)
    write_int8(source, plan, path)
    seconds = round(time.perf_counter() - started, 1)
    return path, {"seconds_to_quantise": seconds, "float_layers": list(plan.float_layers)}


def evaluate(
    encode: Encoder, segmenter: Segmenter, scenes: Sequence[Scene]
) -> tuple[float, NDArray[Any], NDArray[np.float32]]:
    """MIoU in percent, labels (scenes, H, W) and features (windows of all scenes, N, E) of an encoder."""
    matrix, labels, features = ConfusionMatrix(len(CLASSES)), [], []
    for scene in scenes:
        prepared = segmenter.preparation(scene.image)
        features.append(encode(prepared.windows))
        labels.append(segmenter.decode(Encoded.of(prepared, features[-1])).labels)
        matrix.update(scene.mask, labels[-1])
    return matrix.scores().miou, np.stack(labels), np.concatenate(features)


def runtimes_of(method: str) -> list[str]:
    """A rival's file is for its own library, the exporter's for both."""
    return [RIVALS[method].runtime] if method in RIVALS else list(RUNTIMES)


def accuracy(args: argparse.Namespace) -> Iterator[Row]:
    """Every method on every model, against the same model in float32."""
    demo = exported("demo", args.work)
    segmenter, original = Segmenter(demo), demo / "encoder.fp32.onnx"
    scenes = [test_scene(index) for index in range(args.scenes)]
    windows, _ = calibration_windows(None, Geometry(window=224, stride=112), count=args.windows)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for model in args.models:
            source = original
            if model != "demo":
                source = folder / f"{model}.onnx"
                with_outliers(original, source, model)
            exact = evaluate(on_onnxruntime(source), segmenter, scenes)
            for method in args.methods:
                path, facts = make(method, source, windows, folder)
                for runtime in runtimes_of(method) if method == args.methods[0] else runtimes_of(method)[:1]:
                    row = _row(model, method, exact, evaluate(RUNTIMES[runtime](path), segmenter, scenes))
                    yield row | facts | {"scenes": args.scenes, "windows": args.windows, "runtime": runtime}


def _row(model: str, method: str, exact: tuple[Any, ...], got: tuple[Any, ...]) -> Row:
    cosines = (exact[2] * got[2]).sum(axis=-1)
    return {
        "model": model,
        "method": method,
        "miou_fp32": round(exact[0], 2),
        "miou": round(got[0], 2),
        "agreement": float((exact[1] == got[1]).mean()),
        "features_moved": float(np.sqrt(np.square(exact[2] - got[2]).sum(axis=-1).mean())),
        "cosine_mean": float(cosines.mean()),
        "cosine_first_percentile": float(np.percentile(cosines, 1)),
    }


def latency(args: argparse.Namespace) -> Iterator[Row]:
    """Six windows of a full-size model through every form, in turn."""
    source = exported(args.model, args.work) / "encoder.fp32.onnx"
    windows, _ = calibration_windows(None, Geometry(window=224, stride=112), count=8)
    encoders: dict[tuple[str, str], Encoder] = {}
    for method in ("fp32", *args.methods):
        path = source if method == "fp32" else kept(method, source, windows, args.work / f"int8-{args.model}")
        for runtime in runtimes_of(method):
            encoders[method, runtime] = RUNTIMES[runtime](path)
        print(f"{method}: ready", file=sys.stderr, flush=True)
    work = {key: partial(encode, windows[:6]) for key, encode in encoders.items()}
    seconds = take_turns(work, args.iterations, warmup=1)
    first = seconds["fp32", "onnxruntime"]
    for (method, runtime), values in seconds.items():
        yield {
            "model": args.model,
            "method": method,
            "runtime": runtime,
            "windows": 6,
            "median_seconds": statistics.median(values),
            "seconds": [round(value, 4) for value in values],
            "faster_than_fp32_onnxruntime": statistics.median(ratios(first, values)),
        }


def kept(method: str, source: Path, windows: NDArray[np.uint8], folder: Path) -> Path:
    """The full-size file of a method, made if it is not in its folder or older than `source`."""
    place = folder / re.sub(r"\W+", "-", method).strip("-")
    found = [path for path in place.glob("*") if path.suffix in (".onnx", ".xml")]
    if found and found[0].stat().st_mtime > source.stat().st_mtime:
        return found[0]
    shutil.rmtree(place, ignore_errors=True)
    unfinished = place.with_suffix(".part")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    path, _ = make(method, source, windows, unfinished)
    return unfinished.rename(place) / path.name


def main() -> None:
    """Parse, measure, print, write."""
    options = parser(__doc__)
    options.add_argument("figure", choices=("accuracy", "latency"))
    add_model_options(options)
    options.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS), help="of `accuracy`")
    known = ", ".join([*METHODS, "tuned, all int8", *RIVALS])
    options.add_argument("--methods", nargs="+", help=f"any of {known} (accuracy: all; latency: each form)")
    options.add_argument("--scenes", type=int, default=80, help="held-out scenes (80)")
    options.add_argument("--windows", type=int, default=48, help="calibration windows (48)")
    options.add_argument("--iterations", type=int, default=7, help="timed rounds (7)")
    args = options.parse_args()
    if args.methods is None:
        args.methods = [*METHODS, *RIVALS] if args.figure == "accuracy" else list(FORMS)
    rows = []
    for row in accuracy(args) if args.figure == "accuracy" else latency(args):
        print(row, flush=True)
        rows.append(row)
        write_report(args.json, f"int8 methods: {args.figure}", rows=rows)


if __name__ == "__main__":
    main()
