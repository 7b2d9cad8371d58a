#!/usr/bin/env bash
# onnxruntime 1.32.0, openvino 2026.4.1 (Tensor), tract 0.23.9, opencv-python-headless 5.0.0.93, rasterio 1.4.4 (features.shapes)
# and rerun-sdk 0.41.0 (SegmentationImage): of a NumPy array they take the type and the bytes, and pass over the byte order.
# zarr 3.1.6 gives arrays as they are stored, which in Zarr (version 2) may be big-endian (">u2"), as in FITS it always is. NumPy
# computes with them as with any other. Nothing is said, only the numbers are others.
# Seen: 0.5 becomes 8.8e-44 in three engines and 0 in OpenCV; label 300 becomes 11265 as a polygon's value, and in rerun.
# onnx 1.23.2 (numpy_helper) and tritonclient 2.73.0 refuse such an array; a compiled OpenVINO model called with it reads it.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check numpy==2.4.6 onnx==1.23.2 onnxruntime==1.32.0 openvino==2026.4.1 \
    opencv-python-headless==5.0.0.93 tract==0.23.9 rasterio==1.4.4 rerun-sdk==0.41.0 zarr==3.1.6 tritonclient==2.73.0
cd "$folder"
venv/bin/python -W ignore - <<'PYTHON'
import cv2
import numpy as np
import onnx
import onnxruntime
import openvino
import rasterio.features
import rerun
import tract
import tritonclient.utils
import zarr
from onnx import TensorProto, helper, numpy_helper


def stored(values: np.ndarray) -> np.ndarray:
    array = zarr.create_array({}, shape=values.shape, dtype=values.dtype.newbyteorder(">"), zarr_format=2)
    array[...] = values
    read = array[...]
    assert np.array_equal(read, values) and read.dtype.byteorder == ">", "zarr gives native arrays now"
    return read


halves = stored(np.full((1, 3), 0.5, np.float32))
labels = stored(np.full((4, 4), 300, np.uint16))

graph = helper.make_graph(
    [helper.make_node("Add", ["x", "nothing"], ["y"])],
    "same",
    [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3])],
    [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 3])],
    [numpy_helper.from_array(np.zeros(1, np.float32), "nothing")],
)
onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), "same.onnx")
network = cv2.dnn.readNetFromONNX("same.onnx")
network.setInput(halves)
compiled = openvino.Core().compile_model("same.onnx", "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
engines = {
    "onnxruntime": onnxruntime.InferenceSession("same.onnx").run(None, {"x": halves})[0],
    "openvino, Tensor": compiled(openvino.Tensor(halves))[0],
    "tract": tract.onnx().load("same.onnx").into_model().into_runnable().run([halves])[0].to_numpy(),
    "opencv": network.forward(),
}
for name, found in engines.items():
    print(f"0.5 in {name}: {float(found.ravel()[0]):.2g}")
    assert abs(found.ravel()[0]) < 1e-40, f"{name} minds the byte order now"
assert np.array_equal(compiled(halves)[0], halves), "a compiled OpenVINO model does not read it any more"

readers = {
    "rasterio.features.shapes": [int(value) for _, value in rasterio.features.shapes(labels)],
    "rerun": np.frombuffer(
        bytes(rerun.SegmentationImage(labels).buffer.as_arrow_array().to_pylist()[0]), np.uint16
    ).tolist(),
}
for name, values in readers.items():
    print(f"label 300 in {name}:", values[0])
    assert set(values) == {11265}, f"{name} minds the byte order now"

try:
    numpy_helper.from_array(halves)
except ValueError as error:
    print("onnx:", error)
else:
    raise SystemExit("onnx takes big-endian arrays now")
assert tritonclient.utils.np_to_triton_dtype(halves.dtype) is None
PYTHON
