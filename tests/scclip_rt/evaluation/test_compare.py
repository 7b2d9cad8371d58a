"""Two segmenters side by side, and the sheet."""

import base64
import io
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from scclip_rt.errors import OptionError
from scclip_rt.evaluation import Dataset, compare, evaluate, open_dataset, open_segmenter
from scclip_rt.evaluation.report import comparison_document, comparison_table
from scclip_rt.evaluation.sheet import sheet


@pytest.fixture
def dataset(own) -> Dataset:
    return open_dataset(
        "folder", images=own.base / "images", masks=own.base / "masks", classes=own.base / "classes.txt"
    )


def pair(bundle: Path, dataset: Dataset) -> list:  # type: ignore[type-arg]
    return [
        open_segmenter(bundle, dataset, templates="none", prob_threshold=threshold, short_side=side)
        for threshold, side in ((0.0, 128), (0.55, 96))
    ]


def test_figures_are_those_of_each_alone(bundle_path: Path, dataset: Dataset) -> None:
    first, second = pair(bundle_path, dataset)
    result = compare(first, second, dataset)
    for part, segmenter in ((result.first, first), (result.second, second)):
        np.testing.assert_array_equal(part.matrix.counts, evaluate(segmenter, dataset).matrix.counts)
    labels = [[s(str(sample.image)).labels for sample in dataset.samples] for s in (first, second)]
    same = [(a == b).mean() * 100 for a, b in zip(*labels, strict=True)]
    assert result.agreement == pytest.approx(np.mean(same))
    assert result.least_agreement == pytest.approx(min(same))
    assert [item.agreement for item in result.worst] == pytest.approx(sorted(same))
    for item in result.worst:
        index = [sample.name for sample in dataset.samples].index(item.name)
        np.testing.assert_array_equal(item.labels[0], labels[0][index])
        np.testing.assert_array_equal(item.labels[1], labels[1][index])


def test_only_the_worst_are_kept(bundle_path: Path, dataset: Dataset) -> None:
    every = compare(*pair(bundle_path, dataset), dataset)
    few = compare(*pair(bundle_path, dataset), dataset, worst=2)
    assert [item.name for item in few.worst] == [item.name for item in every.worst[:2]]
    assert compare(*pair(bundle_path, dataset), dataset, worst=0).worst == ()
    with pytest.raises(OptionError, match="worst must be at least 0"):
        compare(*pair(bundle_path, dataset), dataset, worst=-1)


def test_equals_agree_entirely(bundle_path: Path, dataset: Dataset) -> None:
    first = pair(bundle_path, dataset)[0]
    result = compare(first, first, dataset, limit=3)
    assert (result.agreement, result.least_agreement, result.worst) == (100, 100, ())
    assert "agree on every pixel" in sheet(result, ("a", "b"))


def test_the_sheet_is_one_file_with_five_pictures_an_image(bundle_path: Path, dataset: Dataset) -> None:
    result = compare(*pair(bundle_path, dataset), dataset, worst=3)
    text = sheet(result, ("a<b>.scclip@fp32", "other & more"))
    assert "a&lt;b&gt;.scclip@fp32" in text
    assert "other &amp; more" in text
    assert "<b>.scclip" not in text
    assert not re.search(r"""(src|href)=["'](?!data:)""", text)
    pictures = re.findall(r"data:image/jpeg;base64,([^\"]+)", text)
    assert len(pictures) == 15
    for data in pictures:
        assert Image.open(io.BytesIO(base64.b64decode(data))).size == (80, 60)
    assert "(unlabelled)" in text  # the second has a threshold
    for name in dataset.classes:
        assert name in text


def test_large_images_are_shown_small(bundle_path: Path, tmp_path: Path) -> None:
    from tiny_bundle import blocks_image

    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    Image.fromarray(blocks_image(300, 1000)).save(tmp_path / "images" / "a.png")
    Image.fromarray(np.zeros((300, 1000), np.uint8)).save(tmp_path / "masks" / "a.png")
    dataset = open_dataset(
        "folder", images=tmp_path / "images", masks=tmp_path / "masks", classes="red; green; blue"
    )
    text = sheet(compare(*pair(bundle_path, dataset), dataset), ("a", "b"))
    picture = re.findall(r"data:image/jpeg;base64,([^\"]+)", text)[0]
    assert Image.open(io.BytesIO(base64.b64decode(picture))).size == (360, 108)


def test_table_and_document(bundle_path: Path, dataset: Dataset) -> None:
    result = compare(*pair(bundle_path, dataset), dataset)
    text, data = comparison_table(result, ("A", "B")), comparison_document(result)
    change = result.second.scores.miou - result.first.scores.miou
    assert f"{change:+.2f}" in text
    assert f"{result.agreement:.2f} %" in text
    assert data["miou_change"] == pytest.approx(change, abs=1e-3)
    assert data["first"]["settings"]["prob_threshold"] == 0
    assert data["second"]["settings"]["prob_threshold"] == 0.55
    assert data["worst"][0]["name"] == result.worst[0].name
