"""COCO panoptic: one JSON file, and a PNG an image whose colours are the segments' ids.

A class is one segment with its category's id, `isthing` 0: the method finds regions, not objects. Background and
unlabelled pixels have the id 0, which the format calls void.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import numpy as np

from scclip_rt.formats.base import ImageName, LabelFormat
from scclip_rt.formats.coco import CocoFileWriter, category_id, image_entry
from scclip_rt.formats.rle import coco_masks
from scclip_rt.image.png import encode_png

if TYPE_CHECKING:
    from scclip_rt.segmentation import Segmentation

FILE = "panoptic.json"
FOLDER = "panoptic"


class PanopticWriter(CocoFileWriter):
    """Writes `panoptic.json` and `panoptic/STEM.png`."""

    file = FILE
    category: ClassVar = {"isthing": 0}

    def add(self, result: Segmentation, image: ImageName) -> None:
        """As `FormatWriter.add`."""
        number = self._images.count + 1
        name = f"{image.stem}.png"
        masks = [mask for mask in coco_masks(result.labels) if self.table.is_foreground(mask.label)]
        colours = np.zeros((max(result.unlabelled, len(result.classes)) + 1, 3), np.uint8)
        for mask in masks:
            colours[mask.label] = [category_id(mask.label) >> shift & 255 for shift in (0, 8, 16)]
        with self.sink.open(f"{FOLDER}/{name}") as stream:
            stream.write(encode_png(colours[result.labels]))
        self._images.append(image_entry(result, number, image.file))
        segments = [
            {
                "id": category_id(mask.label),
                "category_id": category_id(mask.label),
                "area": mask.area,
                "bbox": mask.box,
                "iscrowd": 0,
            }
            for mask in masks
        ]
        self._annotations.append({"image_id": number, "file_name": name, "segments_info": segments})


FORMAT = LabelFormat(
    name="coco-panoptic",
    summary=f"{FILE} and {FOLDER}/STEM.png: a segment a class",
    writer=PanopticWriter,
    image_files=(f"{FOLDER}/{{stem}}.png",),
    run_files=(FILE,),
    media_type="application/zip",
    suffix=".panoptic.zip",
)
