"""`coco.json`, read by pycocotools."""

import contextlib
import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pycocotools.coco import COCO

from scclip_rt.errors import OutputError
from scclip_rt.formats import ClassTable, ImageName, encode, open_writer

from .conftest import NAMES


def read(path: Path) -> COCO:
    with contextlib.redirect_stdout(io.StringIO()):
        return COCO(str(path))


def label_map(coco: COCO, image_id: int, blank: int) -> np.ndarray:
    image = coco.loadImgs(image_id)[0]
    out = np.full((image["height"], image["width"]), blank)
    for annotation in coco.loadAnns(coco.getAnnIds(imgIds=image_id)):
        out[coco.annToMask(annotation) == 1] = annotation["category_id"] - 1
    return out


def test_pycocotools_gives_back_the_label_maps(two_results, tmp_path):
    with open_writer("coco", tmp_path, ClassTable(names=NAMES)) as writer:
        for result in two_results:
            writer.add(result, ImageName(stem=Path(result.name).stem, file=result.name))
    coco = read(tmp_path / "coco.json")

    assert [image["file_name"] for image in coco.dataset["images"]] == ["photos/one.jpg", "photos/two.jpg"]
    assert {category["id"]: category["name"] for category in coco.dataset["categories"]} == dict(
        enumerate(NAMES, 1)
    )
    for image_id, result in enumerate(two_results, 1):
        np.testing.assert_array_equal(label_map(coco, image_id, 255), result.labels)
    assert min(coco.getAnnIds()) == 1


def test_background_is_left_blank(two_results, tmp_path):
    result = replace(two_results[0], background=0)
    (tmp_path / "coco.json").write_bytes(encode("coco", result, file_name="one.jpg").data)
    coco = read(tmp_path / "coco.json")
    assert [category["id"] for category in coco.dataset["categories"]] == [2, 3, 4, 5]
    np.testing.assert_array_equal(
        label_map(coco, 1, 0), np.where(result.labels == result.unlabelled, 0, result.labels)
    )


def test_a_run_that_fails_leaves_no_file(two_results, tmp_path):
    def broken_run() -> None:
        with open_writer("coco", tmp_path, ClassTable(names=NAMES)) as writer:
            writer.add(two_results[0], ImageName(stem="one", file="one.jpg"))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        broken_run()
    assert not list(tmp_path.iterdir())


def test_a_run_without_images_is_an_empty_data_set(tmp_path):
    with open_writer("coco", tmp_path, ClassTable(names=NAMES)):
        pass
    assert json.loads((tmp_path / "coco.json").read_text())["images"] == []
    with (
        pytest.raises(OutputError, match="--force"),
        open_writer("coco", tmp_path, ClassTable(names=NAMES)),
    ):
        pass
