"""Windows resized and cut on the device against OpenCV's on the host, and the flag for broken numbers."""

import numpy as np
import pytest
import torch

from scclip_kernels.triton.finite import is_broken, is_broken_reference
from scclip_kernels.triton.resizing import resize_windows, resize_windows_reference
from scclip_rt.image.geometry import Tiling, cut_windows, resize
from scclip_rt.image.resize import resize_taps


@pytest.mark.parametrize(
    ("source", "target", "window"),
    [((41, 67), (45, 74), 32), ((64, 90), (32, 45), 32), ((30, 33), (30, 33), 20)],
)
def test_bytes_are_those_of_opencv(source, target, window) -> None:
    image = np.random.default_rng(0).integers(0, 256, (*source, 3), dtype=np.uint8)
    tiling = Tiling.windows(*target, window=window)
    tables = [
        torch.from_numpy(resize_taps(target[axis], source[axis], horizontal=axis == 1)) for axis in (0, 1)
    ]
    starts = torch.tensor([(y, x) for y in tiling.rows for x in tiling.columns], dtype=torch.int32)
    padded = np.zeros((source[0], source[1] + 5, 3), np.uint8)
    padded[:, : source[1]] = image
    expected = cut_windows(resize(image, target), tiling)
    for pixels in (torch.from_numpy(image), torch.from_numpy(padded)[:, : source[1]]):
        got = resize_windows(pixels, *tables, starts, tiling.window)
        np.testing.assert_array_equal(got.numpy(), expected)
        reference = resize_windows_reference(pixels, *tables, starts, tiling.window)
        np.testing.assert_array_equal(reference.numpy(), expected)


def test_other_tables_are_refused() -> None:
    table, image = torch.zeros((4, 4), dtype=torch.int32), torch.zeros((4, 4, 3), dtype=torch.uint8)
    with pytest.raises(ValueError, match=r"starts must be int32 \(length, 2\)"):
        resize_windows(image, table, table, table, (2, 2))
    with pytest.raises(ValueError, match="pixels side by side"):
        resize_windows(image.transpose(0, 1), table, table, table[:, :2], (2, 2))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("place", [0, 1023, 1024, 2999])
def test_every_broken_number_is_found(dtype, value, place) -> None:
    numbers = torch.randn(3000).to(dtype)
    assert is_broken(numbers).tolist() == is_broken_reference(numbers).tolist() == [0]
    numbers[place] = value
    assert is_broken(numbers).tolist() == is_broken_reference(numbers).tolist() == [1]


def test_the_largest_numbers_are_not_broken() -> None:
    largest = torch.tensor([torch.finfo(torch.float32).max, torch.finfo(torch.float32).min, 1e-45])
    assert is_broken(largest).tolist() == [0]
