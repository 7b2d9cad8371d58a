"""The shortest way through a GPU: an image in, its label map out, nothing else over the bus."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from scclip_rt.decode.decode import Decoded
from scclip_rt.decode.settings import DecodeSettings
from scclip_rt.image.geometry import Tiling


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentRequest:
    """One image and what to make of it.

    Attributes:
        image: (H, W, 3) uint8 RGB: a numpy array, an array in CUDA memory that has `__cuda_array_interface__` or
            DLPack, or what `receive` made of one.
        tiling: how it is resized and cut.
        grid: (rows, columns) of patches in a window.
        text: (Q, E) float32, unit rows; the same array from call to call stays on the device.
        settings: classes, scale and thresholds, as for `scclip_rt.decode.decode.decode`.
    """

    image: object
    tiling: Tiling
    grid: tuple[int, int]
    text: NDArray[np.float32]
    settings: DecodeSettings


@runtime_checkable
class DeviceSegmenter(Protocol):
    """An encoder that can also resize, cut and decode where it runs. The segmenter asks for it; none has to be one."""

    def can_segment(self, *, num_queries: int, num_classes: int) -> bool:
        """Whether `segment` takes so many queries and classes; if not, `features` and decoding on the host do."""
        ...

    def receive(self, image: object) -> object:
        """See an image that is in CUDA memory, in the thread that has it.

        What made it is waited for, and the libraries that make arrays keep a current stream for each thread: in another
        one they would name the wrong stream.

        Args:
            image: has `__cuda_array_interface__` or DLPack.

        Returns:
            What a `SegmentRequest` of any thread takes in its place.

        Raises:
            As `segment`.
        """
        ...

    def segment(self, request: SegmentRequest) -> Decoded:
        """Segment one image; allowed from several threads at a time.

        Raises:
            ImageError: an image on the device of another dtype or layout.
            BackendError: no memory, NaN, or a device image that this bundle has no kernel for.
        """
        ...
