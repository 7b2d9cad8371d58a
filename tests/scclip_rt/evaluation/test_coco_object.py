"""COCO-Object from COCO-Stuff."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from scclip_rt import cli
from scclip_rt.evaluation import BENCHMARKS, DatasetError, open_dataset
from scclip_rt.evaluation.coco_object import convert, object_table, to_objects

# COCO category number → class of COCO-Object, a few that lie behind gaps; masks hold the number minus one.
CATEGORIES = {
    1: "person",
    11: "fire hydrant",
    13: "stop sign",
    15: "bench",
    27: "backpack",
    28: "umbrella",
    31: "handbag",
    44: "bottle",
    46: "wine glass",
    65: "bed",
    67: "dining table",
    70: "toilet",
    72: "tv",
    82: "refrigerator",
    84: "book",
    90: "toothbrush",
}


def test_things_get_their_class_and_all_else_is_background() -> None:
    names = ["background", *(synonyms[0] for synonyms in BENCHMARKS["coco-object"].prompts()[1:])]
    table = object_table()
    for category, name in CATEGORIES.items():
        assert names[table[category - 1]] == name
    assert (table[91:182] == 0).all()
    assert table[255] == 0
    assert sorted(set(table.tolist()) - {255}) == list(range(81))
    assert (np.bincount(table[:90], minlength=256)[1:81] == 1).all()


def test_values_of_no_category_are_refused() -> None:
    with pytest.raises(DatasetError, match=r"label 11 is no category of COCO-Stuff \(2 pixels\)"):
        to_objects(np.array([[11, 11, 0]], np.uint8))
    with pytest.raises(DatasetError, match="values from 0 to 300"):
        to_objects(np.array([[0, 300]], np.int32))


def test_masks_are_written_beside_the_originals(stuff) -> None:
    assert convert(stuff.data) == 2
    dataset = open_dataset("coco-object", root=stuff.data)
    assert [sample.name for sample in dataset.samples] == list(stuff.masks)
    for sample in dataset.samples:
        original = np.asarray(Image.open(stuff.base / "annotations" / "val2017" / f"{sample.name}.png"))
        truth = sample.truth()
        np.testing.assert_array_equal(truth == 1, original == 0)
        np.testing.assert_array_equal(truth == 80, original == 89)
        np.testing.assert_array_equal(truth == 0, original > 90)


def test_masks_elsewhere_with_a_link_to_the_images(stuff, tmp_path: Path) -> None:
    output = tmp_path / "elsewhere" / "coco_object"
    assert convert(stuff.base, output) == 2
    assert convert(stuff.base, output) == 0  # goes on where it stopped: nothing is left
    assert convert(stuff.base, output, force=True) == 2
    assert len(open_dataset("coco-object", root=output)) == 2
    assert not list((stuff.base / "annotations" / "val2017").glob("*_instanceTrainIds.png"))


def test_the_command(stuff, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["convert-coco-object", str(stuff.data)]) == 0
    assert "2 masks written to" in capsys.readouterr().out


def test_what_cannot_be_converted(stuff, tmp_path: Path) -> None:
    with pytest.raises(
        DatasetError, match=r"annotations/val2017: no such folder; name the folder of COCO-Stuff"
    ):
        convert(tmp_path)
    damaged = stuff.base / "annotations" / "val2017" / "000000000285.png"
    Image.fromarray(np.full((4, 4), 90, np.uint8)).save(damaged)
    with pytest.raises(DatasetError, match=r"000000000285\.png: label 90 is no category"):
        convert(stuff.data)
    for path in (stuff.base / "annotations" / "val2017").glob("0*0000?????.png"):
        path.unlink()
    with pytest.raises(DatasetError, match="no masks of COCO-Stuff"):
        convert(stuff.data)
