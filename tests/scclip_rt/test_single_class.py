"""A list of one class labels every pixel with it: the warning says so, and how several are written."""

import logging
from dataclasses import replace

import numpy as np
import pytest

from scclip_rt import Segmenter
from scclip_rt.bundle.bundle import Bundle
from scclip_rt.cli.vocabulary import _class_file as class_file
from scclip_rt.demo.scenes import test_scene as held_out_scene
from scclip_rt.encoded import class_weights
from scclip_rt.evaluation.class_advice import advise, nearest_pairs
from scclip_rt.vocabulary import open as open_vocabulary


@pytest.fixture(autouse=True)
def _nothing_told_yet() -> None:
    open_vocabulary._warn_of_only_class.cache_clear()


def warnings_of(caplog: pytest.LogCaptureFixture, classes: object) -> list[str]:
    segment = Segmenter("demo")
    with caplog.at_level(logging.WARNING, logger="scclip_rt"):
        segment.set_classes(classes)  # type: ignore[arg-type]
    assert segment(np.zeros((224, 224, 3), np.uint8)).labels.shape == (224, 224)
    return [record.getMessage() for record in caplog.records]


@pytest.mark.parametrize("classes", ["grass, tartan, wood", ["grass, tartan, wood"]])
def test_commas_alone_are_one_class_with_a_warning(classes: object, caplog: pytest.LogCaptureFixture) -> None:
    (message,) = warnings_of(caplog, classes)
    assert "'grass', with 2 synonyms" in message
    assert '"grass; tartan; wood"' in message


def test_a_list_is_warned_of_once(caplog: pytest.LogCaptureFixture) -> None:
    segment = Segmenter("demo", classes="grass, tartan")
    for classes in ("grass, tartan", "grass, wood", "grass, tartan"):
        segment = segment.with_classes(classes)
    with_one, with_other = [record.getMessage() for record in caplog.records]
    assert "with 1 synonym:" in with_one
    assert '"grass; wood"' in with_other


def test_one_name_alone_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    (message,) = warnings_of(caplog, "grass")
    assert '"grass; background"' in message


@pytest.mark.parametrize("classes", ["grass; tartan", ["background, other"]])
def test_several_classes_or_a_background_are_not(classes: object, caplog: pytest.LogCaptureFixture) -> None:
    assert warnings_of(caplog, classes) == []


def test_a_single_class_of_surgery_is_compared_with_the_empty_text(caplog: pytest.LogCaptureFixture) -> None:
    """Its code shows f · (t - t_empty): the class is where that is positive."""
    demo = Bundle.open("demo")
    decoding = replace(demo.decoding, class_weighting="surgery")
    bundle = replace(demo, manifest=replace(demo.manifest, decoding=decoding))
    scene = held_out_scene(0)
    with caplog.at_level(logging.WARNING, logger="scclip_rt"):
        segment = Segmenter(bundle, classes="checkerboard", cache=False)
    assert caplog.records == []
    assert (segment.vocabulary.classes, segment.vocabulary.background) == (("checkerboard", "background"), 1)
    assert segment.vocabulary.queries == ("checkerboard", "")
    encoded = Segmenter("demo").encode(scene.image)
    weighted = replace(encoded, class_features=encoded.features[:, 0])
    text = segment.vocabulary.embeddings
    assert not np.allclose(class_weights(encoded.features[:, 0], text), 1.0)
    labels = segment.decode(weighted).labels  # two classes, and no class weights
    np.testing.assert_array_equal(labels, segment.decode(encoded).labels)
    assert set(np.unique(labels)) <= {0, 1}
    advice = advise(segment.vocabulary, nearest_pairs(segment.vocabulary))
    assert class_file(advice, segment.vocabulary).splitlines()[1:] == ["checkerboard"]
    with caplog.at_level(logging.WARNING, logger="scclip_rt"):
        Segmenter(bundle, classes="grass, tartan", cache=False)
    (message,) = [record.getMessage() for record in caplog.records]
    assert 'nearer to it than the empty text; for 2 classes write "grass; tartan"' in message
    assert Segmenter(bundle, classes="checkerboard; sky", cache=False).vocabulary.queries == (
        "checkerboard",
        "sky",
    )
