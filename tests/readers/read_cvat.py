"""CVAT's masks by cvat-sdk, and the whole files (CVAT and both COCO forms) by datumaro."""

import shutil
import xml.etree.ElementTree as ET
from pathlib import Path

import datumaro
from compare import NAMES, WRITTEN, blank, check
from cvat_sdk.masks import decode_mask


def by_sdk() -> dict:
    maps = {}
    for image in ET.parse(WRITTEN / "cvat" / "annotations.xml").getroot().iter("image"):
        stem = Path(image.attrib["name"]).stem
        out = maps[stem] = blank(stem)
        for mask in image.iter("mask"):
            left, top, width, height = (int(mask.attrib[key]) for key in ("left", "top", "width", "height"))
            counts = [int(count) for count in mask.attrib["rle"].split(",")]
            points = [*counts, left, top, left + width - 1, top + height - 1]
            inside = decode_mask(points, image_width=out.shape[1], image_height=out.shape[0])
            out[inside] = NAMES.index(mask.attrib["label"])
    return maps


def by_datumaro(folder: Path, kind: str) -> dict:
    dataset = datumaro.Dataset.import_from(str(folder), kind)
    names = [category.name for category in dataset.categories()[datumaro.AnnotationType.label]]
    maps = {}
    for item in dataset:
        out = maps[item.id] = blank(item.id)
        for annotation in item.annotations:
            if isinstance(annotation, datumaro.Bbox):
                continue  # of a mask, beside it
            out[annotation.image.astype(bool)] = NAMES.index(names[annotation.label])
    return maps


def with_images(name: str, *, as_coco: str | None = None) -> Path:
    """A copy with the images where datumaro looks for them."""
    folder = WRITTEN / f"{name}-datumaro"
    shutil.rmtree(folder, ignore_errors=True)
    if as_coco is None:
        shutil.copytree(WRITTEN / name, folder)
        shutil.copytree(WRITTEN / "images", folder / "images")
        return folder
    shutil.copytree(WRITTEN / "images", folder / "images" / "run")
    (folder / "annotations").mkdir()
    for source in (WRITTEN / name).iterdir():
        if source.is_dir():
            shutil.copytree(source, folder / "annotations" / f"{as_coco}_run")
        else:
            shutil.copy(source, folder / "annotations" / f"{as_coco}_run.json")
    return folder


check("cvat-sdk", by_sdk())
check("datumaro, CVAT", by_datumaro(with_images("cvat"), "cvat"))
check("datumaro, COCO", by_datumaro(with_images("coco", as_coco="instances"), "coco_instances"))
check(
    "datumaro, COCO panoptic", by_datumaro(with_images("coco-panoptic", as_coco="panoptic"), "coco_panoptic")
)
