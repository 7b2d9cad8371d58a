#!/usr/bin/env bash
# geoai-py 0.40.1, ONNXGeoModel: of a raster that is not uint8 each band is stretched from its 2nd to its 98th percentile,
# but into the raster's own array. In an integer raster (uint16, as Sentinel-2 and Landsat have) the fractions are cut to
# whole numbers: the model sees 0 everywhere, and 1.0 in the brightest 2 %. The same numbers as float32 keep their steps.
# Seen: a ramp of 0 … 9,999 as uint16: the model gets 2 different values; as float32: more than 200.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
pip=("$folder/venv/bin/pip" install --quiet --disable-pip-version-check)
"${pip[@]}" geopandas==1.2.0 rasterio==1.4.4 numpy==2.4.6 pillow==13.0.0 tqdm==4.70.1 \
    onnx==1.23.2 onnxruntime==1.32.0 opencv-python-headless==5.0.0.93
"${pip[@]}" --no-deps geoai-py==0.40.1 # its other packages (torch, leafmap, …) are not needed here
cd "$folder"
"$folder/venv/bin/python" - 2>/dev/null <<'PYTHON'
import numpy as np
import onnx
import rasterio
from geoai.onnx import ONNXGeoModel
from onnx import TensorProto, helper

# The model gives back what it gets.
graph = helper.make_graph(
    [helper.make_node("Identity", ["image"], ["depth"])],
    "same",
    [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, "h", "w"])],
    [helper.make_tensor_value_info("depth", TensorProto.FLOAT, [1, 3, "h", "w"])],
)
onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), "same.onnx")
ramp = np.arange(10_000).reshape(100, 100)
values = {}
for dtype in ("uint16", "float32"):
    with rasterio.open(f"{dtype}.tif", "w", driver="GTiff", width=100, height=100, count=3, dtype=dtype) as file:
        file.write(np.stack([ramp] * 3).astype(dtype))
    model = ONNXGeoModel("same.onnx", task="depth-estimation")
    data, _ = model.load_geotiff(f"{dtype}.tif")
    seen = model._prepare_input(data)
    values[dtype] = len(np.unique(seen))
    print(f"{dtype}: the model gets {values[dtype]} different values")
if values["uint16"] != 2 or values["float32"] < 200:
    raise SystemExit("geoai stretches integer rasters now")
PYTHON
