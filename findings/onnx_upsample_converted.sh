#!/usr/bin/env bash
# onnx 1.23.2, onnx.version_converter: an Upsample (opset 7 to 9), as old segmentation models end with, becomes a Resize at opset
# 11 and later without coordinate_transformation_mode. Its default there is half_pixel, and Upsample's rule is asymmetric: the
# whole linear map moves by up to half a pixel. The checker is content, and nothing is said. At opset 10 it is still the same.
# Seen, 0 1 2 3 to twice the width, linear, in onnxruntime 1.32.0: opset 9 and 10: 0 0.5 1 1.5 2 2.5 3 3; converted to 11 or
# later: 0 0.25 0.75 1.25 1.75 2.25 2.75 3. With coordinate_transformation_mode="asymmetric" put in by hand: as before.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check onnx==1.23.2 onnxruntime==1.32.0 numpy==2.4.6
cd "$folder"
venv/bin/python - <<'PYTHON'
import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper, version_converter

graph = helper.make_graph(
    [helper.make_node("Upsample", ["x", "scales"], ["y"], mode="linear")],
    "upsample",
    [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 1, 1, 4])],
    [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 1, 1, 8])],
    [numpy_helper.from_array(np.array([1, 1, 1, 2], np.float32), "scales")],
)
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 9)], ir_version=4)
onnx.checker.check_model(model, full_check=True)


def run(candidate: onnx.ModelProto) -> list[float]:
    session = onnxruntime.InferenceSession(candidate.SerializeToString())
    return session.run(None, {"x": np.arange(4, dtype=np.float32).reshape(1, 1, 1, 4)})[0].ravel().tolist()


old = run(model)
print("opset 9:", old)
assert old == [0, 0.5, 1, 1.5, 2, 2.5, 3, 3]
assert run(version_converter.convert_version(model, 10)) == old
for opset in (11, 13, 21):
    converted = version_converter.convert_version(model, opset)
    onnx.checker.check_model(converted, full_check=True)
    found = run(converted)
    print(f"converted to {opset}:", found)
    if found == old:
        raise SystemExit("the converter keeps Upsample's coordinates now")
    (resize,) = (node for node in converted.graph.node if node.op_type == "Resize")
    resize.attribute.append(helper.make_attribute("coordinate_transformation_mode", "asymmetric"))
    assert run(converted) == old
PYTHON
