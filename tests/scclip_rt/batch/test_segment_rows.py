"""The callable that Ray, Spark and Daft map over batches."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from scclip_rt import OptionError, Segmenter
from scclip_rt.batch import SegmentRows
from tests.scclip_rt.batch.conftest import BAD, CLASSES


@pytest.fixture(scope="module")
def rows(bundle_path: Path) -> SegmentRows:
    return SegmentRows(bundle_path, CLASSES, templates="none", threads=1)


@pytest.mark.parametrize("form", ["bytes", "path", "struct", "numpy"])
def test_rows_get_the_labels_of_their_images(
    rows: SegmentRows, bundle_path: Path, folder: Path, encoded: list[bytes], form: str
) -> None:
    paths = sorted(folder.rglob("*.jpg"))
    images = {
        "bytes": encoded,
        "path": [str(path) for path in paths],
        "struct": [{"bytes": data, "path": "x"} for data in encoded],
        "numpy": np.array(encoded, dtype=object),
    }[form]
    made = rows({"id": list(range(6)), "image": images})
    assert list(made) == ["id", "height", "width", "labels_png", "shares", "error"]
    segment = Segmenter(bundle_path, classes=CLASSES, templates="none")
    for number, path in enumerate(paths):
        if number == BAD:
            assert "not an image" in made["error"][number]
            assert made["labels_png"][number] == b""
            continue
        expected = segment(path)
        labels = np.asarray(Image.open(io.BytesIO(made["labels_png"][number])))
        assert np.array_equal(labels, expected.labels)
        assert json.loads(made["shares"][number]) == pytest.approx(expected.shares(), abs=1e-6)
        assert (made["height"][number], made["width"][number]) == expected.labels.shape


def test_missing_images_are_errors_in_their_places(rows: SegmentRows, encoded: list[bytes]) -> None:
    made = rows({"bytes": [None, encoded[0], b"", {"bytes": None, "path": None}, 3]})
    assert [bool(error) for error in made["error"]] == [True, False, True, True, True]
    assert made["height"] == [0, 60, 0, 0, 0]
    assert rows({"bytes": []})["labels_png"] == []


def test_what_is_no_column_of_files_is_refused(rows: SegmentRows, bundle_path: Path) -> None:
    with pytest.raises(OptionError, match="holds pixels, uint8"):
        rows({"image": np.zeros((2, 8, 8, 3), np.uint8)})
    with pytest.raises(OptionError, match=r"no column image or bytes .* it has photo, id"):
        rows({"photo": [b"1"], "id": [2]})
    named = SegmentRows(bundle_path, CLASSES, templates="none", column="photo", keep=["name"])
    with pytest.raises(OptionError, match="no column 'name' to keep"):
        named({"photo": [b"1"], "id": [2]})
