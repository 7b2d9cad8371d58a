#!/usr/bin/env bash
# openvino 2026.4.1, CPU: ONNX says of TopK that of equal values the one with the lower index comes first. OpenVINO keeps
# that rule for few values only. With more, equal values come in another order, and which of them are taken can differ too.
# It matters where scores tie: patches of an even area, or clipped, rounded and quantised scores.
# Seen, 64 equal values, the 8 largest: OpenVINO 1 2 3 4 5 6 7 0; onnxruntime 1.32.0 0 … 7. Of 50 vectors of 100 numbers from
# 0 to 5, the 20 largest: another order in all, other indices in 35. The values are always right.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check onnx==1.23.2 onnxruntime==1.32.0 openvino==2026.4.1 numpy==2.4.6
cd "$folder"
venv/bin/python - <<'PYTHON'
import numpy as np
import onnx
import onnxruntime
import openvino
from onnx import TensorProto, helper, numpy_helper


def indices(x: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    graph = helper.make_graph(
        [helper.make_node("TopK", ["x", "k"], ["values", "indices"], axis=1)],
        "top",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, list(x.shape))],
        [
            helper.make_tensor_value_info("values", TensorProto.FLOAT, [len(x), k]),
            helper.make_tensor_value_info("indices", TensorProto.INT64, [len(x), k]),
        ],
        [numpy_helper.from_array(np.array([k], np.int64), "k")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, "top.onnx")
    reference = onnxruntime.InferenceSession("top.onnx").run(None, {"x": x})
    compiled = openvino.Core().compile_model("top.onnx", "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    found = compiled(x)
    assert np.array_equal(found[0], reference[0]), "the values differ"
    stable = np.argsort(-x, axis=1, kind="stable")[:, :k]
    assert np.array_equal(reference[1], stable), "onnxruntime does not keep the rule"
    return found[1], stable


found, stable = indices(np.zeros((1, 64), np.float32), 8)
print("64 equal values: OpenVINO", found[0].tolist(), "the rule", stable[0].tolist())
found, stable = indices(np.random.default_rng(0).integers(0, 6, (50, 100)).astype(np.float32), 20)
orders = sum(not np.array_equal(a, b) for a, b in zip(found, stable, strict=True))
sets = sum(set(a) != set(b) for a, b in zip(found, stable, strict=True))
print(f"50 vectors of 100: another order in {orders}, other indices in {sets}")
if not orders:
    raise SystemExit("OpenVINO keeps ONNX's order of equal values now")
PYTHON
