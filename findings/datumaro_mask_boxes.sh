#!/usr/bin/env bash
# datumaro 1.13.7: the box of a mask misses its last column and its last row. COCO's boxes are (left, top, width, height), where
# a mask over columns 3 to 8 is 6 wide, as pycocotools 2.0.11 has it; datumaro takes last minus first, 5. Its exports to COCO's
# instances and to COCO panoptic write such boxes beside right masks and areas. A line of one pixel gets a box without area.
# Seen, a mask of 6 x 10 pixels: box (3, 2, 5, 9), which overlaps the true one by 0.75. A column of 1 x 10: width 0.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check datumaro==1.13.7 pycocotools==2.0.11
cd "$folder"
venv/bin/python -W ignore - <<'PYTHON'
import json
from pathlib import Path

import datumaro
import numpy as np
from pycocotools import mask as coco

block, line = np.zeros((20, 20), bool), np.zeros((20, 20), bool)
block[2:12, 3:9] = True
line[2:12, 14:15] = True
masks = [datumaro.Mask(image=mask, label=0, id=i, group=i) for i, mask in enumerate((block, line), 1)]
picture = datumaro.Image.from_numpy(np.zeros((20, 20, 3), np.uint8))
items = [datumaro.DatasetItem(id="a", media=picture, annotations=masks)]
dataset = datumaro.Dataset.from_iterable(items, categories=["road"])

written = {}
for form in ("coco_instances", "coco_panoptic"):
    dataset.export(form, form)
    (file,) = Path(form).rglob("*.json")
    annotations = json.loads(file.read_text())["annotations"]
    if form == "coco_panoptic":
        annotations = annotations[0]["segments_info"]
    written[form] = [item["bbox"] for item in annotations]
    assert [item["area"] for item in annotations] == [60, 10]
    for item, mask in zip(annotations, (block, line), strict=True):
        runs = coco.encode(np.asfortranarray(mask, np.uint8))
        if form == "coco_instances":
            drawn = coco.decode(coco.frPyObjects(item["segmentation"], 20, 20))
            assert np.array_equal(drawn, mask), "the mask itself changed"
        true = coco.toBbox(runs)
        overlap = coco.iou(np.array([item["bbox"]], float), true[None], [0])[0, 0]
        print(f"{form}: box {item['bbox']}, pycocotools {true.tolist()}, overlap {overlap:.2f}")
if any(boxes != [[3, 2, 5, 9], [14, 2, 0, 9]] for boxes in written.values()):
    raise SystemExit("datumaro's boxes hold the whole mask now")
PYTHON
