"""`Segmenter`: one image at a time."""

import pickle
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from scclip_rt import Bundle, Segmenter, Vocabulary
from scclip_rt.errors import BackendError, ImageError, OptionError, ScclipError, VocabularyError
from scclip_rt.vocabulary.file import save_vocabulary
from tiny_bundle import EMBED, ZERO_SHA, blocks_image, edit_manifest

# The features are colours about grey, so these three "classes" can be told apart by eye.
COLOURS = ("red", "green", "blue")


def colour_vocabulary(background: int | None = None, model: str = ZERO_SHA) -> Vocabulary:
    embeddings = np.zeros((3, EMBED), np.float32)
    embeddings[:, :3] = np.eye(3)
    return Vocabulary(
        embeddings=embeddings,
        classes=COLOURS,
        queries=COLOURS,
        query_class=np.arange(3),
        background=background,
        templates="none",
        text_model_sha256=model,
    )


def halves() -> np.ndarray:
    """Red on the left, blue on the right, 120×200."""
    image = np.zeros((120, 200, 3), np.uint8)
    image[:, :100, 0] = image[:, 100:, 2] = 255
    return image


@pytest.fixture(scope="module")
def segment(bundle_path: Path) -> Segmenter:
    return Segmenter(bundle_path, vocabulary=colour_vocabulary())


def test_labels_shares_and_the_rest(segment: Segmenter) -> None:
    result = segment(halves(), confidence=True)
    assert result.labels.shape == (120, 200)
    assert result.labels.dtype == np.uint8
    assert (result.labels[:, :85] == 0).all()
    assert (result.labels[:, 115:] == 2).all()
    assert result.classes == COLOURS
    assert result.shares()["red"] == pytest.approx(0.5, abs=0.05)
    assert result.confidence is not None
    assert result.confidence[60, 10] > 0.99
    assert segment(halves()).confidence is None
    assert result.overlay().shape[2] == 3


def test_path_pillow_image_and_array_are_the_same(segment: Segmenter, tmp_path: Path) -> None:
    image = blocks_image()
    Image.fromarray(image).save(tmp_path / "a.png")
    expected = segment(image).labels
    for source in (tmp_path / "a.png", str(tmp_path / "a.png"), Image.fromarray(image)):
        np.testing.assert_array_equal(segment(source).labels, expected)
    assert segment(tmp_path / "a.png").name == str(tmp_path / "a.png")
    assert [path.name for path in segment(tmp_path / "a.png").save(tmp_path / "out")] == [
        "a.labels.png",
        "a.overlay.png",
    ]


@pytest.mark.parametrize("shape", [(1, 1), (1, 50), (50, 1), (3, 700), (95, 97), (500, 20)])
def test_small_and_elongated_images(segment: Segmenter, shape: tuple[int, int]) -> None:
    image = np.zeros((*shape, 3), np.uint8)
    image[..., 1] = 255
    assert (segment(image).labels == 1).all()
    assert segment(image).labels.shape == shape


def test_classes_from_names_files_and_lists_agree(bundle_path: Path, tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_text("cat\ndog, puppy\n")
    sources: list[Any] = [
        ["cat", "dog, puppy"],
        "cat; dog, puppy",
        tmp_path / "classes.txt",
    ]
    results = [Segmenter(bundle_path, classes=source, templates="none") for source in sources]
    named = str(tmp_path / "classes.txt")
    results.append(Segmenter(bundle_path, classes_file=named, templates="none"))
    results.append(results[0].with_classes(classes_file=named))
    for result in results:
        assert result.vocabulary.classes == ("cat", "dog")
        assert result.vocabulary.queries == ("cat", "dog", "puppy")
        np.testing.assert_array_equal(result.vocabulary.embeddings, results[0].vocabulary.embeddings)


def test_vocabulary_file_needs_no_text_encoder(own_bundle: Path, tmp_path: Path) -> None:
    save_vocabulary(colour_vocabulary(), tmp_path / "v.safetensors")
    segment = Segmenter(own_bundle, vocabulary=tmp_path / "v.safetensors", background="green")
    assert segment.vocabulary.background == 1
    # The text encoder is not even opened: a damaged one is noticed only when names are embedded.
    path = own_bundle / "text_encoder.onnx"
    path.write_bytes(bytes(path.stat().st_size))
    Segmenter(own_bundle, vocabulary=tmp_path / "v.safetensors")(halves())
    with pytest.raises(Exception, match=r"text_encoder\.onnx: SHA-256"):
        Segmenter(own_bundle, classes=["cat"], cache=False, templates="none")


def test_vocabulary_of_another_model_is_refused(bundle_path: Path, segment: Segmenter) -> None:
    other = colour_vocabulary(model="f" * 64)
    with pytest.raises(VocabularyError, match="was made by text model ffffffffffff"):
        Segmenter(bundle_path, vocabulary=other)
    with pytest.raises(VocabularyError, match="was made by text model"):
        segment.decode(segment.encode(halves()), other)


def test_classes_change_without_encoding_again(segment: Segmenter, monkeypatch: pytest.MonkeyPatch) -> None:
    encoded = segment.encode(blocks_image())
    assert encoded.features.shape == (len(encoded.tiling), 36, EMBED)
    assert encoded.features.dtype == np.float32
    assert encoded.grid == (6, 6)
    swapped = Vocabulary(
        embeddings=colour_vocabulary().embeddings[::-1].copy(),
        classes=COLOURS[::-1],
        queries=COLOURS[::-1],
        query_class=np.arange(3),
        background=None,
        templates="none",
        text_model_sha256=ZERO_SHA,
    )
    monkeypatch.setattr(type(segment.backend), "features", lambda *_: pytest.fail("encoded again"))
    first, second = segment.decode(encoded), segment.decode(encoded, swapped)
    np.testing.assert_array_equal(first.labels, 2 - second.labels)
    assert second.classes == COLOURS[::-1]


def test_with_classes_shares_the_encoder_and_leaves_the_first_alone(segment: Segmenter) -> None:
    other = segment.with_classes(["cat", "dog"])
    assert other.backend is segment.backend
    assert other.vocabulary.classes == ("cat", "dog")
    assert segment.vocabulary.classes == COLOURS
    other.set_classes(vocabulary=colour_vocabulary(), background="none")
    np.testing.assert_array_equal(other(halves()).labels, segment(halves()).labels)


def test_no_classes_yet(bundle_path: Path) -> None:
    segment = Segmenter(bundle_path)
    assert segment.encode(halves()).features.ndim == 3
    with pytest.raises(VocabularyError, match=r"no classes yet; pass classes= or vocabulary="):
        segment(halves())
    with pytest.raises(OptionError, match="carries no ready vocabulary"):
        segment.set_classes()
    with pytest.raises(OptionError, match="either classes or a vocabulary"):
        Segmenter(bundle_path, classes=["a"], vocabulary=colour_vocabulary())


def test_threshold_and_background(bundle_path: Path) -> None:
    grey = np.full((120, 120, 3), 128, np.uint8)  # alike to all three classes
    unlabelled = Segmenter(bundle_path, vocabulary=colour_vocabulary(), prob_threshold=0.9)(grey)
    assert (unlabelled.labels == 255).all()
    background = Segmenter(
        bundle_path, vocabulary=colour_vocabulary(), background="green", prob_threshold=0.9
    )(grey)
    assert (background.labels == 1).all()


def test_defaults_come_from_the_bundle(own_bundle: Path) -> None:
    edit_manifest(
        own_bundle,
        lambda document: document.update(
            decoding={"logit_scale": 55.0, "prob_threshold": 0.35, "area_threshold": 0.1}
        ),
    )
    options = Segmenter(own_bundle).options
    assert (options.logit_scale, options.prob_threshold, options.area_threshold) == (55.0, 0.35, 0.1)
    options = Segmenter(own_bundle, logit_scale=1, prob_threshold=0, area_threshold=0).options
    assert (options.logit_scale, options.prob_threshold, options.area_threshold) == (1, 0, 0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"logit_scale": 0}, "logit_scale must be a number from"),
        ({"logit_scale": float("nan")}, "logit_scale must be a number from 1e-06 to 10,000; got nan"),
        ({"prob_threshold": 1.5}, "prob_threshold must be a number from 0 to 1; got 1.5"),
        ({"area_threshold": -0.1}, "area_threshold must be a number from 0 to 1"),
        ({"refine": "crf"}, "unknown refinement 'crf'; known: pamr"),
        ({"short_side": 0}, "short_side must be a whole number from 1 to 65,536; got 0"),
        ({"short_side": 3.5}, "short_side must be a whole number"),
        ({"stride": 100}, "a stride of 100 leaves gaps between windows of 96"),
        ({"stride": 48, "whole_image": True}, "a stride goes with windows"),
        (
            {"short_side": 3000},
            "a short side of 3000 is above 2048, to which the bundle limits the long side",
        ),
        ({"threads": 0}, "threads must be a whole number from 1"),
        ({"preset": 3}, "a preset is a name, or two with a comma between; got 3"),
        ({"preset": ["fast"]}, r"got \['fast'\]"),
    ],
)
def test_options_out_of_range(bundle_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        Segmenter(bundle_path, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"classes": 3}, "classes must be names or a path; got 3"),
        ({"classes": b"cat"}, "classes must be names or a path; got b'cat'"),
        ({"classes": [3]}, r"class 1: class names must be strings; got \[3\]"),
        ({"device": None}, "unknown device None"),
    ],
)
def test_values_of_another_type_are_told(bundle_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ScclipError, match=message):
        Segmenter(bundle_path, **options)


def test_a_presets_stride_is_left_aside_for_whole_images(bundle_path: Path) -> None:
    assert Segmenter(bundle_path, preset="fast", whole_image=True).backend.spec.grid.kind == "dynamic"


def test_short_side_and_stride_decide_the_windows(bundle_path: Path) -> None:
    assert len(Segmenter(bundle_path).encode(halves()).tiling) == 2 * 4
    assert len(Segmenter(bundle_path, short_side=96).encode(halves()).tiling) == 1 * 3
    assert len(Segmenter(bundle_path, stride=96).encode(halves()).tiling) == 2 * 3


def test_refinement_follows_edges(bundle_path: Path) -> None:
    plain = Segmenter(bundle_path, vocabulary=colour_vocabulary())(halves())
    refined = Segmenter(bundle_path, vocabulary=colour_vocabulary(), refine="pamr")(halves())
    truth = np.where(np.arange(200) < 100, 0, 2)
    assert (refined.labels == truth).mean() >= (plain.labels == truth).mean()


def test_whole_image_on_a_dynamic_grid(bundle_path: Path) -> None:
    segment = Segmenter(bundle_path, vocabulary=colour_vocabulary(), whole_image=True)
    encoded = segment.encode(halves())
    assert (encoded.tiling.height, encoded.tiling.width) == (128, 208)  # 128×213 to multiples of 16
    assert encoded.grid == (8, 13)
    assert encoded.features.shape == (1, 8 * 13, EMBED)
    result = segment(halves())
    assert (result.labels[:, :90] == 0).all()
    assert (result.labels[:, 110:] == 2).all()


def test_whole_image_on_a_fixed_grid_is_resized_to_it(own_bundle: Path) -> None:
    edit_manifest(own_bundle, lambda document: document["encoders"].pop(1))
    segment = Segmenter(own_bundle, vocabulary=colour_vocabulary(), whole_image=True)
    for shape in ((120, 200), (300, 40), (1, 1)):
        encoded = segment.encode(np.zeros((*shape, 3), np.uint8))
        assert encoded.grid == (8, 12)
        assert encoded.resized.shape == (128, 192, 3)
        assert segment(np.zeros((*shape, 3), np.uint8)).labels.shape == shape


def test_whole_image_without_such_an_encoder(own_bundle: Path) -> None:
    edit_manifest(own_bundle, lambda document: document.update(encoders=document["encoders"][:1]))
    with pytest.raises(BackendError, match=r"--dynamic-grid.*--image-size HxW"):
        Segmenter(own_bundle, whole_image=True)


@pytest.mark.parametrize(
    ("options", "shape", "message"),
    [
        ({"max_pixels": 100}, (11, 10), "10×11, .* the limit is"),
        ({"max_windows": 3}, (100, 400), "needs 20 windows at 512×128; the limit is 3"),
        ({}, (1, 20_000), "needs .* windows at 1920000×96; the limit is 1,024"),
        ({"whole_image": True, "short_side": 2048}, (400, 400), "16,384 patches .* the limit is 8,192"),
    ],
)
def test_limits(bundle_path: Path, options: dict[str, Any], shape: tuple[int, int], message: str) -> None:
    segment = Segmenter(bundle_path, vocabulary=colour_vocabulary(), **options)
    with pytest.raises(ImageError, match=message):
        segment(np.zeros((*shape, 3), np.uint8))


def test_calls_from_many_threads(segment: Segmenter) -> None:
    images = [blocks_image(seed=seed) for seed in range(8)]
    expected = [segment(image).labels for image in images]
    barrier = threading.Barrier(4)

    def work(index: int) -> bool:
        barrier.wait(60)
        return all(
            (segment(image).labels == labels).all() for image, labels in zip(images, expected, strict=True)
        )

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(work, range(4)))


def test_open_bundle_is_taken_as_it_is(bundle_path: Path) -> None:
    bundle = Bundle.open(bundle_path)
    assert Segmenter(bundle).bundle is bundle


def test_other_options_share_the_encoder_and_survive_pickling(segment: Segmenter) -> None:
    image = blocks_image(seed=3)
    strict = segment.with_options(replace(segment.options, prob_threshold=0.9))
    assert strict.backend is segment.backend
    expected = strict(image).labels
    assert (expected != segment(image).labels).any()
    assert np.array_equal(pickle.loads(pickle.dumps(strict))(image).labels, expected)


def test_an_encoder_from_elsewhere_is_used_and_stays_in_its_process(segment: Segmenter) -> None:
    other = Segmenter(segment.bundle, encoder=segment.backend, vocabulary=segment.vocabulary)
    image = blocks_image(seed=4)
    assert other.backend is segment.backend
    assert np.array_equal(other(image).labels, segment(image).labels)
    with pytest.raises(OptionError, match="stays in its process"):
        pickle.dumps(other)
