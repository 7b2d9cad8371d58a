"""Windows resized and cut out of an image on the device, to the byte what OpenCV and `cut_windows` give on the host.

    row[x] = (p[low] · w_low + p[high] · w_high) >> 4
    out[y] = ((w_low · row_low >> 16) + (w_high · row_high >> 16) + 2) >> 2

The taps come from `scclip_rt.image.resize`: fixed point, so that every device gives the same bytes. One upload of the
image as it is replaces the resize on the host, the upload of windows that overlap, and a copy per window.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.library import triton_op

from scclip_kernels.triton.launch import interpreted, on_device_of, wrap_triton

BLOCK = 1024


@triton.jit
def _resize_windows_kernel(
    image, row_taps, column_taps, starts, windows, pitch, window_height, window_width, BLOCK: tl.constexpr
):
    """BLOCK bytes of one window.

    image (H, W, 3) uint8 with rows `pitch` bytes apart; row_taps and column_taps (length, 4) int32: lower tap, upper
    tap, their weights in 1/2048; starts (windows, 2) int32: first row and column of each window in the resized image;
    windows (windows, window_height, window_width, 3) uint8.
    """
    window = tl.program_id(1)
    byte = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    size = window_height * window_width * 3
    valid = byte < size
    colour = byte % 3
    pixel = byte // 3
    row = row_taps + 4 * (tl.load(starts + 2 * window) + pixel // window_width)
    column = column_taps + 4 * (tl.load(starts + 2 * window + 1) + pixel % window_width)
    top = tl.load(row, mask=valid, other=0).to(tl.int64) * pitch
    bottom = tl.load(row + 1, mask=valid, other=0).to(tl.int64) * pitch
    left = tl.load(column, mask=valid, other=0) * 3 + colour
    right = tl.load(column + 1, mask=valid, other=0) * 3 + colour
    left_weight = tl.load(column + 2, mask=valid, other=0)
    right_weight = tl.load(column + 3, mask=valid, other=0)
    upper = tl.load(image + top + left, mask=valid, other=0).to(tl.int32) * left_weight
    upper += tl.load(image + top + right, mask=valid, other=0).to(tl.int32) * right_weight
    lower = tl.load(image + bottom + left, mask=valid, other=0).to(tl.int32) * left_weight
    lower += tl.load(image + bottom + right, mask=valid, other=0).to(tl.int32) * right_weight
    upper_weight = tl.load(row + 2, mask=valid, other=0)
    lower_weight = tl.load(row + 3, mask=valid, other=0)
    value = ((upper_weight * (upper >> 4)) >> 16) + ((lower_weight * (lower >> 4)) >> 16)
    tl.store(windows + window.to(tl.int64) * size + byte, ((value + 2) >> 2).to(tl.uint8), mask=valid)


@triton_op("scclip::resize_windows", mutates_args={})
def _resize_windows(
    image: Tensor, row_taps: Tensor, column_taps: Tensor, starts: Tensor, height: int, width: int
) -> Tensor:
    count = starts.shape[0]
    out = torch.empty((count, height, width, 3), dtype=torch.uint8, device=image.device)
    wrap_triton(_resize_windows_kernel)[(triton.cdiv(height * width * 3, BLOCK), count)](
        image, row_taps, column_taps, starts, out, image.stride(0), height, width, BLOCK=BLOCK
    )
    return out


def resize_windows(
    image: Tensor, row_taps: Tensor, column_taps: Tensor, starts: Tensor, window: tuple[int, int]
) -> Tensor:
    """Resize an image and cut windows out of it.

    Args:
        image: (H, W, 3) uint8; rows may be apart.
        row_taps: (resized height, 4) int32, of `scclip_rt.image.resize.resize_taps`.
        column_taps: (resized width, 4) int32.
        starts: (windows, 2) int32, first row and column of each window; every window must lie inside.
        window: height and width, pixels.

    Returns:
        (windows, height, width, 3) uint8.

    Raises:
        ValueError: not such an image or tables, or not on a GPU.
    """
    if image.dtype != torch.uint8 or image.dim() != 3 or image.shape[2] != 3 or image.stride()[1:] != (3, 1):
        raise ValueError(
            f"resize_windows takes uint8 (H, W, 3), pixels side by side; got {image.dtype} {tuple(image.shape)}"
        )
    for name, table, columns in (
        ("row_taps", row_taps, 4),
        ("column_taps", column_taps, 4),
        ("starts", starts, 2),
    ):
        if table.dtype != torch.int32 or table.dim() != 2 or table.shape[1] != columns:
            raise ValueError(
                f"resize_windows: {name} must be int32 (length, {columns}); got {table.dtype} {tuple(table.shape)}"
            )
    if not image.is_cuda and not interpreted(_resize_windows_kernel):
        raise ValueError(
            f"resize_windows as a Triton kernel needs an image on an NVIDIA GPU; got {image.device}"
        )
    with on_device_of(image):
        return _resize_windows(
            image, row_taps.contiguous(), column_taps.contiguous(), starts.contiguous(), *window
        )


def resize_windows_reference(
    image: Tensor, row_taps: Tensor, column_taps: Tensor, starts: Tensor, window: tuple[int, int]
) -> Tensor:
    """The same in plain torch."""
    pixels, (height, width) = image.int(), window
    low, high, low_weight, high_weight = (part.long() for part in column_taps.unbind(1))
    across = pixels[:, low] * low_weight[:, None] + pixels[:, high] * high_weight[:, None] >> 4
    low, high, low_weight, high_weight = (part.long() for part in row_taps.unbind(1))
    joined = (across[low] * low_weight[:, None, None] >> 16) + (
        across[high] * high_weight[:, None, None] >> 16
    )
    resized = ((joined + 2) >> 2).to(torch.uint8)
    return torch.stack([resized[y : y + height, x : x + width] for y, x in starts.tolist()])
