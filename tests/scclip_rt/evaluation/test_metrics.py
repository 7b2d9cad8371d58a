"""The metric, against scikit-learn and by hand."""

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, confusion_matrix, jaccard_score, recall_score

from scclip_rt.errors import OptionError
from scclip_rt.evaluation import ConfusionMatrix, DatasetError

UNLABELLED = 255


@st.composite
def maps(draw: st.DrawFn) -> tuple[int, list[tuple[np.ndarray, np.ndarray]]]:
    """A number of classes and a few pairs of truth (255: ignored) and prediction (255: unlabelled)."""
    num_classes = draw(st.integers(1, 12))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    used = rng.choice(num_classes, rng.integers(1, num_classes + 1), replace=False)
    pairs = []
    for _ in range(draw(st.integers(1, 4))):
        shape = tuple(rng.integers(1, 30, 2))
        truth, labels = rng.choice(used, shape).astype(np.uint8), rng.choice(used, shape).astype(np.uint8)
        truth[rng.random(shape) < draw(st.sampled_from([0, 0.2, 1]))] = 255
        labels[rng.random(shape) < draw(st.sampled_from([0, 0.2]))] = UNLABELLED
        pairs.append((truth, labels))
    return num_classes, pairs


@given(maps())
@settings(max_examples=150)
def test_figures_agree_with_scikit_learn(case: tuple[int, list[tuple[np.ndarray, np.ndarray]]]) -> None:
    num_classes, pairs = case
    matrix = ConfusionMatrix(num_classes)
    for truth, labels in pairs:
        matrix.update(truth, labels, unlabelled=UNLABELLED)
    truth = np.concatenate([truth.ravel() for truth, _ in pairs])
    labels = np.concatenate([labels.ravel() for _, labels in pairs]).astype(int)
    counted = truth != 255
    truth, labels = truth[counted].astype(int), labels[counted]
    labels[labels == UNLABELLED] = num_classes  # one more class, which no truth has
    assert matrix.pixels == len(truth)
    scores = matrix.scores()
    if not len(truth):
        assert np.isnan([scores.miou, scores.macc, scores.aacc]).all()
        return
    every = list(range(num_classes + 1))
    np.testing.assert_array_equal(matrix.counts, confusion_matrix(truth, labels, labels=every)[:-1])
    classes = every[:-1]
    iou = 100 * jaccard_score(truth, labels, labels=classes, average=None, zero_division=0)
    acc = 100 * recall_score(truth, labels, labels=classes, average=None, zero_division=0)
    occurs, predicted = np.isin(classes, truth), np.isin(classes, labels)
    np.testing.assert_allclose(scores.iou, np.where(occurs | predicted, iou, np.nan))
    np.testing.assert_allclose(scores.acc, np.where(occurs, acc, np.nan))
    assert scores.miou == pytest.approx(iou[occurs | predicted].mean())
    assert scores.macc == pytest.approx(acc[occurs].mean())
    assert scores.aacc == pytest.approx(100 * accuracy_score(truth, labels))
    assert scores.share.sum() == pytest.approx(100)


def test_by_hand() -> None:
    truth = np.array([[0, 0, 0, 1], [1, 1, 255, 255]], np.uint8)
    labels = np.array([[0, 0, 1, 1], [1, 0, 0, 2]], np.uint8)
    matrix = ConfusionMatrix(4)
    matrix.update(truth, labels)
    scores = matrix.scores()
    # class 0: 2 right of 3 true and 3 predicted; class 1 likewise; 2 and 3: nothing that counts.
    np.testing.assert_allclose(scores.iou, [50, 50, np.nan, np.nan])
    np.testing.assert_allclose(scores.acc, [200 / 3, 200 / 3, np.nan, np.nan])
    assert (scores.miou, scores.aacc) == (pytest.approx(50), pytest.approx(200 / 3))


def test_a_class_that_is_predicted_and_never_true_counts_as_zero() -> None:
    matrix = ConfusionMatrix(3)
    matrix.update(np.array([[0, 0]]), np.array([[0, 1]]))
    scores = matrix.scores()
    np.testing.assert_allclose(scores.iou, [50, 0, np.nan])
    np.testing.assert_allclose(scores.acc, [50, np.nan, np.nan])
    assert scores.miou == pytest.approx(25)


def test_unlabelled_pixels_are_wrong_for_their_class_and_nobody_elses() -> None:
    matrix = ConfusionMatrix(2)
    matrix.update(np.array([[0, 0, 1, 1]]), np.array([[0, 255, 1, 1]]), unlabelled=255)
    scores = matrix.scores()
    np.testing.assert_allclose(scores.iou, [50, 100])
    assert scores.aacc == pytest.approx(75)
    assert matrix.unlabelled == 1


def test_merging_equals_counting_everything_in_one() -> None:
    rng = np.random.default_rng(0)
    parts = [ConfusionMatrix(5), ConfusionMatrix(5)]
    whole = ConfusionMatrix(5)
    for i in range(6):
        truth, labels = rng.integers(0, 5, (2, 9, 7))
        parts[i % 2].update(truth, labels)
        whole.update(truth, labels)
    np.testing.assert_array_equal((parts[0] + parts[1]).counts, whole.counts)
    with pytest.raises(OptionError, match="5 and 4"):
        parts[0] + ConfusionMatrix(4)


def test_counts_are_64_bit() -> None:
    matrix = ConfusionMatrix(1, counts=np.array([[2**40, 0]], np.int64))
    matrix.update(np.zeros((3, 3), np.uint8), np.zeros((3, 3), np.uint8))
    assert matrix.pixels == 2**40 + 9
    assert matrix.scores().miou == 100


@pytest.mark.parametrize(
    ("truth", "labels", "message"),
    [
        ([[3]], [[0]], "true label 3 is none of the 3 classes"),
        ([[0]], [[3]], "predicted label 3 is none"),
        ([[-1]], [[0]], "true label -1"),
        ([[0]], [[200]], "predicted label 200"),
        ([[0, 0]], [[0]], "2×1 and the prediction 1×1"),
    ],
)
def test_what_is_no_class_is_refused(truth: list[list[int]], labels: list[list[int]], message: str) -> None:
    matrix = ConfusionMatrix(3)
    with pytest.raises(DatasetError, match=message):
        matrix.update(np.array(truth), np.array(labels), unlabelled=255)
    assert matrix.pixels == 0


def test_labels_under_ignored_truth_may_be_anything() -> None:
    matrix = ConfusionMatrix(2)
    matrix.update(np.array([[255, 0]]), np.array([[77, 0]]))
    assert matrix.pixels == 1


def test_an_empty_matrix_has_no_figures_and_gives_no_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scores = ConfusionMatrix(3).scores()
    assert np.isnan([scores.miou, scores.macc, scores.aacc]).all()


@pytest.mark.parametrize("counts", [np.zeros((2, 2), np.int64), np.full((2, 3), -1), np.zeros((2, 3))])
def test_unsound_counts_are_refused(counts: np.ndarray) -> None:
    with pytest.raises(OptionError, match="counts of 2 classes"):
        ConfusionMatrix(2, counts=counts)


def test_a_matrix_needs_a_class() -> None:
    with pytest.raises(OptionError, match="at least one class"):
        ConfusionMatrix(0)
