"""Which float8: how far each layer's output moves by every way of scaling, on the demo model, also with outliers.

    python -m benchmarks.cpu.fp8 [--windows 16] --json benchmarks/results/fp8.json

Figures are relative errors of a layer's output on calibration tokens (`scclip_export.quantize.tune.output_error`), the
mean over the layers and the worst. `shipped` is the exporter's: the largest value seen, one scale for the input and one
for all weights that share it, powers of two. What the whole file loses is measured by `benchmarks/cpu/precision.py`.
"""

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from benchmarks.cpu.outliers import with_outliers
from benchmarks.harness import parser, write_report
from benchmarks.models import ROOT
from scclip_export.model.geometry import Geometry
from scclip_export.quantize import calibration_windows
from scclip_export.quantize.fp8 import E4M3_MAX, HEADROOM, power_of_two_scale, rounded, to_e4m3
from scclip_export.quantize.layers import find_layers, joint_weight
from scclip_export.quantize.observe import Observed, observe
from scclip_export.quantize.tune import output_error, rescaled, smoothing

DEMO = ROOT / "scclip_rt/demo.scclip/encoder.fp32.onnx"
Array = NDArray[np.float32]
# Inputs (S, K) and weight (K, N) to what float8 makes of their product.
Method = Callable[[Observed, Array], Array]


def _largest(observed: Observed) -> float:
    return float(np.maximum(-observed.low, observed.high).max())


def _shipped(observed: Observed, weight: Array) -> Array:
    x = rounded(observed.rows, power_of_two_scale(HEADROOM * _largest(observed)))
    return x @ rounded(weight, power_of_two_scale(float(np.abs(weight).max())))


def _exact_scales(observed: Observed, weight: Array) -> Array:
    x = rounded(observed.rows, _largest(observed) / E4M3_MAX)
    return x @ rounded(weight, float(np.abs(weight).max()) / E4M3_MAX)


def _percentile(observed: Observed, weight: Array) -> Array:
    x = rounded(observed.rows, float(np.percentile(np.abs(observed.rows), 99.99)) / E4M3_MAX)
    return x @ rounded(weight, float(np.abs(weight).max()) / E4M3_MAX)


def _per_channel(observed: Observed, weight: Array) -> Array:
    scale = np.maximum(np.abs(weight).max(axis=0), 1e-12) / np.float32(E4M3_MAX)
    narrow = to_e4m3(weight / scale, 1.0).astype(np.float32) * scale
    return rounded(observed.rows, _largest(observed) / E4M3_MAX) @ narrow


def _rescaled(observed: Observed, weight: Array) -> Array:
    factors = smoothing(observed, weight, 0.5)
    return _exact_scales(rescaled(observed, factors), weight * factors[:, None])


def _weights_alone(observed: Observed, weight: Array) -> Array:
    return observed.rows @ rounded(weight, power_of_two_scale(float(np.abs(weight).max())))


METHODS: dict[str, Method] = {
    "shipped": _shipped,
    "scales that are no powers of two": _exact_scales,
    "the input's 99.99th percentile": _percentile,
    "a scale per output channel": _per_channel,
    "channels rescaled (SmoothQuant, 0.5)": _rescaled,
    "weights alone": _weights_alone,
}


def measure(count: int) -> Iterator[dict[str, Any]]:
    """One row per model and method."""
    windows, _ = calibration_windows(None, Geometry(window=224, stride=112), count=count)
    with tempfile.TemporaryDirectory() as folder:
        for model in ("demo", "channels", "massive"):
            source = DEMO
            if model != "demo":
                source = Path(folder) / f"{model}.onnx"
                with_outliers(DEMO, source, model)
            graph = onnx.load(str(source))
            arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.graph.initializer}
            layers = find_layers(graph)
            seen = observe(source, layers, windows)
            for name, method in METHODS.items():
                errors = []
                for layer in layers:
                    weight = joint_weight(layer, arrays)
                    exact = seen[layer.name].rows @ weight
                    errors.append(output_error(exact, method(seen[layer.name], weight)))
                yield {
                    "model": model,
                    "method": name,
                    "error_mean": float(np.mean(errors)),
                    "error_worst": max(errors),
                    "layers": len(errors),
                    "windows": count,
                }


def main() -> None:
    """Parse, measure, print, write."""
    options = parser(__doc__)
    options.add_argument("--windows", type=int, default=16, help="calibration windows (16)")
    args = options.parse_args()
    rows = []
    for row in measure(args.windows):
        errors = f"{row['error_mean']:.2%}  {row['error_worst']:.2%}"
        print(f"{row['model']:<9} {row['method']:<38} {errors}", flush=True)
        rows.append(row)
    write_report(args.json, "float8: the error of a layer's output by way of scaling", rows=rows)


if __name__ == "__main__":
    main()
