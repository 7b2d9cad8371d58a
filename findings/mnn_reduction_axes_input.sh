#!/usr/bin/env bash
# MNN 3.6.1: since opset 18 the axes of a reduction are an input instead of an attribute. MNN's ONNX converter passes over
# that of ReduceL2 and says "Converted Success!": everything is reduced.
# Seen, x (2, 4) of 0..7, axes [1]: at opset 17 (an attribute) the norms of both rows; at opset 18 one norm over all values.
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
wanted = np.linalg.norm(x, axis=1)


def norms(opset: int) -> np.ndarray:
    if opset < 18:
        node, constants = helper.make_node("ReduceL2", ["x"], ["y"], axes=[1], keepdims=1), []
    else:
        node = helper.make_node("ReduceL2", ["x", "axes"], ["y"], keepdims=1)
        constants = [numpy_helper.from_array(np.array([1], np.int64), "axes")]
    graph = helper.make_graph(
        [node],
        "norm",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, 1])],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, f"{opset}.onnx")
    _tools.mnnconvert(["x", "-f", "ONNX", "--modelFile", f"{opset}.onnx", "--MNNModel", f"{opset}.mnn"])
    network = MNN.nn.load_module_from_file(f"{opset}.mnn", ["x"], ["y"])
    result = network.forward([MNN.expr.const(x, [2, 4], MNN.expr.NCHW)])[0]
    return np.array(result.read()).ravel()


old, new = norms(17), norms(18)
print("wanted:", wanted, "opset 17:", old, "opset 18:", new)
assert np.allclose(old, wanted)
assert new.shape != wanted.shape or not np.allclose(new, wanted), "MNN reads the axes now"
PYTHON
