#!/usr/bin/env bash
# onnx 1.23.2, onnxruntime 1.32.0: a model whose weights lie in a file of their own can't be read by onnx once that file has a second name (a hard link).
# It matters where files are linked instead of copied: uv installs from its cache that way on Linux (its documented default), so do several model stores.
# Seen: `onnx.load` and `onnx.checker.check_model` raise ValidationError "... has multiple hard links, indicating a potential hardlink attack"; onnxruntime opens the same model.
# Exits non-zero once onnx reads such a model, or onnxruntime does not.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check onnx==1.23.2 onnxruntime==1.32.0
cd "$folder"
"$folder/venv/bin/python" - <<'PY'
import os

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

weights = numpy_helper.from_array(np.ones((64, 64), np.float32), "w")
graph = helper.make_graph(
    [helper.make_node("MatMul", ["x", "w"], ["y"])],
    "g",
    [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 64])],
    [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 64])],
    [weights],
)
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
onnx.save(model, "model.onnx", save_as_external_data=True, location="model.onnx.data", size_threshold=0)
onnx.load("model.onnx")
print("one name: onnx reads it")
os.link("model.onnx.data", "second")
try:
    onnx.load("model.onnx")
except onnx.checker.ValidationError as error:
    assert "hard links" in str(error), error
    print("two names: onnx:", str(error).split(", but ")[1])
else:
    raise SystemExit("onnx reads it now")
outputs = onnxruntime.InferenceSession("model.onnx").run(None, {"x": np.ones((1, 64), np.float32)})
assert outputs[0][0, 0] == 64
print("two names: onnxruntime reads it")
PY
