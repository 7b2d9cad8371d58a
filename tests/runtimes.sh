#!/usr/bin/env bash
# A baked file in runtimes that nobody here wrote, each in an environment of its own: labels must equal the segmenter's
# on every pixel. Needs the package with its extra `bake` in PYTHON (default: .venv/bin/python).
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-.venv/bin/python}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

"$python" -m scclip_rt bake demo --opset 17 --ir 8 --batch 1 --output "$folder/demo.onnx"
"$python" tests/runtimes/image.py "$folder/image.npz"

try() { # the library, then what pip installs
    local environment
    environment=$(mktemp -d -p "$folder")
    "$python" -m venv "$environment"
    "$environment/bin/pip" install --quiet --disable-pip-version-check "${@:2}"
    "$environment/bin/python" tests/runtimes/labels.py "$1" "$folder/demo.onnx" "$folder/image.npz"
    rm -rf "$environment"
}

try onnxruntime onnxruntime==1.15.0 'numpy<2' # the oldest for Python 3.11
try onnxruntime onnxruntime==1.32.0
try openvino openvino==2026.4.1
try tract tract==0.23.9 numpy
try opencv opencv-python-headless==5.0.0.93
try reference onnx==1.23.2

# geoai's own processing, without the packages that it needs elsewhere (torch, leafmap, …).
"$python" -m venv "$folder/geoai"
pip=("$folder/geoai/bin/pip" install --quiet --disable-pip-version-check)
"${pip[@]}" geopandas==1.2.0 rasterio==1.4.4 pillow tqdm onnx==1.23.2 onnxruntime==1.32.0 opencv-python-headless==5.0.0.93
"${pip[@]}" --no-deps geoai-py==0.40.1
"$folder/geoai/bin/python" tests/runtimes/labels.py geoai "$folder/demo.onnx" "$folder/image.npz"
