"""Outlier repair against the definition, patch by patch."""

import pytest
import torch
from torch import Tensor

from scclip_kernels import neighbor_weights, repair


def repair_oracle(features: Tensor, outliers: list[int], rows: int, columns: int) -> Tensor:
    """One window (N, D): each outlier becomes the mean of its sound 8-neighbours, if it has any."""
    out = features.clone()
    for index in outliers:
        row, column = divmod(index, columns)
        around = [
            (row + i) * columns + column + j
            for i in (-1, 0, 1)
            for j in (-1, 0, 1)
            if (i or j) and 0 <= row + i < rows and 0 <= column + j < columns
        ]
        sound = [patch for patch in around if patch not in outliers]
        if sound:
            out[index] = features[sound].mean(dim=0)
    return out


@pytest.mark.parametrize(("rows", "columns"), [(14, 14), (7, 13), (13, 7), (6, 40)])
@pytest.mark.parametrize("batch", [1, 3])
def test_outliers_become_the_mean_of_sound_neighbours(rows: int, columns: int, batch: int) -> None:
    patches = rows * columns
    features = torch.randn(batch, patches, 16, dtype=torch.float64)
    outliers = torch.stack([torch.randperm(patches)[:10] for _ in range(batch)])
    got = repair(features, outliers, neighbor_weights(outliers, patches, columns).double())
    for window, indices, result in zip(features, outliers.tolist(), got, strict=True):
        torch.testing.assert_close(
            result, repair_oracle(window, indices, rows, columns), rtol=1e-6, atol=1e-6
        )


def test_sound_patches_are_copied_bit_for_bit() -> None:
    features = torch.randn(2, 196, 32)
    outliers = torch.stack([torch.randperm(196)[:10] for _ in range(2)])
    got = repair(features, outliers, neighbor_weights(outliers, 196, 14))
    for window, indices, result in zip(features, outliers, got, strict=True):
        sound = torch.ones(196, dtype=torch.bool)
        sound[indices] = False
        assert torch.equal(result[sound], window[sound])


def test_an_outlier_among_outliers_stays_as_it_is() -> None:
    corner = torch.tensor([[0, 1, 14, 15]])  # the corner patch and all of its neighbours
    features = torch.randn(1, 196, 8)
    got = repair(features, corner, neighbor_weights(corner, 196, 14))
    assert torch.equal(got[0, 0], features[0, 0])
    assert not torch.equal(got[0, 15], features[0, 15])


def test_neighbours_do_not_wrap_around_the_border() -> None:
    weights = neighbor_weights(torch.tensor([[13]]), 196, 14)  # the end of the first row
    assert set(weights[0, 0].nonzero().flatten().tolist()) == {12, 26, 27}
