"""YOLO's files by Ultralytics: its checks of data set and labels, and its way from polygons to masks."""

import shutil

from compare import NAMES, WRITTEN, blank, check
from ultralytics.data.utils import check_det_dataset, polygon2mask, verify_image_label

root = WRITTEN / "yolo-ultralytics"
shutil.rmtree(root, ignore_errors=True)
shutil.copytree(WRITTEN / "yolo-seg", root)
shutil.copytree(WRITTEN / "images", root / "images")
data = check_det_dataset(str(root / "data.yaml"), autodownload=False)
assert list(data["names"].values()) == NAMES
maps = {}
for stem in ("one", "two"):
    files = (str(root / "images" / f"{stem}.png"), str(root / "labels" / f"{stem}.txt"))
    _, boxes, shape, segments, _, missing, found, empty, corrupt, message = verify_image_label(
        (*files, "", False, len(NAMES), 0, 0, False)
    )
    assert (missing, found, empty, corrupt) == (0, 1, 0, 0), message
    out = maps[stem] = blank(stem)
    for box, segment in zip(boxes, segments, strict=True):
        out[polygon2mask(shape, [(segment * (shape[1], shape[0])).ravel()]) == 1] = int(box[0])
check("ultralytics", maps)
