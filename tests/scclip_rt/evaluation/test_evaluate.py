"""Evaluation: what is counted, resuming, and what is refused."""

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from scclip_rt import Segmenter
from scclip_rt.errors import ImageError, OptionError, OutputError
from scclip_rt.evaluation import (
    ConfusionMatrix,
    Dataset,
    DatasetError,
    Sample,
    evaluate,
    open_dataset,
    open_segmenter,
)
from scclip_rt.evaluation.chart import bar_chart
from scclip_rt.evaluation.report import document, table

OPTIONS: dict[str, Any] = {"templates": "none", "logit_scale": 40.0}


@pytest.fixture
def dataset(own) -> Dataset:
    return open_dataset(
        "folder", images=own.base / "images", masks=own.base / "masks", classes=own.base / "classes.txt"
    )


@pytest.fixture
def segmenter(bundle_path: Path, dataset: Dataset) -> Segmenter:
    return open_segmenter(bundle_path, dataset, **OPTIONS)


def naive(bundle: Path, dataset: Dataset, own, number: int, **options: float) -> np.ndarray:
    """One image at a time, one pixel at a time."""
    segment = Segmenter(bundle, classes=dataset.class_lines, **OPTIONS, **options)
    counts = np.zeros((3, 4), int)
    for sample in dataset.samples[:number]:
        labels, truth = segment(str(sample.image)).labels, own.masks[sample.name]
        for label, true in zip(labels.ravel().tolist(), truth.ravel().tolist(), strict=True):
            if true != 255:
                counts[true, 3 if label == 255 else label] += 1
    return counts


@pytest.mark.parametrize("prob_threshold", [0.0, 0.6])
def test_counts_are_those_of_single_images(
    bundle_path: Path, dataset: Dataset, own, prob_threshold: float
) -> None:
    segmenter = open_segmenter(bundle_path, dataset, prob_threshold=prob_threshold, **OPTIONS)
    result = evaluate(segmenter, dataset)
    expected = naive(bundle_path, dataset, own, 5, prob_threshold=prob_threshold)
    np.testing.assert_array_equal(result.matrix.counts, expected)
    assert result.images == 5
    assert (result.matrix.unlabelled > 0) == (prob_threshold > 0)


def test_a_limit_takes_the_first_images(
    bundle_path: Path, dataset: Dataset, segmenter: Segmenter, own
) -> None:
    result = evaluate(segmenter, dataset, limit=2)
    np.testing.assert_array_equal(result.matrix.counts, naive(bundle_path, dataset, own, 2))
    assert (result.images, evaluate(segmenter, dataset, limit=99).images) == (2, 5)


@pytest.mark.parametrize("first", [1, 3, 5])
def test_resuming_equals_one_run(dataset: Dataset, segmenter: Segmenter, first: int, tmp_path: Path) -> None:
    whole = evaluate(segmenter, dataset)
    state = tmp_path / "run.state"
    part = evaluate(segmenter, dataset, limit=first, resume=state)
    assert part.images == first
    resumed = evaluate(segmenter, dataset, resume=state)
    np.testing.assert_array_equal(resumed.matrix.counts, whole.matrix.counts)
    assert resumed.images == 5
    assert resumed.seconds >= part.seconds


def test_batch_threads_and_place_may_change_between_runs(
    dataset: Dataset, bundle_path: Path, own_bundle: Path, tmp_path: Path
) -> None:
    state = tmp_path / "run.state"
    evaluate(
        open_segmenter(bundle_path, dataset, batch=1, threads=1, **OPTIONS), dataset, limit=2, resume=state
    )
    other = open_segmenter(own_bundle, dataset, batch=5, threads=2, **OPTIONS)
    resumed = evaluate(other, dataset, resume=state)
    np.testing.assert_array_equal(resumed.matrix.counts, evaluate(other, dataset).matrix.counts)


def failing(dataset: Dataset, index: int, error: BaseException) -> Dataset:
    """The dataset with a truth that fails."""

    def fail() -> np.ndarray:
        raise error

    samples = list(dataset.samples)
    samples[index] = replace(samples[index], truth=fail)
    return replace(dataset, samples=samples)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), DatasetError("mask.png: damaged")])
def test_what_is_counted_survives_an_end(
    error: BaseException, dataset: Dataset, segmenter: Segmenter, tmp_path: Path
) -> None:
    state = tmp_path / "run.state"
    with pytest.raises(type(error)):
        evaluate(segmenter, failing(dataset, 3, error), resume=state)
    assert json.loads(state.read_text())["done"] == 3
    calls = []
    counting = replace(dataset, samples=[replace(s, truth=_counted(s.truth, calls)) for s in dataset.samples])
    resumed = evaluate(segmenter, counting, resume=state)
    assert len(calls) == 2  # only what was left
    np.testing.assert_array_equal(resumed.matrix.counts, evaluate(segmenter, dataset).matrix.counts)


def _counted(truth: Callable[[], np.ndarray], calls: list[int]) -> Callable[[], np.ndarray]:
    def read() -> np.ndarray:
        calls.append(1)
        return truth()

    return read


def test_no_temporary_files_stay(dataset: Dataset, segmenter: Segmenter, tmp_path: Path) -> None:
    folder = tmp_path / "states"
    evaluate(segmenter, dataset, limit=1, resume=folder / "run.state")
    evaluate(segmenter, dataset, resume=folder / "run.state")
    assert [path.name for path in folder.iterdir()] == ["run.state"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"logit_scale": 41.0}, "settings.logit_scale 40.0, and this one 41.0"),
        ({"short_side": 96}, "settings.short_side 128, and this one 96"),
        ({"stride": 32}, "settings.stride 48, and this one 32"),
        ({"prob_threshold": 0.5}, "settings.prob_threshold 0.0, and this one 0.5"),
        ({"whole_image": True}, "backend.encoder encoder.fp32.onnx, and this one"),
        ({"templates": "imagenet"}, "classes_sha256"),
    ],
)
def test_a_state_of_other_settings_is_refused(
    change: dict[str, Any],
    message: str,
    dataset: Dataset,
    bundle_path: Path,
    segmenter: Segmenter,
    tmp_path: Path,
) -> None:
    state = tmp_path / "run.state"
    evaluate(segmenter, dataset, limit=1, resume=state)
    before = state.read_bytes()
    other = open_segmenter(bundle_path, dataset, **OPTIONS | change)
    with pytest.raises(OptionError, match=f"run.state is of another evaluation: it has {message}"):
        evaluate(other, dataset, resume=state)
    assert state.read_bytes() == before


def test_a_state_of_another_dataset_or_bundle_is_refused(
    dataset: Dataset, segmenter: Segmenter, own_bundle: Path, tmp_path: Path
) -> None:
    from tiny_bundle import edit_manifest

    state = tmp_path / "run.state"
    evaluate(segmenter, dataset, limit=1, resume=state)
    with pytest.raises(OptionError, match=r"dataset\.sha256"):
        evaluate(segmenter, replace(dataset, samples=list(dataset.samples)[::-1]), resume=state)
    edit_manifest(own_bundle, lambda document: document["created_with"].update(x="y"))
    with pytest.raises(OptionError, match=r"bundle\.sha256"):
        evaluate(open_segmenter(own_bundle, dataset, **OPTIONS), dataset, resume=state)


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[:100],
        lambda _: "[]",
        lambda text: text.replace("scclip-eval-state/1", "scclip-eval-state/9"),
        lambda text: text.replace('"counts": [[0,', '"counts": [[9,'),
        lambda text: text.replace('"num_classes": 3', '"num_classes": 4'),
        lambda text: text.replace('"done": 2', '"done": -1'),
    ],
)
def test_a_damaged_state_is_refused(
    damage: Callable[[str], str], dataset: Dataset, segmenter: Segmenter, tmp_path: Path
) -> None:
    state = tmp_path / "run.state"
    evaluate(segmenter, dataset, limit=2, resume=state)
    text = damage(state.read_text())
    assert text != state.read_text()
    state.write_text(text)
    with pytest.raises(OptionError, match=r"can't go on from .*run\.state: "):
        evaluate(segmenter, dataset, resume=state)


def test_a_state_that_is_further_than_the_limit(
    dataset: Dataset, segmenter: Segmenter, tmp_path: Path
) -> None:
    state = tmp_path / "run.state"
    evaluate(segmenter, dataset, limit=3, resume=state)
    with pytest.raises(OptionError, match="has 3 images done already, more than the 2 asked for"):
        evaluate(segmenter, dataset, limit=2, resume=state)


def test_a_state_that_cannot_be_written_shows_before_any_work(
    dataset: Dataset, segmenter: Segmenter, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    calls: list[int] = []
    counting = replace(dataset, samples=[replace(s, truth=_counted(s.truth, calls)) for s in dataset.samples])
    with pytest.raises(OutputError, match="can't write"):
        evaluate(segmenter, counting, resume=tmp_path / "file" / "run.state")
    assert not calls


def test_limits_below_one_are_refused(dataset: Dataset, segmenter: Segmenter) -> None:
    with pytest.raises(OptionError, match="limit must be at least 1; got 0"):
        evaluate(segmenter, dataset, limit=0)


def test_a_mask_of_another_size_is_named(dataset: Dataset, segmenter: Segmenter, own) -> None:
    Image.fromarray(np.zeros((60, 81), np.uint8)).save(own.base / "masks" / "b.png")
    with pytest.raises(DatasetError, match=r"the mask of .*images/b\.png is 81×60 and the image 80×60"):
        evaluate(segmenter, dataset)


def test_a_label_out_of_range_is_named(dataset: Dataset, segmenter: Segmenter, own) -> None:
    Image.fromarray(np.full((60, 80), 3, np.uint8)).save(own.base / "masks" / "b.png")
    with pytest.raises(DatasetError, match=r"masks/b\.png: label 3 is out of range"):
        evaluate(segmenter, dataset)


def test_an_unreadable_image_is_named(dataset: Dataset, segmenter: Segmenter, own) -> None:
    (own.base / "images" / "b.png").write_bytes(b"no image")
    with pytest.raises(ImageError, match=r"images/b\.png"):
        evaluate(segmenter, dataset)


def test_a_segmenter_of_other_classes_is_refused(dataset: Dataset, bundle_path: Path) -> None:
    other = Segmenter(bundle_path, classes=["a", "b"], templates="none")
    with pytest.raises(DatasetError, match="has 3 classes and the segmenter 2"):
        evaluate(other, dataset)


def test_samples_are_read_as_they_are_needed(dataset: Dataset, segmenter: Segmenter) -> None:
    """Constant memory: what is ahead of the result is bounded, however many images there are."""

    class Endless(list):  # type: ignore[type-arg]
        read = 0

        def __len__(self) -> int:
            return 10**6

        def __getitem__(self, index: Any) -> Sample:
            Endless.read = max(Endless.read, index)
            return dataset.samples[index % 5]

    ahead = []

    def watched(index: int) -> Sample:
        sample = dataset.samples[index % 5]

        def truth() -> np.ndarray:
            ahead.append(Endless.read - len(ahead))
            return sample.truth()

        return replace(sample, truth=truth)

    class Watched(Endless):
        def __getitem__(self, index: Any) -> Sample:
            super().__getitem__(index)
            return watched(index)

    endless = replace(dataset, samples=Watched(), identity="endless")
    evaluate(segmenter, endless, limit=120)
    assert len(ahead) == 120
    assert max(ahead) < 60


def test_progress_shows_the_running_miou(
    dataset: Dataset, segmenter: Segmenter, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluate(segmenter, dataset, progress=True)
    shown = capsys.readouterr().err
    assert "5/5" in shown
    assert "mIoU" in shown
    evaluate(segmenter, dataset)
    assert capsys.readouterr().err == ""


def test_table_and_document(dataset: Dataset, segmenter: Segmenter) -> None:
    result = evaluate(segmenter, dataset, limit=2)
    text, data = table(result), document(result)
    scores = result.scores
    assert f"mIoU {scores.miou:.2f}" in text
    assert "2 of 5 images" in text
    assert [entry["name"] for entry in data["classes"]] == ["red", "green", "blue"]
    assert data["classes"][0]["names"] == ["red", "crimson"]
    assert data["miou"] == pytest.approx(scores.miou, abs=1e-4)
    assert data["settings"]["short_side"] == 128
    assert data["images"] == 2
    json.dumps(data, allow_nan=False)


def test_what_does_not_exist_is_null_and_a_dash(dataset: Dataset, segmenter: Segmenter) -> None:
    result = replace(evaluate(segmenter, dataset, limit=1), matrix=ConfusionMatrix(3))
    assert document(result)["miou"] is None
    assert "mIoU –" in table(result)
    json.dumps(document(result), allow_nan=False)


def chart(path: Path, names: list[str], values: list[float], mean: float = float("nan")) -> np.ndarray:
    bar_chart(path, names, np.array(values), mean, "title")
    return np.array(Image.open(path).convert("RGB"))


def test_the_chart_has_a_bar_as_long_as_its_value(tmp_path: Path) -> None:
    blue = np.array([0, 114, 178])
    lengths = []
    for value in (25.0, 100.0):
        picture = chart(tmp_path / "chart.png", ["a"], [value])
        lengths.append(int((picture == blue).all(-1).sum(axis=1).max()))
    assert lengths[1] == pytest.approx(4 * lengths[0], rel=0.02)
    absent = chart(tmp_path / "chart.png", ["a", "b"], [np.nan, 0.0])
    assert not (absent == blue).all(-1).any()


def test_the_chart_holds_the_longest_list(tmp_path: Path) -> None:
    picture = chart(tmp_path / "chart.png", ["x" * 200] * 171, list(np.linspace(0, 100, 171)), 50.0)
    assert picture.shape[1] < 1500


def test_evaluation_loads_no_torch() -> None:
    import subprocess

    code = "import scclip_rt.evaluation, sys; print({'torch', 'sklearn', 'matplotlib', 'onnx'} & set(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stdout.strip() == "set()"
