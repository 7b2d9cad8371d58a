#!/usr/bin/env bash
# openvino 2026.4.1 and opencv-python-headless 5.0.0.93: both read ONNX's Resize (opset 18) and pass over antialias=1, without a
# word, so that a graph that makes its own picture smaller, as CLIP's preparation does, skips pixels instead of averaging
# them. onnxruntime 1.32.0 and tract 0.23.9 average.
# Seen, columns of 0 and 1 three pixels wide, 64 x 64 to 8 x 8, linear, the first row: onnxruntime and tract 0.41 0.5 0.48
# 0.52 0.5 0.48 0.52 0.53; OpenVINO and OpenCV 1 0.5 0 1 0.5 0 1 0.5, as without antialias. Cubic is alike.
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
from onnx import TensorProto, helper, numpy_helper


def smaller(image: np.ndarray, mode: str) -> dict[str, np.ndarray]:
    node = helper.make_node(
        "Resize",
        ["image", "", "", "sizes"],
        ["small"],
        mode=mode,
        antialias=1,
        coordinate_transformation_mode="half_pixel",
    )
    graph = helper.make_graph(
        [node],
        "smaller",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, list(image.shape))],
        [helper.make_tensor_value_info("small", TensorProto.FLOAT, [1, 1, 8, 8])],
        [numpy_helper.from_array(np.array([1, 1, 8, 8], np.int64), "sizes")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, "smaller.onnx")
    network = cv2.dnn.readNetFromONNX("smaller.onnx")
    network.setInput(image)
    compiled = openvino.Core().compile_model("smaller.onnx", "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return {
        "onnxruntime": onnxruntime.InferenceSession("smaller.onnx").run(None, {"image": image})[0],
        "openvino": compiled(image)[0],
        "opencv": network.forward(),
        "tract": tract.onnx().load("smaller.onnx").into_model().into_runnable().run([image])[0].to_numpy(),
    }


stripes = (np.arange(64) // 3 % 2).astype(np.float32).reshape(1, 1, 1, 64).repeat(64, axis=2)
for mode in ("linear", "cubic"):
    found = smaller(np.ascontiguousarray(stripes), mode)
    for name, value in found.items():
        print(f"{mode}, {name}:", value[0, 0, 0].astype(float).round(2).tolist())
    apart = {name: float(np.abs(value - found["onnxruntime"]).max()) for name, value in found.items()}
    assert apart["tract"] < 1e-4, apart
    for name in ("openvino", "opencv"):
        if apart[name] < 0.1:
            raise SystemExit(f"{name} reads antialias now")
PYTHON
