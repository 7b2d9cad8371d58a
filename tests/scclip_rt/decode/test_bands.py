"""The blocked form of the decode's matrices against the dense one."""

import numpy as np
import pytest

from oracles.decode import case
from scclip_rt.decode.bands import band_plan

CASES = [
    ((48, 64), (50, 70), 32, 16, (4, 4)),  # windows overlap by half
    ((50, 77), (33, 20), 32, 16, (4, 4)),  # the last window overlaps more; the output is smaller
    ((40, 40), (160, 150), 40, 40, (5, 5)),  # one window, enlarged
    ((64, 90), (64, 90), 32, 8, (2, 3)),  # four windows over a pixel; the same size
]
BLOCKS = [(8, 32), (1, 4), (64, 7)]


@pytest.mark.parametrize(("rows", "columns"), BLOCKS)
@pytest.mark.parametrize(("size", "shape", "window", "stride", "grid"), CASES)
def test_blocks_are_the_dense_weights(size, shape, window, stride, grid, rows, columns) -> None:
    *_, plan = case(0, size, shape, window, stride, grid, 3)
    bands = band_plan(plan, rows=rows, columns=columns)
    for axis, banded, block in zip((plan.rows, plan.columns), bands, (rows, columns), strict=True):
        np.testing.assert_array_equal(banded.matrix(), axis.matrix()[:, axis.order])
        assert banded.span.dtype == banded.cells.dtype == np.int32
        assert banded.band.dtype == np.float32
        blocks = -(-axis.length // block)
        assert banded.span.shape == (blocks, 2)
        assert banded.band.shape == (blocks, banded.span[:, 1].max(), block)
        np.testing.assert_allclose(
            banded.band.sum(axis=1).ravel()[: axis.length], 1, atol=1e-6
        )  # also: nothing lies beyond a block's count


@pytest.mark.parametrize(("size", "shape", "window", "stride", "grid"), CASES)
def test_a_block_reads_no_more_cells_than_it_needs(size, shape, window, stride, grid) -> None:
    *_, plan = case(2, size, shape, window, stride, grid, 3)
    for axis, banded in zip((plan.rows, plan.columns), band_plan(plan, rows=8, columns=32), strict=True):
        dense = axis.matrix()[:, axis.order]
        for index, (first, count) in enumerate(banded.span):
            block = banded.band.shape[2]
            used = np.flatnonzero(dense[index * block : (index + 1) * block].any(axis=0))
            assert (first, first + count) == (used[0], used[-1] + 1)
            assert not banded.band[index, count:].any()


@pytest.mark.parametrize(("size", "shape", "window", "stride", "grid"), CASES)
def test_offsets_lead_to_the_cells_in_their_place(size, shape, window, stride, grid) -> None:
    features, *_, plan = case(1, size, shape, window, stride, grid, 3)
    rows, columns = band_plan(plan, rows=8, columns=32)
    flat = features.reshape(-1, features.shape[-1])
    np.testing.assert_array_equal(flat[rows.cells[:, None] + columns.cells], plan.arrange(features))
