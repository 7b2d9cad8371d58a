"""`Segmenter.stream` gives what one call after the other gives."""

import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from scclip_rt import ImageError, OptionError, Segmenter, VocabularyError
from tiny_bundle import blocks_image

SHAPES = [(200, 300), (1, 1), (300, 100), (96, 96), (50, 700), (128, 128), (10, 90)]


@pytest.fixture(scope="module")
def segment(bundle_path: Path) -> Segmenter:
    return Segmenter(bundle_path, classes=["cat", "dog, puppy", "sky"], templates="none", batch=4)


@pytest.fixture(scope="module")
def images() -> list[np.ndarray]:
    return [blocks_image(height, width, seed=i) for i, (height, width) in enumerate(SHAPES)]


@pytest.mark.parametrize(
    "options", [{}, {"batch": 1}, {"batch": 64}, {"whole_image": True}, {"refine": "pamr"}]
)
def test_stream_equals_single_calls(
    bundle_path: Path, images: list[np.ndarray], options: dict[str, object]
) -> None:
    segment = Segmenter(bundle_path, classes=["cat", "dog, puppy", "sky"], templates="none", **options)
    results = list(segment.stream(images, confidence=True))
    assert len(results) == len(images)
    for image, result in zip(images, results, strict=True):
        single = segment(image, confidence=True)
        np.testing.assert_array_equal(result.labels, single.labels)
        np.testing.assert_allclose(result.confidence, single.confidence, atol=1e-6)  # PAMR: by threads


def test_batches_are_filled_across_images(
    segment: Segmenter, images: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    real = segment.backend.features
    monkeypatch.setattr(
        segment.backend, "features", lambda windows: (sizes.append(len(windows)), real(windows))[1]
    )
    list(segment.stream(images))
    total = sum(len(segment.encode(image).tiling) for image in images)
    sizes = sizes[: -(-total // 4)]
    assert sizes[:-1] == [4] * (len(sizes) - 1)
    assert sum(sizes) == total


def test_bad_image_raises_in_its_place(segment: Segmenter, images: list[np.ndarray], tmp_path: Path) -> None:
    (tmp_path / "bad.jpg").write_bytes(b"not a picture")
    results = []
    with pytest.raises(ImageError, match=r"bad\.jpg"):
        results.extend(
            result.labels for result in segment.stream([*images[:2], tmp_path / "bad.jpg", images[3]])
        )
    stream = segment.stream([*images[:2], tmp_path / "bad.jpg", images[3]])
    assert [next(stream).labels.shape for _ in range(2)] == SHAPES[:2]
    with pytest.raises(ImageError, match=r"bad\.jpg"):
        next(stream)


def test_bad_image_is_yielded_in_its_place(
    segment: Segmenter, images: list[np.ndarray], tmp_path: Path
) -> None:
    source = [images[0], tmp_path / "missing.jpg", images[1]]
    first, second, third = segment.stream(source, errors="yield")
    assert isinstance(second, ImageError)
    assert not isinstance(first, ImageError)
    assert not isinstance(third, ImageError)
    assert (first.labels.shape, third.labels.shape) == (SHAPES[0], SHAPES[1])


def test_mistakes_show_before_the_first_image(segment: Segmenter, bundle_path: Path) -> None:
    with pytest.raises(OptionError, match="errors must be 'raise' or 'yield'"):
        segment.stream([], errors="ignore")  # type: ignore[call-overload]
    with pytest.raises(VocabularyError, match="no classes yet"):
        Segmenter(bundle_path).stream([])


def test_empty_stream(segment: Segmenter) -> None:
    assert list(segment.stream([])) == []


def test_source_is_read_lazily_and_closing_stops_the_workers(segment: Segmenter) -> None:
    before = set(threading.enumerate())  # an earlier test's stream may live in the traceback of its error
    read = 0

    def source() -> Iterator[np.ndarray]:
        nonlocal read
        while True:
            read += 1
            yield blocks_image(100, 100, seed=read)

    stream = segment.stream(source())
    for _ in range(5):
        next(stream)
    assert read <= 5 + 2 * 4 + 3
    stream.close()  # type: ignore[attr-defined]
    started = set(threading.enumerate()) - before
    assert not [thread for thread in started if thread.name.startswith("scclip-")]


def test_paths_and_arrays_mix(segment: Segmenter, images: list[np.ndarray], tmp_path: Path) -> None:
    Image.fromarray(images[0]).save(tmp_path / "a.png")
    first, second = segment.stream([tmp_path / "a.png", Image.fromarray(images[0])])
    np.testing.assert_array_equal(first.labels, second.labels)
    assert first.name == str(tmp_path / "a.png")


def test_vocabulary_is_the_one_at_the_start(bundle_path: Path, images: list[np.ndarray]) -> None:
    segment = Segmenter(bundle_path, classes=["cat", "dog"], templates="none")
    stream = segment.stream(images)
    next(stream)
    segment.set_classes(["sky", "sea"])
    assert {result.classes for result in stream} == {("cat", "dog")}
