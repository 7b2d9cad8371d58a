"""YOLO's polygons and COCO's masks by supervision."""

from pathlib import Path

import supervision
from compare import NAMES, WRITTEN, blank, check


def painted(dataset: supervision.DetectionDataset) -> dict:
    maps = {}
    for path, _, detections in dataset:
        out = maps[Path(path).stem] = blank(Path(path).stem)
        for mask, number in zip(detections.mask, detections.class_id, strict=True):
            out[mask] = NAMES.index(dataset.classes[number])
    return maps


images, yolo = str(WRITTEN / "images"), WRITTEN / "yolo-seg"
dataset = supervision.DetectionDataset.from_yolo(
    images, str(yolo / "labels"), str(yolo / "data.yaml"), force_masks=True
)
check("supervision, YOLO", painted(dataset))
dataset = supervision.DetectionDataset.from_coco(
    images, str(WRITTEN / "coco" / "coco.json"), force_masks=True
)
check("supervision, COCO", painted(dataset))
