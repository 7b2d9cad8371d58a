"""The fixed-tap form of the decode's matrices against the dense one."""

import numpy as np
import pytest

from naive_decode import case
from scclip_rt._sparse_axis import sparse_plan

CASES = [
    ((48, 64), (50, 70), 32, 16, (4, 4)),  # windows overlap by half
    ((50, 77), (33, 20), 32, 16, (4, 4)),  # the last window overlaps more; the output is smaller
    ((40, 40), (160, 150), 40, 40, (5, 5)),  # one window, enlarged
    ((64, 90), (64, 90), 32, 8, (2, 3)),  # four windows over a pixel; the same size
]


@pytest.mark.parametrize(("size", "shape", "window", "stride", "grid"), CASES)
def test_taps_are_the_dense_weights(size, shape, window, stride, grid) -> None:
    *_, plan = case(0, size, shape, window, stride, grid, 3)
    for axis, sparse in zip((plan.rows, plan.columns), sparse_plan(plan), strict=True):
        np.testing.assert_array_equal(sparse.matrix(), axis.matrix()[:, axis.order])
        assert sparse.rank.dtype == np.int32
        assert sparse.weight.dtype == np.float32
        assert sparse.taps == np.count_nonzero(axis.matrix(), axis=1).max()
        np.testing.assert_allclose(sparse.weight.sum(axis=1), 1, atol=1e-6)


@pytest.mark.parametrize(("size", "shape", "window", "stride", "grid"), CASES)
def test_offsets_lead_to_the_cells_in_their_place(size, shape, window, stride, grid) -> None:
    features, *_, plan = case(1, size, shape, window, stride, grid, 3)
    rows, columns = sparse_plan(plan)
    flat = features.reshape(-1, features.shape[-1])
    np.testing.assert_array_equal(flat[rows.cells[:, None] + columns.cells], plan.arrange(features))


def test_unused_taps_stay_near_the_used_ones() -> None:
    """A kernel takes the run of cells between a pixel's lowest and highest rank."""
    *_, plan = case(2, (50, 77), (33, 20), 32, 16, (4, 4), 3)
    for sparse in sparse_plan(plan):
        first = sparse.rank[:, :1]
        unused = sparse.weight == 0
        assert unused.any()
        assert (np.where(unused, sparse.rank, first) == first).all()
