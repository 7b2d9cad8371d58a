#!/usr/bin/env bash
# openvino 2026.4.1, CPU, asked for f32: a Cast to float16 and back is left out of a graph, so that values that ought to be
# rounded, to become 0 or infinity, are kept; bfloat16 and back is computed. And a Cast to float8 (e4m3) with saturate=1,
# ONNX's default, gives NaN above 464 where the largest value, 448, is asked for; QuantizeLinear to the same type saturates.
# So a graph that imitates another precision, to see what it costs, shows float16 for free and float8 for broken.
# onnxruntime 1.32.0 and onnx 1.23.2's reference evaluator compute both.
# Seen, float16: 0.1 stays 0.1 (0.099976), 70000 stays 70000 (inf), 1e-9 stays (0). float8: 500 becomes NaN (448).
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
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

x = np.array([0.1, 1e-9, 300, 500, 70000], np.float32)


def results(nodes: list[onnx.NodeProto], constants: tuple[onnx.TensorProto, ...] = ()) -> tuple[np.ndarray, np.ndarray]:
    graph = helper.make_graph(
        nodes,
        "narrow",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [5])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [5])],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, "model.onnx")
    wanted = onnxruntime.InferenceSession("model.onnx").run(None, {"x": x})[0]
    assert np.array_equal(ReferenceEvaluator(model).run(None, {"x": x})[0], wanted)
    compiled = openvino.Core().compile_model("model.onnx", "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return wanted, compiled(x)[0].copy()


def there_and_back(kind: int) -> list[onnx.NodeProto]:
    return [
        helper.make_node("Cast", ["x"], ["q"], to=kind),
        helper.make_node("Cast", ["q"], ["y"], to=TensorProto.FLOAT),
    ]


e4m3 = TensorProto.FLOAT8E4M3FN
quantised = [
    helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
    helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"]),
]
scale = (helper.make_tensor("s", TensorProto.FLOAT, [], [1.0]), helper.make_tensor("z", e4m3, [], [0.0]))
found = {
    "float16": results(there_and_back(TensorProto.FLOAT16)),
    "bfloat16": results(there_and_back(TensorProto.BFLOAT16)),
    "float8": results(there_and_back(e4m3)),
    "float8, QuantizeLinear": results(quantised, scale),
}
for name, (wanted, openvinos) in found.items():
    print(f"{name}: OpenVINO {openvinos.tolist()}, the others {wanted.tolist()}")
for name in ("bfloat16", "float8, QuantizeLinear"):
    assert np.array_equal(*found[name]), name
if not np.array_equal(found["float16"][1], x):
    raise SystemExit("OpenVINO casts to float16 and back now")
if np.isnan(found["float8"][1]).tolist() != [False, False, False, True, True]:
    raise SystemExit("OpenVINO saturates float8 now")
assert found["float8"][0][3] == 448
PYTHON
