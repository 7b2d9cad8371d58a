"""Windows that did not change keep their features; the labels are those of frame by frame."""

import numpy as np
import pytest

from scclip_rt import Segmenter
from scclip_rt.errors import OptionError
from scclip_rt.video import FrameSegmenter


@pytest.fixture(scope="module")
def segment():
    return Segmenter("demo", classes=["sky", "grass", "brick", "wood"], short_side=224)


@pytest.fixture(scope="module")
def frames():
    """A still camera, 224×448, three windows: something moves at the right, stops, and then everything changes."""
    rng = np.random.default_rng(0)
    first = rng.integers(0, 256, (14, 28, 3)).repeat(16, axis=0).repeat(16, axis=1).astype(np.uint8)
    second, third = first.copy(), first.copy()
    second[60:100, 360:420] = (200, 30, 40)
    third[80:120, 360:420] = (200, 30, 40)
    return [first, first.copy(), second, third, third.copy(), first[:, ::-1].copy(), first]


def equal(one, other):
    np.testing.assert_array_equal(one.labels, other.labels)
    np.testing.assert_array_equal(one.image, other.image)


def test_exact_reuse_gives_the_labels_of_frame_by_frame(segment, frames):
    step = FrameSegmenter(segment)
    counts = []
    for frame in frames:
        before = step.encoded
        equal(step(frame), segment(frame))
        counts.append(step.encoded - before)
    assert counts == [3, 0, 1, 1, 0, 3, 3]
    assert step.kept == 3 * len(frames) - sum(counts)


def test_a_result_is_the_callers_own(segment, frames):
    results = segment.video([frames[0], frames[0]])
    first = next(results)
    wanted = first.labels.copy()
    first.labels[:] = 7
    np.testing.assert_array_equal(next(results).labels, wanted)


def test_confidence_is_given_when_asked_for_on_a_still_frame(segment, frames):
    step = FrameSegmenter(segment)
    assert step(frames[0]).confidence is None
    confidence = step(frames[0], confidence=True).confidence
    np.testing.assert_array_equal(confidence, segment(frames[0], confidence=True).confidence)


def test_a_tolerance_keeps_noise_but_not_what_adds_up(segment, frames):
    step = FrameSegmenter(segment, reuse=10)
    step(frames[0] // 2)
    for brighter, encodes in ((6, False), (10, False), (12, True), (18, False)):
        before = step.encoded
        step(frames[0] // 2 + np.uint8(brighter))
        assert (step.encoded > before) == encodes, brighter


def test_off_keeps_nothing(segment, frames):
    step = FrameSegmenter(segment, reuse="off")
    for _ in range(2):
        equal(step(frames[0]), segment(frames[0]))
    assert step.kept == 0


def test_frames_of_another_size_start_anew(segment, frames):
    step = FrameSegmenter(segment)
    step(frames[0])
    equal(step(frames[0][:, :300].copy()), segment(frames[0][:, :300].copy()))
    # The same windows after resizing, but another size of the image: decoded again.
    double = frames[0][:, :300].repeat(2, axis=0).repeat(2, axis=1)
    assert step(double).labels.shape == (448, 600)


def test_refinement_follows_each_frame(frames):
    refined = Segmenter("demo", classes=["sky", "grass", "brick"], short_side=224, refine="pamr")
    for frame, result in zip(frames[:2], refined.video(frames[:2]), strict=True):
        equal(result, refined(frame))


@pytest.mark.parametrize("reuse", ["maybe", -1, 256, True, 1.5])
def test_an_unknown_reuse_is_refused(segment, reuse):
    with pytest.raises(OptionError, match="reuse must be"):
        segment.video([], reuse=reuse)
