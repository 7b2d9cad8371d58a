#!/usr/bin/env bash
# MNN 3.6.1: its ONNX converter reads ScatterElements' attributes by their place. ONNX gives attributes no order, but with
# `reduction` before `axis` MNN scatters along axis 0 and says "Converted Success!".
# Seen, x (2, 4) of 0..7, index [[3, 0], [1, 2]], axis 1: right with (axis, reduction); with (reduction, axis) other values.
# Only the compiled converter (`_tools`) is imported: MNN.tools.mnnconvert runs `pip install` when it is imported.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check MNN==3.6.1 onnx==1.23.2 numpy==2.4.6
cd "$folder"
venv/bin/python - <<'PYTHON'
import _tools
import MNN
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

x = np.arange(8, dtype=np.float32).reshape(2, 4)
index = np.array([[3, 0], [1, 2]], np.int64)
updates = np.array([[10, 20], [30, 40]], np.float32)
wanted = x.copy()
np.put_along_axis(wanted, index, updates, axis=1)


def scattered(first: str) -> np.ndarray:
    node = helper.make_node("ScatterElements", ["x", "i", "u"], ["y"], reduction="none", axis=1)
    node.attribute.sort(key=lambda item: item.name != first)
    assert node.attribute[0].name == first
    graph = helper.make_graph(
        [node],
        "scatter",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, 4])],
        [numpy_helper.from_array(index, "i"), numpy_helper.from_array(updates, "u")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, f"{first}.onnx")
    _tools.mnnconvert(["x", "-f", "ONNX", "--modelFile", f"{first}.onnx", "--MNNModel", f"{first}.mnn"])
    network = MNN.nn.load_module_from_file(f"{first}.mnn", ["x"], ["y"])
    result = network.forward([MNN.expr.const(x, [2, 4], MNN.expr.NCHW)])[0]
    return np.array(result.read()).reshape(2, 4)


right, other = scattered("axis"), scattered("reduction")
print("axis first:", right.tolist(), "reduction first:", other.tolist())
assert np.array_equal(right, wanted)
assert not np.array_equal(other, wanted), "MNN reads both orders now"
PYTHON
