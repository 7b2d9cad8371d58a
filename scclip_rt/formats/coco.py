"""COCO: one JSON file for all images, one mask a class and image in COCO's run lengths.

Category ids are labels plus 1, because pycocotools and CVAT take 0 for nothing. A class is one annotation with
`iscrowd` 0, as in COCO-Stuff: the method finds regions, not objects. Unlabelled and background pixels have
no annotation.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from scclip_rt.formats.base import (
    ClassTable,
    FormatWriter,
    ImageName,
    JsonItems,
    LabelFormat,
    Sink,
    write_json_object,
)
from scclip_rt.formats.rle import coco_masks

if TYPE_CHECKING:
    from scclip_rt.segmentation import Segmentation

FILE = "coco.json"


def category_id(label: int) -> int:
    """COCO's id of a class."""
    return label + 1


def categories(table: ClassTable, **more: int) -> list[dict[str, Any]]:
    """COCO's categories, with further members where a format wants them."""
    return [{"id": category_id(label), "name": name, **more} for label, name in table.foreground()]


def image_entry(result: Segmentation, number: int, file_name: str) -> dict[str, Any]:
    """COCO's entry of an image; numbers count from 1."""
    height, width = result.labels.shape
    return {"id": number, "file_name": file_name, "width": width, "height": height}


class CocoFileWriter(FormatWriter):
    """Collects images and annotations, and writes them with the categories as one COCO file."""

    file = FILE
    category: ClassVar[dict[str, int]] = {}
    """Further members of each category."""

    def __init__(self, sink: Sink, table: ClassTable) -> None:
        super().__init__(sink, table)
        self._images = JsonItems()
        self._annotations = JsonItems()

    def finish(self) -> None:
        """As `FormatWriter.finish`."""
        with self.sink.open(self.file) as stream:
            write_json_object(
                stream,
                {
                    "info": {"description": "written by scclip-rt"},
                    "licenses": [],
                    "categories": categories(self.table, **self.category),
                    "images": self._images,
                    "annotations": self._annotations,
                },
            )


class CocoWriter(CocoFileWriter):
    """Writes `coco.json`."""

    def add(self, result: Segmentation, image: ImageName) -> None:
        """As `FormatWriter.add`."""
        number = self._images.count + 1
        self._images.append(image_entry(result, number, image.file))
        for mask in coco_masks(result.labels):
            if self.table.is_foreground(mask.label):
                self._annotations.append(
                    {
                        "id": self._annotations.count + 1,
                        "image_id": number,
                        "category_id": category_id(mask.label),
                        "segmentation": {"size": list(result.labels.shape), "counts": mask.counts},
                        "area": mask.area,
                        "bbox": mask.box,
                        "iscrowd": 0,
                    }
                )


FORMAT = LabelFormat(
    name="coco",
    summary=f"{FILE}: run lengths of each class and image, for pycocotools, CVAT, FiftyOne, …",
    writer=CocoWriter,
    run_files=(FILE,),
    media_type="application/json",
    suffix=".coco.json",
)
