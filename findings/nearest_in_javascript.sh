#!/usr/bin/env bash
# geotiff 3.0.5 (geotiff.js, readRasters) and @huggingface/transformers 4.3.1 (RawImage.resize in Node.js): resized by "nearest",
# a label map moves. The nearest centre to output pixel i is source pixel floor((i + 0.5) * in / out), as GDAL (rasterio 1.4.4)
# and Pillow 13.0.0 have it. Both JavaScript libraries count from the pixels' corners: geotiff.js rounds i * in / out, and
# transformers.js takes its floor when it makes a map smaller. Drawn over its image, a map read at a third of its size is a
# whole source pixel off; one that geotiff.js makes larger is half a source pixel off. No message.
# Seen, columns 0 … 8 to 3: GDAL and Pillow 1 4 7; geotiff.js and transformers.js 0 3 6.
# Columns 0 1 2 to 9: GDAL and Pillow 0 0 0 1 1 1 2 2 2; geotiff.js 0 0 1 1 1 2 2 2 2.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check rasterio==1.4.4 pillow==13.0.0 numpy==2.4.6
cd "$folder"
ONNXRUNTIME_NODE_INSTALL=skip npm install --silent --no-fund --no-audit geotiff@3.0.5 @huggingface/transformers@4.3.1
cat >read.mjs <<'JAVASCRIPT'
import { RawImage } from "@huggingface/transformers";
import { fromFile } from "geotiff";

const found = {};
for (const [from, to] of [[9, 3], [3, 9]]) {
  const image = await (await fromFile(`${from}.tif`)).getImage();
  const [labels] = await image.readRasters({ width: to, height: to, resampleMethod: "nearest" });
  found[`geotiff.js ${from} ${to}`] = Array.from(labels.slice(0, to));
  const map = new RawImage(Uint8ClampedArray.from({ length: from * from }, (_, i) => i % from), from, from, 1);
  const resized = await map.resize(to, to, { resample: "nearest" });
  found[`transformers.js ${from} ${to}`] = Array.from({ length: to }, (_, i) => resized.data[i * resized.channels]);
}
console.log(JSON.stringify(found));
JAVASCRIPT
cat >compare.py <<'PYTHON'
import json
import subprocess

import numpy as np
import rasterio
from PIL import Image

right = {}
for size, to in ((9, 3), (3, 9)):
    labels = np.tile(np.arange(size, dtype=np.uint8), (size, 1))
    with rasterio.open(f"{size}.tif", "w", driver="GTiff", width=size, height=size, count=1, dtype="uint8") as file:
        file.write(labels, 1)
    with rasterio.open(f"{size}.tif") as file:
        right[size, to] = file.read(1, out_shape=(to, to))[0].tolist()
    assert np.asarray(Image.fromarray(labels).resize((to, to), Image.Resampling.NEAREST))[0].tolist() == right[size, to]
    print(f"GDAL and Pillow {size} {to}:", right[size, to])
found = json.loads(subprocess.run(["node", "read.mjs"], check=True, capture_output=True, text=True).stdout)
for name, row in found.items():
    print(f"{name}:", row)
for name in ("geotiff.js", "transformers.js"):
    if found[f"{name} 9 3"] == right[9, 3]:
        raise SystemExit(f"{name} takes the nearest centre now")
assert found["geotiff.js 9 3"] == found["transformers.js 9 3"] == [0, 3, 6], found
assert found["geotiff.js 3 9"] == [0, 0, 1, 1, 1, 2, 2, 2, 2], found
PYTHON
venv/bin/python -W ignore compare.py
