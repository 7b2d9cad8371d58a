#!/usr/bin/env bash
# onnx-graphsurgeon 0.6.1 and onnx 1.23.2's onnx.utils.extract_model: a model's metadata_props are left out of what they
# write, without a word. There tools keep what a model's channels mean: class names, mean, threshold (ultralytics, QGIS's
# Deepness). onnxslim 0.1.98, onnxsim 0.8.1, onnxscript 0.7.2's optimizer and onnx's version converter keep them.
# Seen: imported and exported unchanged by onnx-graphsurgeon, and extracted whole by onnx: no property is left.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check onnx-graphsurgeon==0.6.1 onnx==1.23.2 onnxslim==0.1.98 \
    onnxsim==0.8.1 onnxscript==0.7.2 numpy==2.4.6
cd "$folder"
venv/bin/python - <<'PYTHON'
import numpy as np
import onnx
import onnx.utils
import onnx.version_converter
import onnx_graphsurgeon
import onnxscript.optimizer
import onnxsim
import onnxslim
from onnx import TensorProto, helper, numpy_helper

graph = helper.make_graph(
    [helper.make_node("MatMul", ["x", "w"], ["scores"]), helper.make_node("Softmax", ["scores"], ["shares"], axis=1)],
    "classes",
    [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4])],
    [helper.make_tensor_value_info("shares", TensorProto.FLOAT, ["batch", 2])],
    [numpy_helper.from_array(np.ones((4, 2), np.float32), "w")],
)
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
helper.set_model_props(model, {"class_names": '{"0": "roof", "1": "road"}'})
onnx.save(model, "model.onnx")
onnx.utils.extract_model("model.onnx", "extracted.onnx", ["x"], ["shares"])
written = {
    "onnx-graphsurgeon": onnx_graphsurgeon.export_onnx(onnx_graphsurgeon.import_onnx(model)),
    "onnx.utils.extract_model": onnx.load("extracted.onnx"),
    "onnxslim": onnxslim.slim("model.onnx"),
    "onnxsim": onnxsim.simplify(model)[0],
    "onnxscript": onnxscript.optimizer.optimize(model),
    "onnx's version converter": onnx.version_converter.convert_version(model, 20),
}
keeps = {name: "class_names" in {item.key for item in found.metadata_props} for name, found in written.items()}
for name, kept in keeps.items():
    print(f"{name}: class names {'kept' if kept else 'lost'}")
lost = [name for name, kept in keeps.items() if not kept]
assert lost == ["onnx-graphsurgeon", "onnx.utils.extract_model"], f"lost now by {lost}"
PYTHON
