#!/usr/bin/env bash
# geotiff 3.0.5 (geotiff.js), writeArrayBuffer: of an Int16Array or an Int32Array only each value's lowest byte is written, one
# after the other, and the rest of the file's pixels are 0. The file says 16 or 32 bits, so that it opens everywhere, with other
# labels. Label maps with -1 for unlabelled, and heights, are such arrays. Uint8Array, Uint16Array, Uint32Array and Float32Array
# are written as they are. GDAL (rasterio 1.4.4) and geotiff.js itself read the same wrong numbers.
# Seen, 0 1 200 -1 300 800 as int16: 1 -14081 11296 0 0 0. The same without the -1 as uint16: right.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check rasterio==1.4.4 numpy==2.4.6
cd "$folder"
npm install --silent --no-fund --no-audit geotiff@3.0.5
cat >write.mjs <<'JAVASCRIPT'
import { writeFile } from "node:fs/promises";
import { writeArrayBuffer } from "geotiff";

const values = [0, 1, 200, -1, 300, 800];
for (const kind of [Int16Array, Int32Array, Uint16Array, Float32Array]) {
  const labels = kind.from(values, (value) => (kind === Uint16Array ? Math.abs(value) : value));
  await writeFile(`${kind.name}.tif`, Buffer.from(await writeArrayBuffer(labels, { width: 3, height: 2 })));
}
JAVASCRIPT
node write.mjs
venv/bin/python -W ignore - <<'PYTHON'
import rasterio

wanted = [0, 1, 200, -1, 300, 800]
found = {}
for kind in ("Int16Array", "Int32Array", "Uint16Array", "Float32Array"):
    with rasterio.open(f"{kind}.tif") as file:
        found[kind] = file.read(1).ravel().tolist()
        print(f"{kind}: GDAL reads {found[kind]} as {file.dtypes[0]}")
assert found["Uint16Array"] == [abs(value) for value in wanted] and found["Float32Array"] == wanted
for kind, size in (("Int16Array", 2), ("Int32Array", 4)):
    if found[kind] == wanted:
        raise SystemExit(f"geotiff.js writes an {kind} right now")
    low = bytes(value & 255 for value in wanted) + bytes(6 * size - 6)
    packed = [int.from_bytes(low[i : i + size], "big", signed=True) for i in range(0, 6 * size, size)]
    assert found[kind] == packed, f"an {kind} is written otherwise now"
PYTHON
