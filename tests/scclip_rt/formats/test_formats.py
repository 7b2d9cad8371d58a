"""Every format gives back the label maps: read with pycocotools and shapely, else by what its description says.

`tests/readers/run.sh` reads the same files with the tools' own libraries, which are too heavy for every run.
"""

import base64
import contextlib
import io
import json
import xml.etree.ElementTree as ET
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
import shapely
from PIL import Image
from pycocotools.coco import COCO

from label_maps import NAMES, UNLABELLED, results
from scclip_rt.errors import OptionError, OutputError
from scclip_rt.formats import FORMATS, ClassTable, ImageName, encode, open_writer
from scclip_rt.segmentation import Segmentation

from .test_rle import rle_unpack

Maps = dict[str, np.ndarray]


def write(name: str, folder: Path, images: dict[str, Segmentation], *, force: bool = False) -> None:
    background = next(iter(images.values())).background
    with open_writer(name, folder, ClassTable(names=NAMES, background=background), force=force) as writer:
        for stem, result in images.items():
            writer.add(
                result, ImageName(stem=stem, file=f"set/{stem}.jpg", path=folder.parent / f"{stem}.jpg")
            )


def blank(shape: tuple[int, ...]) -> np.ndarray:
    return np.full(shape, UNLABELLED, np.uint8)


def read_png(folder: Path) -> Maps:
    return {path.name.split(".")[0]: np.asarray(Image.open(path)) for path in folder.glob("*.labels.png")}


def read_npz(folder: Path) -> Maps:
    files = {path.name.split(".")[0]: np.load(path) for path in folder.glob("*.npz")}
    assert all(tuple(file["classes"]) == NAMES for file in files.values())
    return {stem: file["labels"] for stem, file in files.items()}


def quiet_coco(path: Path) -> COCO:
    with contextlib.redirect_stdout(io.StringIO()):
        return COCO(str(path))


def read_coco(folder: Path) -> Maps:
    coco = quiet_coco(folder / "coco.json")
    assert 0 not in coco.anns
    assert 0 not in coco.imgs
    maps = {}
    for number, image in coco.imgs.items():
        out = blank((image["height"], image["width"]))
        for annotation in coco.loadAnns(coco.getAnnIds(imgIds=number)):
            mask = coco.annToMask(annotation) == 1
            assert annotation["area"] == mask.sum()
            out[mask] = NAMES.index(coco.cats[annotation["category_id"]]["name"])
        maps[Path(image["file_name"]).stem] = out
    return maps


def read_panoptic(folder: Path) -> Maps:
    data = json.loads((folder / "panoptic.json").read_text())
    names = {category["id"]: category["name"] for category in data["categories"]}
    assert 0 not in names
    maps = {}
    for annotation in data["annotations"]:
        red, green, blue = np.asarray(
            Image.open(folder / "panoptic" / annotation["file_name"]), int
        ).transpose(2, 0, 1)
        ids = red + 256 * green + 256**2 * blue
        out = blank(ids.shape)
        for segment in annotation["segments_info"]:
            mask = ids == segment["id"]
            rows, columns = np.nonzero(mask)
            box = [columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1]
            assert (segment["area"], segment["bbox"]) == (mask.sum(), box)
            out[mask] = NAMES.index(names[segment["category_id"]])
        assert set(np.unique(ids)) - {0} == {segment["id"] for segment in annotation["segments_info"]}
        maps[Path(annotation["file_name"]).stem] = out
    return maps


def read_cvat(folder: Path) -> Maps:
    root = ET.parse(folder / "annotations.xml").getroot()
    known = {label.findtext("name") for label in root.iter("label")}
    maps = {}
    for image in root.iter("image"):
        out = blank((int(image.attrib["height"]), int(image.attrib["width"])))
        for mask in image.iter("mask"):
            left, top, width, height = (int(mask.attrib[key]) for key in ("left", "top", "width", "height"))
            counts = [int(count) for count in mask.attrib["rle"].split(",")]
            inside = np.repeat(np.arange(len(counts)) % 2 == 1, counts).reshape(height, width)
            assert mask.attrib["label"] in known
            out[top : top + height, left : left + width][inside] = NAMES.index(mask.attrib["label"])
        maps[Path(image.attrib["name"]).stem] = out
    return maps


def read_labelstudio(folder: Path) -> Maps:
    config = ET.parse(folder / "labelstudio.xml").getroot()
    known = {label.attrib["value"] for label in config.iter("Label")}
    maps = {}
    for task in json.loads((folder / "labelstudio.json").read_text()):
        (prediction,) = task["predictions"]
        for region in prediction["result"]:
            shape = (region["original_height"], region["original_width"])
            out = maps.setdefault(Path(task["data"]["image"]).stem, blank(shape))
            (name,) = region["value"]["brushlabels"]
            assert name in known
            values = rle_unpack(bytes(region["value"]["rle"])).reshape(*shape, 4)
            out[values[..., 3] == 255] = NAMES.index(name)
    return maps


def read_labelme(folder: Path) -> Maps:
    maps = {}
    for path in folder.glob("*.json"):
        data = json.loads(path.read_text())
        assert data["imagePath"] == f"../{path.stem}.jpg"
        out = blank((data["imageHeight"], data["imageWidth"]))
        for shape in data["shapes"]:
            (left, top), (right, bottom) = shape["points"]
            mask = np.asarray(Image.open(io.BytesIO(base64.b64decode(shape["mask"])))).astype(bool)
            out[top : bottom + 1, left : right + 1][mask] = NAMES.index(shape["label"])
        maps[path.stem] = out
    return maps


def read_fiftyone(folder: Path) -> Maps:
    targets = json.loads((folder / "metadata.json").read_text())["info"]["default_mask_targets"]
    maps = {}
    for sample in json.loads((folder / "samples.json").read_text())["samples"]:
        values = np.asarray(Image.open(folder / sample["segmentation"]["mask_path"]))
        out = blank(values.shape)
        for value, name in targets.items():
            out[values == int(value)] = NAMES.index(name)
        maps[Path(sample["filepath"]).stem] = out
    return maps


def read_geojson(folder: Path) -> Maps:
    maps = {}
    for path in folder.glob("*.geojson"):
        shape = results()[path.stem].labels.shape
        rows, columns = np.mgrid[: shape[0], : shape[1]] + 0.5
        out = blank(shape)
        for feature in json.loads(path.read_text())["features"]:
            polygon = shapely.from_geojson(json.dumps(feature["geometry"]))
            inside = shapely.contains_xy(polygon, columns, rows)
            assert polygon.is_valid
            assert polygon.area == feature["properties"]["area"] == inside.sum()
            assert (out[inside] == UNLABELLED).all(), "two polygons overlap"
            out[inside] = NAMES.index(feature["properties"]["class"])
        maps[path.stem] = out
    return maps


def read_yolo(folder: Path) -> Maps:
    lines = (folder / "data.yaml").read_text().splitlines()
    names = [json.loads(line.split(":", 1)[1]) for line in lines[lines.index("names:") + 1 :]]
    maps = {}
    for path in (folder / "labels").glob("*.txt"):
        shape = results()[path.stem].labels.shape
        out = blank(shape)
        for line in path.read_text().splitlines():
            number, *shares = line.split()
            points = np.array(shares, float).reshape(-1, 2)
            assert len(points) >= 3
            assert 0 <= points.min() <= points.max() <= 1
            pixels = (points * shape[::-1]).astype(np.int32)
            cv2.fillPoly(out, [pixels], NAMES.index(names[int(number)]))
        maps[path.stem] = out
    return maps


READERS: dict[str, Callable[[Path], Maps]] = {
    "png": read_png,
    "coco": read_coco,
    "coco-panoptic": read_panoptic,
    "cvat": read_cvat,
    "labelstudio": read_labelstudio,
    "labelme": read_labelme,
    "fiftyone": read_fiftyone,
    "geojson": read_geojson,
    "yolo-seg": read_yolo,
    "npz": read_npz,
}
LEAVE_BACKGROUND_BLANK = set(READERS) - {"png", "npz", "fiftyone"}


def test_every_format_has_a_reader_here():
    assert set(READERS) == set(FORMATS)


@pytest.mark.parametrize("name", FORMATS)
def test_readers_get_the_label_maps_back(name, tmp_path):
    images = results()
    write(name, tmp_path / "out", images)
    maps = READERS[name](tmp_path / "out")
    assert set(maps) == set(images)
    for stem, result in images.items():
        np.testing.assert_array_equal(maps[stem], result.labels)


@pytest.mark.parametrize("name", FORMATS)
def test_background_is_blank_in_masks_and_polygons(name, tmp_path):
    images = results(background=0)
    write(name, tmp_path / "out", images)
    for stem, labels in READERS[name](tmp_path / "out").items():
        if name in LEAVE_BACKGROUND_BLANK:
            assert (labels != 0).all()
            labels = np.where(labels == UNLABELLED, 0, labels)
        np.testing.assert_array_equal(labels, images[stem].labels)


def files_below(folder: Path) -> Iterator[str]:
    return (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("name", FORMATS)
def test_a_format_knows_its_files_and_replaces_none_unasked(name, tmp_path):
    images, kind = results(), FORMATS[name]
    write(name, tmp_path, images)
    expected = {file.format(stem=stem) for file in kind.image_files for stem in images} | {*kind.run_files}
    assert set(files_below(tmp_path)) == expected
    with pytest.raises(OutputError, match="--force"):
        write(name, tmp_path, images)
    write(name, tmp_path, images, force=True)


@pytest.mark.parametrize("name", FORMATS)
def test_one_image_alone_is_one_file(name, tmp_path):
    result = results()["one"]
    encoded = encode(name, result, file_name="set/one.jpg")
    kind = FORMATS[name]
    assert (encoded.media_type, encoded.suffix) == (kind.media_type, kind.suffix)
    if kind.media_type == "application/zip":
        with zipfile.ZipFile(io.BytesIO(encoded.data)) as archive:
            archive.extractall(tmp_path)
    else:
        (file,) = (*kind.run_files, *(file.format(stem="one") for file in kind.image_files))
        (tmp_path / file).write_bytes(encoded.data)
    if name != "labelme":  # its reader here checks the way to the image, too
        np.testing.assert_array_equal(READERS[name](tmp_path)["one"], result.labels)


@pytest.mark.parametrize("name", FORMATS)
def test_a_run_that_fails_leaves_no_file_of_all_images(name, tmp_path):
    def broken_run() -> None:
        with open_writer(name, tmp_path, ClassTable(names=NAMES)) as writer:
            writer.add(results()["one"], ImageName(stem="one", file="one.jpg"))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        broken_run()
    assert set(files_below(tmp_path)) == {file.format(stem="one") for file in FORMATS[name].image_files}


def test_more_than_254_classes_stay_apart(tmp_path):
    names = tuple(f"class {number}" for number in range(300))
    labels = np.arange(400, dtype=np.uint16).reshape(20, 20) % 300
    labels[0] = 65535
    result = Segmentation(labels=labels, classes=names, unlabelled=65535)
    for name in FORMATS:
        encode(name, result, file_name="one.png")
    (tmp_path / "coco.json").write_bytes(encode("coco", result, file_name="one.png").data)
    coco = quiet_coco(tmp_path / "coco.json")
    out = np.full(labels.shape, 65535)
    for annotation in coco.anns.values():
        out[coco.annToMask(annotation) == 1] = annotation["category_id"] - 1
    np.testing.assert_array_equal(out, labels)


def test_an_unknown_format_is_named_with_the_known_ones():
    with pytest.raises(OptionError, match=r"'tiff'.*png, coco, coco-panoptic"):
        encode("tiff", results()["one"], file_name="one.png")
