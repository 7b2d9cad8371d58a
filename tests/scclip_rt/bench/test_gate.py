"""What the correctness gate lets through."""

import numpy as np
import pytest
from numpy.typing import NDArray

from scclip_rt.bench.errors import BenchError
from scclip_rt.bench.gate import Limits, check, limits_for

LIMITS = Limits(mean_abs=1e-3, labels=0.9, batch_mean_abs=1e-4)


def unit(array: NDArray[np.float64]) -> NDArray[np.float32]:
    return (array / np.linalg.norm(array, axis=-1, keepdims=True)).astype(np.float32)


@pytest.fixture
def features() -> NDArray[np.float32]:
    return unit(np.random.default_rng(0).standard_normal((3, 36, 32)))


def noisy(features: NDArray[np.float32], scale: float) -> NDArray[np.float32]:
    return unit(features + scale * np.random.default_rng(1).standard_normal(features.shape))


def test_equal_features_pass(features: NDArray[np.float32]) -> None:
    gate = check(features, features, features, LIMITS, name="a")
    assert (gate.mean_abs, gate.labels, gate.batch_mean_abs, gate.windows) == (0.0, 1.0, 0.0, 3)


def test_figures_are_of_the_worst_window(features: NDArray[np.float32]) -> None:
    other = features.copy()
    other[1] = noisy(features[1:2], 1e-3)[0]
    gate = check(other, other, features, LIMITS, name="a")
    assert gate.mean_abs == pytest.approx(np.abs(other[1] - features[1]).mean())
    assert gate.max_abs == pytest.approx(np.abs(other - features).max())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: np.where(np.arange(f.size).reshape(f.shape) == 7, np.nan, f), "NaN or infinity"),
        (lambda f: f * np.float32(1.01), "off unit length"),
        (lambda f: noisy(f, 0.05), "differ from the float32 reference"),
        (lambda f: f[:2], r"features \(2, 36, 32\)"),
    ],
)
def test_wrong_features_fail(features: NDArray[np.float32], change: object, message: str) -> None:
    wrong = change(features)  # type: ignore[operator]
    with pytest.raises(BenchError, match=message):
        check(wrong, wrong, features, LIMITS, name="a")


def test_a_method_s_own_lengths_pass(features: NDArray[np.float32]) -> None:
    """SegEarth-OV adds λ times the class token to unit vectors."""
    longer = features - np.float32(0.3) * features[:, :1]
    assert check(longer, longer, longer, LIMITS, name="a").unit_error == 0.0


def test_a_window_that_depends_on_its_neighbours_fails(features: NDArray[np.float32]) -> None:
    with pytest.raises(BenchError, match="a window in a batch differs from itself alone"):
        check(features, noisy(features, 2e-3), features, LIMITS, name="a")


def test_other_labels_fail(features: NDArray[np.float32]) -> None:
    loose = Limits(mean_abs=0.05, labels=0.95, batch_mean_abs=1.0)
    other = features.copy()
    other[:, :4] = features[
        :, 4:8
    ]  # a ninth of the patches are another's: the mean alone would let them through
    with pytest.raises(BenchError, match="another best query"):
        check(other, other, features, loose, name="a")


def test_a_bundle_s_own_thresholds_count_for_its_own_precision() -> None:
    stated = {"thresholds": {"mean_abs": 4e-3, "labels": 0.95}}
    own = limits_for("int8", "int8", stated)
    assert own.mean_abs == pytest.approx(8e-3)
    assert own.labels == pytest.approx(0.9)
    # A float32 file that a backend runs in bf16 has no thresholds for that.
    assert limits_for("bf16", "fp32", stated) == limits_for("bf16", "fp32", {})
    assert limits_for("fp32", "fp32", {"threshold": 2e-5}).mean_abs == pytest.approx(1e-3)


def test_a_tie_between_queries_is_no_difference() -> None:
    """Patches that are nearly alike: rounding picks among queries that are equally good."""
    rng = np.random.default_rng(2)
    alike = unit(rng.standard_normal(32) + 1e-4 * rng.standard_normal((1, 36, 32)))
    other = noisy(alike, 1e-4)
    assert check(other, other, alike, LIMITS, name="a").labels == 1.0
