"""Windows cut out of one uint8 image on the device: what `scclip_rt.image.geometry.cut_windows` does on the host."""

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.library import triton_op

from scclip_kernels.triton.launch import interpreted, on_device_of, wrap_triton

BLOCK = 1024


@triton.jit
def _windows_kernel(
    image, out, tops, lefts, image_width, window_height, window_width, num_columns, BLOCK: tl.constexpr
):
    """BLOCK bytes of one row of one window.

    image (H, image_width, 3) uint8; out (windows, window_height, window_width, 3) uint8; window w starts at
    row tops[w // num_columns] and column lefts[w % num_columns], both int32.
    """
    window = tl.program_id(2)
    y = tl.program_id(1)
    byte = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    top = tl.load(tops + window // num_columns).to(tl.int64)
    left = tl.load(lefts + window % num_columns)
    valid = byte < 3 * window_width
    value = tl.load(image + ((top + y) * image_width + left) * 3 + byte, mask=valid, other=0)
    place = (window.to(tl.int64) * window_height + y) * window_width * 3
    tl.store(out + place + byte, value, mask=valid)


@triton_op("scclip::cut_windows", mutates_args={})
def _windows(image: Tensor, tops: Tensor, lefts: Tensor, height: int, width: int) -> Tensor:
    count = tops.shape[0] * lefts.shape[0]
    out = torch.empty((count, height, width, 3), dtype=torch.uint8, device=image.device)
    wrap_triton(_windows_kernel)[(triton.cdiv(3 * width, BLOCK), height, count)](
        image, out, tops, lefts, image.shape[1], height, width, lefts.shape[0], BLOCK=BLOCK
    )
    return out


def cut_windows(image: Tensor, tops: Tensor, lefts: Tensor, window: tuple[int, int]) -> Tensor:
    """Cut windows, row by row.

    Args:
        image: (H, W, 3) uint8, contiguous; resized already.
        tops: (rows,) int32, first pixel row of each row of windows; every window must lie inside the image.
        lefts: (columns,) int32, the same across.
        window: height and width, pixels.

    Returns:
        (rows · columns, height, width, 3) uint8.

    Raises:
        ValueError: not such an image, or not on a GPU.
    """
    if image.dtype != torch.uint8 or image.dim() != 3 or image.shape[2] != 3:
        raise ValueError(f"cut_windows takes uint8 (H, W, 3); got {image.dtype} {tuple(image.shape)}")
    if not image.is_cuda and not interpreted(_windows_kernel):
        raise ValueError(
            f"cut_windows as a Triton kernel needs an image on an NVIDIA GPU; got {image.device}"
        )
    with on_device_of(image):
        return _windows(image.contiguous(), tops.int(), lefts.int(), *window)


def cut_windows_reference(image: Tensor, tops: Tensor, lefts: Tensor, window: tuple[int, int]) -> Tensor:
    """The same in plain torch."""
    height, width = window
    cut = [image[y : y + height, x : x + width] for y in tops.tolist() for x in lefts.tolist()]
    return torch.stack(cut)
