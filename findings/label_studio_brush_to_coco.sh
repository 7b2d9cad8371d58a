#!/usr/bin/env bash
# label-studio-sdk 2.1.2: brush masks exported as COCO come back as other masks. Its converter draws OpenCV's outer contours,
# which run through the centres of pixels, and takes them for polygons: holes are filled, areas miss half a pixel on every
# side, and a region of one pixel's width is left out. Nothing is said.
# Seen: a ring of 64 pixels: a full square, area 81, which pycocotools 2.0.11 fills as 81 pixels (9 x 9). A bar of 2 x 10
# pixels: area 9. A line of 1 x 10: no annotation. The masks themselves are kept by the SDK's other export, to PNG or NumPy.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check label-studio-sdk==2.1.2 pycocotools==2.0.11 numpy==2.2.6
cd "$folder"
venv/bin/python - <<'PYTHON'
import json
from pathlib import Path

import numpy as np
from label_studio_sdk.converter.brush import decode_rle, mask2rle
from label_studio_sdk.converter.exports.brush_to_coco import convert_to_coco
from pycocotools import mask as coco

ring, bar, line = (np.zeros((20, 20), np.uint8) for _ in range(3))
ring[2:12, 2:12] = 255
ring[4:10, 4:10] = 0
bar[2:4, 2:12] = 255
line[2:3, 2:12] = 255
found = {}
for name, mask in (("ring", ring), ("bar", bar), ("line", line)):
    rle = mask2rle(mask)
    assert np.array_equal(decode_rle(rle).reshape(20, 20, 4)[:, :, 3], mask)
    region = {"rle": rle, "original_width": 20, "original_height": 20, "brushlabels": ["road"], "type": "BrushLabels"}
    task = {"id": 1, "input": {"image": "a.jpg"}, "output": {"tag": [region]}, "completed_by": {"email": "a@example.org"}}
    annotations = json.loads(Path(convert_to_coco([task], name)).read_text())["annotations"]
    drawn = [coco.frPyObjects(item["segmentation"], 20, 20) for item in annotations]
    found[name] = [(item["area"], int(coco.area(runs)[0])) for item, runs in zip(annotations, drawn, strict=True)]
    print(f"{name}: {np.count_nonzero(mask)} pixels; COCO's area, and pixels as pycocotools fills it: {found[name]}")
if found != {"ring": [(81, 81)], "bar": [(9, 9)], "line": []}:
    raise SystemExit("the export keeps brush masks otherwise now")
PYTHON
