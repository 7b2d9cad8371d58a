"""Windows cut on the device against those cut on the host."""

import numpy as np
import pytest
import torch

from scclip_kernels.triton.windows import cut_windows, cut_windows_reference
from scclip_rt.image.geometry import Tiling
from scclip_rt.image.geometry import cut_windows as cut_on_host


@pytest.mark.parametrize(("size", "window"), [((45, 70), 32), ((32, 32), 32), ((33, 700), (33, 400))])
def test_windows_are_those_of_the_runtime(size, window) -> None:
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    tiling = Tiling.windows(*size, window=window)
    tops, lefts = torch.tensor(tiling.rows), torch.tensor(tiling.columns)
    got = cut_windows(torch.from_numpy(image), tops, lefts, tiling.window)
    np.testing.assert_array_equal(got.numpy(), cut_on_host(image, tiling))
    assert torch.equal(got, cut_windows_reference(torch.from_numpy(image), tops, lefts, tiling.window))


def test_other_images_are_refused() -> None:
    with pytest.raises(ValueError, match=r"takes uint8 \(H, W, 3\)"):
        cut_windows(torch.zeros(4, 4, 3), torch.tensor([0]), torch.tensor([0]), (2, 2))
