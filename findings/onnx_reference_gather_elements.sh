#!/usr/bin/env bash
# onnx 1.23.2 (with numpy 2.4): the reference evaluator's GatherElements fails on valid input with more than 63 entries
# along its axis, as it is written with numpy.choose, which takes 63 choices.
# Seen: 63 entries: equal to numpy.take_along_axis. 64 entries: ValueError: Need at least 0 and at most 64 array objects,
# or, for two axes, an error in reshape. The operator has no such limit.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check onnx==1.23.2 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import numpy as np
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator


def gathered(entries: int) -> bool:
    graph = helper.make_graph(
        [helper.make_node("GatherElements", ["x", "i"], ["y"], axis=1)],
        "gather",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, entries]),
            helper.make_tensor_value_info("i", TensorProto.INT64, [2, 3]),
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, 3])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    x = np.arange(2 * entries, dtype=np.float32).reshape(2, entries)
    i = np.array([[0, 5, entries - 1], [7, 0, 1]])
    y = ReferenceEvaluator(model).run(None, {"x": x, "i": i})[0]
    return np.array_equal(y, np.take_along_axis(x, i, axis=1))


assert gathered(63)
try:
    gathered(64)
except ValueError as error:
    print("64 entries:", error)
else:
    raise SystemExit("onnx's GatherElements takes 64 entries now")
PYTHON
