#!/usr/bin/env bash
# geoai-py 0.40.1, ONNXGeoModel with task "semantic-segmentation": a raster above tile_size (1,024 by default) is cut into
# tiles, whose class ids are averaged and compared with the threshold of a binary mask. The classes are lost, without a
# word: every class but 0 becomes 1. A raster of at most tile_size keeps them.
# Seen: one tile: classes [0 1 2 3]. The same raster with tile_size=64: classes [0 1].
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
from onnx import TensorProto, helper, numpy_helper

# Four classes by the brightness of the first band.
centres = np.array([0.0, 0.25, 0.5, 0.75], np.float32).reshape(1, 4, 1, 1)
graph = helper.make_graph(
    [
        helper.make_node("Slice", ["image", "start", "stop", "axis"], ["red"]),
        helper.make_node("Sub", ["red", "centres"], ["far"]),
        helper.make_node("Abs", ["far"], ["distance"]),
        helper.make_node("Neg", ["distance"], ["logits"]),
    ],
    "four",
    [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, "h", "w"])],
    [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, 4, "h", "w"])],
    [
        numpy_helper.from_array(centres, "centres"),
        *(numpy_helper.from_array(np.array([v], np.int64), n) for n, v in (("start", 0), ("stop", 1), ("axis", 1))),
    ],
)
onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), "four.onnx")
red = np.repeat(np.array([0, 64, 128, 192], np.uint8), 32)[None].repeat(128, axis=0)
with rasterio.open("a.tif", "w", driver="GTiff", width=128, height=128, count=3, dtype="uint8") as file:
    file.write(np.stack([red, red, red]))

found = []
for tile_size in (1024, 64):
    model = ONNXGeoModel("four.onnx", task="semantic-segmentation", tile_size=tile_size, overlap=8)
    found.append(np.unique(model.predict("a.tif")["mask"]).tolist())
    print(f"tile_size={tile_size}: classes {found[-1]}")
if found != [[0, 1, 2, 3], [0, 1]]:
    raise SystemExit("geoai's tiles keep the classes now")
PYTHON
