"""Anomaly detection against the local outlier factor as it is defined, in float64."""

import numpy as np
import pytest
import torch
from sklearn.neighbors import NearestNeighbors

from scclip_kernels import anomaly_scores, num_outliers, outlier_indices, squared_distances


def lof_oracle(features: np.ndarray, k: int) -> np.ndarray:
    """The factor with reach distances max(d_ij, own k-distance), as the official implementation writes it."""
    neighbors = NearestNeighbors(n_neighbors=k + 1, metric="sqeuclidean", algorithm="brute").fit(features)
    distances, indices = neighbors.kneighbors(features)
    distances, indices = distances[:, 1:], indices[:, 1:]
    k_distance = distances[:, -1]
    reach = np.maximum(distances, k_distance[:, None])
    density = 1 / reach.mean(axis=1)
    return density[indices].mean(axis=1) / density


def has_neighbor_tie(features: np.ndarray, k: int) -> np.ndarray:
    """Whether a patch's k-th and (k + 1)-th neighbor are so near to each other that rounding in float32 decides
    which of them enters the score."""
    search = NearestNeighbors(n_neighbors=k + 2, metric="sqeuclidean", algorithm="brute").fit(features)
    distances, _ = search.kneighbors(features)
    return distances[:, k + 1] - distances[:, k] < 1e-4 * distances[:, k]


@pytest.mark.parametrize(("patches", "width", "k"), [(196, 128, 30), (49, 64, 30), (256, 33, 30), (36, 8, 5)])
def test_scores_match_the_local_outlier_factor(patches: int, width: int, k: int) -> None:
    features = torch.randn(3, patches, width) * 4 + 50  # far from the origin, where the Gram form cancels
    scores = anomaly_scores(features, k)
    assert scores.dtype == torch.float32
    for got, window in zip(scores, features, strict=True):
        expected = lof_oracle(window.double().numpy(), k)
        clear = ~has_neighbor_tie(window.double().numpy(), k)
        assert clear.mean() >= 0.8
        np.testing.assert_allclose(got.numpy()[clear], expected[clear], rtol=2e-4)
        np.testing.assert_allclose(got.numpy(), expected, rtol=2e-2)


def test_a_batch_equals_its_singles() -> None:
    features = torch.randn(5, 196, 64)
    singles = torch.cat([anomaly_scores(window[None]) for window in features])
    torch.testing.assert_close(anomaly_scores(features), singles, rtol=1e-5, atol=0)


@pytest.mark.parametrize("fraction", [0.01, 0.05, 0.1, 0.5])
@pytest.mark.parametrize("patches", [32, 49, 196, 256, 257, 576, 1201])
def test_count_is_the_number_of_scores_above_the_quantile(patches: int, fraction: float) -> None:
    scores = torch.randperm(patches).double()
    above = scores > torch.quantile(scores, 1 - fraction, interpolation="linear")
    assert num_outliers(patches, fraction) == int(above.sum())


def test_published_grids_have_ten_and_thirteen_outliers() -> None:
    assert num_outliers(196) == 10
    assert num_outliers(256) == 13


def test_outliers_are_the_highest_scores() -> None:
    scores = torch.rand(4, 50)
    indices = outlier_indices(scores, 7)
    for got, row in zip(indices, scores, strict=True):
        assert set(got.tolist()) == set(np.argsort(row.numpy())[-7:].tolist())


def test_planted_outliers_are_found() -> None:
    features = torch.randn(2, 196, 64)
    planted = [3, 77, 150]
    features[:, planted] += 40
    assert set(planted) <= set(outlier_indices(anomaly_scores(features), 10)[0].tolist())


def test_identical_tokens_stay_finite() -> None:
    features = torch.ones(1, 64, 16)
    features[0, :20] = torch.randn(20, 16)
    assert torch.isfinite(anomaly_scores(features)).all()


def test_tokens_of_large_norm_stay_finite_and_exact_in_half_precision() -> None:
    features = torch.randn(1, 196, 64)
    features[0, 5] *= 2000
    scores = anomaly_scores(features.half())
    assert scores.dtype == torch.float32
    assert torch.isfinite(scores).all()
    assert int(scores.argmax()) == 5


def test_a_patch_is_no_neighbour_of_itself() -> None:
    diagonal = squared_distances(torch.randn(2, 40, 8)).diagonal(dim1=1, dim2=2)
    assert torch.isinf(diagonal).all()


@pytest.mark.parametrize("fraction", [-0.1, 1.0])
def test_a_fraction_outside_its_range_is_refused(fraction: float) -> None:
    with pytest.raises(ValueError, match=r"outlier_fraction must be in \[0, 1\)"):
        num_outliers(196, fraction)
