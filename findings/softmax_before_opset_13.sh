#!/usr/bin/env bash
# onnx 1.23.2's reference evaluator, openvino 2026.4.1 and opencv-python-headless 5.0.0.93: until opset 13 ONNX's Softmax makes a
# matrix of its input, all axes from `axis` on as one. The three compute a softmax along that axis alone, which is the rule
# since opset 13, without a word; OpenVINO does so at opset 11 and 12, and keeps the old rule at 9. Over the classes of a map
# (batch, classes, height, width) the two rules give other numbers. onnxruntime 1.32.0 and tract 0.23.9 keep the old rule for
# old models, and so does onnx's own version converter. Along the last axis both rules agree.
# Seen, (1, 3, 2, 4), axis 1, opset 11: the values add up to 1 in onnxruntime, tract and after conversion to opset 13; to 8, 1 a
# pixel, in the reference evaluator, OpenVINO and OpenCV. OpenVINO at opset 9: 1.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check onnx==1.23.2 onnxruntime==1.32.0 openvino==2026.4.1 \
    opencv-python-headless==5.0.0.93 tract==0.23.9 numpy==2.4.6
cd "$folder"
venv/bin/python - <<'PYTHON'
import cv2
import numpy as np
import onnx
import onnxruntime
import openvino
import tract
from onnx import TensorProto, helper, version_converter
from onnx.reference import ReferenceEvaluator

logits = np.random.default_rng(0).standard_normal((1, 3, 2, 4)).astype(np.float32)
powers = np.exp(logits.astype(np.float64))
old, new = powers / powers.sum(), powers / powers.sum(axis=1, keepdims=True)


def results(opset: int, axis: int) -> dict[str, np.ndarray]:
    graph = helper.make_graph(
        [helper.make_node("Softmax", ["x"], ["y"], axis=axis)],
        "softmax",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 2, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 3, 2, 4])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=7)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, "model.onnx")
    converted = version_converter.convert_version(model, 13).SerializeToString()
    network = cv2.dnn.readNetFromONNX("model.onnx")
    network.setInput(logits)
    compiled = openvino.Core().compile_model("model.onnx", "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return {
        "onnxruntime": onnxruntime.InferenceSession("model.onnx").run(None, {"x": logits})[0],
        "onnx, converted to 13": onnxruntime.InferenceSession(converted).run(None, {"x": logits})[0],
        "tract": tract.onnx().load("model.onnx").into_model().into_runnable().run([logits])[0].to_numpy(),
        "onnx, reference": ReferenceEvaluator(model).run(None, {"x": logits})[0],
        "openvino": compiled(logits)[0],
        "opencv": network.forward(),
    }


last = results(11, 3)
assert all(np.allclose(value, last["onnxruntime"], atol=1e-5) for value in last.values())
classes = results(11, 1)
for name, value in classes.items():
    print(f"{name}: the values add up to {float(value.sum()):.3f}")
for name in ("onnxruntime", "onnx, converted to 13", "tract"):
    assert np.allclose(classes[name], old, atol=1e-5), name
for name in ("onnx, reference", "openvino", "opencv"):
    if not np.allclose(classes[name], new, atol=1e-5):
        raise SystemExit(f"{name} keeps the rule of opset 11 now")
assert np.allclose(results(9, 1)["openvino"], old, atol=1e-5), "OpenVINO reads opset 9 otherwise now"
PYTHON
