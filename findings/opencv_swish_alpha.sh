#!/usr/bin/env bash
# opencv-python-headless 5.0.0.93 and tract 0.23.9: ONNX's Swish (opset 24) is x · sigmoid(alpha · x). Both read the operator
# and pass over alpha, without a word: with 1.702, which is CLIP's QuickGELU, they compute SiLU. OpenCV passes over Gelu's
# approximate="tanh" (opset 20, SigLIP's activation) in the same way. onnxruntime 1.32.0 reads all three.
# Seen, Swish of 1.0 with alpha 1.702: onnxruntime 0.8458; OpenCV and tract 0.7311, as with alpha 1.
# Written out as Mul, Sigmoid and Mul, both are right.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check onnx==1.23.2 onnxruntime==1.32.0 \
    opencv-python-headless==5.0.0.93 tract==0.23.9 numpy==2.4.6
cd "$folder"
venv/bin/python - <<'PYTHON'
import cv2
import numpy as np
import onnx
import onnxruntime
import tract
from onnx import TensorProto, helper, numpy_helper

x = np.array([[-3, -1, -0.5, 0.5, 1, 3]], np.float32)


def results(nodes: list[onnx.NodeProto], opset: int, ir: int) -> dict[str, np.ndarray]:
    graph = helper.make_graph(
        nodes,
        "activation",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 6])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 6])],
        [numpy_helper.from_array(np.array(1.702, np.float32), "factor")] if len(nodes) > 1 else [],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, "model.onnx")
    network = cv2.dnn.readNetFromONNX("model.onnx")
    network.setInput(x)
    return {
        "onnxruntime": onnxruntime.InferenceSession("model.onnx").run(None, {"x": x})[0],
        "opencv": network.forward(),
        "tract": tract.onnx().load("model.onnx").into_model().into_runnable().run([x])[0].to_numpy(),
    }


quick, silu = (x / (1 + np.exp(-alpha * x)) for alpha in (1.702, 1.0))
single = results([helper.make_node("Swish", ["x"], ["y"], alpha=1.702)], 24, 11)
for name, value in single.items():
    print(f"Swish, alpha 1.702, {name}:", value[0].astype(float).round(4).tolist())
assert np.allclose(single["onnxruntime"], quick, atol=1e-5)
assert np.allclose(single["opencv"], silu, atol=1e-5), "OpenCV reads Swish's alpha now"
assert np.allclose(single["tract"], silu, atol=1e-5), "tract reads Swish's alpha now"

steps = [("Mul", ["x", "factor"], "scaled"), ("Sigmoid", ["scaled"], "share"), ("Mul", ["x", "share"], "y")]
written_out = results([helper.make_node(kind, inputs, [output]) for kind, inputs, output in steps], 17, 8)
assert all(np.allclose(value, quick, atol=1e-5) for value in written_out.values())

gelu = {
    form: results([helper.make_node("Gelu", ["x"], ["y"], approximate=form)], 20, 9) for form in ("none", "tanh")
}
apart = {name: float(np.abs(gelu["tanh"][name] - gelu["none"][name]).max()) for name in ("onnxruntime", "opencv")}
print("Gelu, largest difference of tanh to none:", apart)
assert apart["onnxruntime"] > 1e-4
assert apart["opencv"] < 1e-6, "OpenCV reads Gelu's approximate now"
PYTHON
