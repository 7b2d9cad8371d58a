"""Scores and outlier repair against their definitions in float64."""

import pytest
import torch

from oracles.kernels import anomaly_oracle, assert_within_budget, repair_oracle
from scclip_kernels import num_outliers
from scclip_kernels.triton.anomaly import LONG, SIZES, anomaly_scores, anomaly_scores_reference
from scclip_kernels.triton.outlier_repair import repair_outliers, repair_outliers_reference

DTYPES = [torch.float32, torch.float16, torch.bfloat16]


@pytest.fixture
def large_blocks(monkeypatch) -> None:
    """Fewer programs: the interpreter's time goes by programs. Small cases run the sizes that are shipped."""
    for sizes in (SIZES, LONG):
        monkeypatch.setitem(sizes, "BLOCK_M", 128)
        monkeypatch.setitem(sizes, "BLOCK_K", 64)
    monkeypatch.setattr("scclip_kernels.triton.halves.ROWS", 128)


@pytest.mark.parametrize(("patches", "dtype"), [*((37, dtype) for dtype in DTYPES), (260, torch.float32)])
def test_scores_with_the_blocks_shipped(patches, dtype) -> None:
    features = (torch.randn(1, patches, 40) * 2 + 5).to(dtype)
    got = anomaly_scores(features)
    assert got.dtype == torch.float32
    oracle = anomaly_oracle(features, 30)
    torch.testing.assert_close(got.double(), oracle, rtol=1e-4, atol=0)
    assert_within_budget(got, anomaly_scores_reference(features), oracle)


@pytest.mark.usefixtures("large_blocks")
@pytest.mark.parametrize(
    ("batch", "patches", "width"), [(3, 49, 64), (1, 196, 64), (1, 256, 33), (1, 300, 64), (1, 577, 64)]
)
def test_scores_of_any_size(batch, patches, width) -> None:
    features = torch.randn(batch, patches, width) * 4 + 50  # far from the origin, where the Gram form cancels
    got = anomaly_scores(features)
    oracle = anomaly_oracle(features, 30)
    torch.testing.assert_close(got.double(), oracle, rtol=1e-4, atol=0)
    assert_within_budget(got, anomaly_scores_reference(features), oracle)


@pytest.mark.parametrize("neighbors", [1, 48])
def test_any_number_of_neighbours(neighbors) -> None:
    features = torch.randn(1, 49, 16)
    torch.testing.assert_close(
        anomaly_scores(features, neighbors).double(), anomaly_oracle(features, neighbors), rtol=1e-4, atol=0
    )


def test_equal_distances_go_to_the_lower_index() -> None:
    """Integers, so that equal distances are equal in fp32: a grid has every distance many times."""
    grid = torch.cartesian_prod(torch.arange(7.0), torch.arange(7.0)) - 3.0
    features = torch.cat([grid, torch.zeros(49, 14)], dim=1)[None]
    torch.testing.assert_close(
        anomaly_scores(features, 6).double(), anomaly_oracle(features, 6), rtol=1e-5, atol=0
    )


def test_identical_tokens_stay_finite() -> None:
    features = torch.ones(1, 49, 16)
    features[0, :9] = torch.randn(9, 16)
    assert torch.isfinite(anomaly_scores(features)).all()


def test_tokens_of_large_norm_keep_their_scores_in_half_precision() -> None:
    features = torch.randn(1, 49, 64)
    features[0, 5] *= 500
    features = features.half()
    got = anomaly_scores(features)
    assert int(got.argmax()) == 5
    torch.testing.assert_close(got.double(), anomaly_oracle(features, 30), rtol=2e-3, atol=0)


def test_strides_do_not_matter() -> None:
    features = torch.randn(1, 24, 50)  # channels first, with a class token
    view = features.transpose(1, 2)[:, 1:]
    torch.testing.assert_close(anomaly_scores(view), anomaly_scores(view.contiguous()), rtol=1e-5, atol=0)


def test_a_batch_equals_its_singles() -> None:
    features = torch.randn(3, 33, 24)
    singles = torch.cat([anomaly_scores(window[None]) for window in features])
    assert torch.equal(anomaly_scores(features), singles)


@pytest.mark.parametrize(
    ("batch", "rows", "columns", "dtype"),
    [
        (3, 6, 11, torch.float32),
        (1, 7, 7, torch.float16),
        (1, 11, 6, torch.bfloat16),
        (1, 14, 14, torch.float16),
    ],
)
def test_outliers_become_the_mean_of_sound_neighbours(batch, rows, columns, dtype) -> None:
    patches = rows * columns
    x, guide = torch.randn(2, batch, patches, 24).to(dtype)
    scores, count = torch.rand(batch, patches), num_outliers(patches, 0.2)
    got = repair_outliers(x, guide, scores, num_outliers=count, columns=columns)
    plain = repair_outliers_reference(x, guide, scores, num_outliers=count, columns=columns)
    for result, reference, tensor in zip(got, plain, (x, guide), strict=True):
        for i in range(batch):
            outliers = set(scores[i].topk(count).indices.tolist())
            oracle = repair_oracle(tensor[i].double(), outliers, columns)
            assert_within_budget(result[i], reference[i], oracle)
            sound = [patch for patch in range(patches) if patch not in outliers]
            assert torch.equal(result[i, sound], tensor[i, sound])


def test_equal_scores_are_outliers_from_the_lowest_index() -> None:
    x = torch.randn(1, 49, 8)
    got, _ = repair_outliers(x, x, torch.ones(1, 49), num_outliers=3, columns=7)
    torch.testing.assert_close(got[0].double(), repair_oracle(x[0].double(), {0, 1, 2}, 7))


def test_where_all_are_outliers_nothing_changes() -> None:
    x, guide = torch.randn(2, 1, 49, 8)
    got = repair_outliers(x, guide, torch.rand(1, 49), num_outliers=49, columns=7)
    assert torch.equal(got[0], x)
    assert torch.equal(got[1], guide)


def test_a_row_of_outliers_takes_from_the_rows_around() -> None:
    x = torch.randn(1, 49, 8)
    scores = torch.zeros(1, 49)
    scores[0, 7:14] = 1
    got, _ = repair_outliers(x, x, scores, num_outliers=7, columns=7)
    torch.testing.assert_close(got[0].double(), repair_oracle(x[0].double(), set(range(7, 14)), 7))


def test_no_outliers_is_a_copy_of_any_strides() -> None:
    x = torch.randn(2, 8, 50).transpose(1, 2)[:, 1:]
    got, _ = repair_outliers(x, x, torch.rand(2, 49), num_outliers=0, columns=7)
    assert torch.equal(got, x)
    assert got.is_contiguous()


def test_arguments_that_do_not_fit_are_refused() -> None:
    x = torch.randn(1, 49, 8)
    with pytest.raises(ValueError, match=r"num_neighbors must be in 1\.\.48 for 49 patches; got 49"):
        anomaly_scores(x, 49)
    with pytest.raises(ValueError, match="features must have shape"):
        anomaly_scores(x[0])
    with pytest.raises(ValueError, match="49 patches don't make rows of 5"):
        repair_outliers(x, x, torch.rand(1, 49), num_outliers=3, columns=5)
    with pytest.raises(ValueError, match=r"scores must have shape \(1, 49\)"):
        repair_outliers(x, x, torch.rand(2, 49), num_outliers=3, columns=7)
