"""A list of one class labels every pixel with it: the warning says so, and how several are written."""

import logging

import numpy as np
import pytest

from scclip_rt import Segmenter


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


def test_one_name_alone_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    (message,) = warnings_of(caplog, "grass")
    assert '"grass; background"' in message


@pytest.mark.parametrize("classes", ["grass; tartan", ["background, other"]])
def test_several_classes_or_a_background_are_not(classes: object, caplog: pytest.LogCaptureFixture) -> None:
    assert warnings_of(caplog, classes) == []
