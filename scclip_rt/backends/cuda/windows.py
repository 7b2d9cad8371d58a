"""Windows cut on the GPU from one upload: of the image, by the bundle's kernel, or of the resized one, by copies."""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from scclip_rt.backends.cuda.kernels import Kernel
from scclip_rt.backends.cuda.memory import DeviceBuffer, Ledger
from scclip_rt.backends.cuda.stream import Stream
from scclip_rt.image.geometry import Tiling, resize
from scclip_rt.image.resize import resize_taps


class Cutter(Protocol):
    """How images of one size become windows on the device."""

    @property
    def upload_shape(self) -> tuple[int, int, int]:
        """Shape of the uint8 array that `cut` reads."""
        ...

    def host_pixels(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """What to upload for an image (H, W, 3) uint8 of the host."""
        ...

    def takes_device_image(self) -> bool:
        """Whether `cut` can read an image of the original size that is on the device already."""
        ...

    def cut(self, stream: Stream, source: int, pitch: int, windows: int) -> None:
        """Queue the cutting.

        Args:
            stream: where.
            source: the uint8 array of `upload_shape` on the device.
            pitch: bytes from one of its rows to the next.
            windows: where (windows, h, w, 3) uint8 goes.
        """
        ...

    def close(self) -> None:
        """Free what is on the device."""
        ...


def make_cutter(kernel: Kernel | None, tiling: Tiling, source: tuple[int, int], ledger: Ledger) -> Cutter:
    """The better of the two ways.

    Args:
        kernel: the bundle's `windows` for this GPU, or None.
        tiling: where the windows are.
        source: (height, width) of the image before resizing.
        ledger: pays for the tables.
    """
    if kernel is None:
        return CopyCutter(tiling, source)
    return KernelCutter(kernel, tiling, source, ledger)


class CopyCutter:
    """The host resizes, the device copies rows out of the resized image: no kernel is needed."""

    def __init__(self, tiling: Tiling, source: tuple[int, int]) -> None:
        self._tiling, self._source = tiling, source

    @property
    def upload_shape(self) -> tuple[int, int, int]:
        """Shape of the resized image."""
        return self._tiling.height, self._tiling.width, 3

    def host_pixels(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The image, resized as the method wants."""
        return resize(image, (self._tiling.height, self._tiling.width))

    def takes_device_image(self) -> bool:
        """Only an image that needs no resizing."""
        return self._source == (self._tiling.height, self._tiling.width)

    def cut(self, stream: Stream, source: int, pitch: int, windows: int) -> None:
        """Queue one copy per window; arguments as in `Cutter`."""
        height, width = self._tiling.window
        for top in self._tiling.rows:
            for left in self._tiling.columns:
                corner = source + top * pitch + 3 * left
                stream.copy_rows(windows, 3 * width, corner, pitch, 3 * width, height)
                windows += height * width * 3

    def close(self) -> None:
        """Nothing is held."""


class KernelCutter:
    """One kernel resizes (to OpenCV's bytes, see `scclip_rt.image.resize`) and cuts."""

    def __init__(self, kernel: Kernel, tiling: Tiling, source: tuple[int, int], ledger: Ledger) -> None:
        self._kernel, self._tiling, self._source = kernel, tiling, source
        starts = np.array([(top, left) for top in tiling.rows for left in tiling.columns], np.int32)
        vertical = resize_taps(tiling.height, source[0], horizontal=False)
        horizontal = resize_taps(tiling.width, source[1], horizontal=True)
        self._rows = DeviceBuffer.of(ledger, vertical, "tables")
        self._columns = DeviceBuffer.of(ledger, horizontal, "tables")
        self._starts = DeviceBuffer.of(ledger, starts, "tables")

    @property
    def upload_shape(self) -> tuple[int, int, int]:
        """Shape of the image as it is."""
        return *self._source, 3

    def host_pixels(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The image itself."""
        return image

    def takes_device_image(self) -> bool:
        """Always."""
        return True

    def cut(self, stream: Stream, source: int, pitch: int, windows: int) -> None:
        """Queue the kernel; arguments as in `Cutter`."""
        height, width = self._tiling.window
        block = self._kernel.constant("BLOCK")
        self._kernel.launch(
            stream,
            (-(-height * width * 3 // block), len(self._tiling), 1),
            image=source,
            row_taps=self._rows.pointer,
            column_taps=self._columns.pointer,
            starts=self._starts.pointer,
            windows=windows,
            pitch=pitch,
            window_height=height,
            window_width=width,
        )

    def close(self) -> None:
        """Free the tables."""
        for buffer in (self._rows, self._columns, self._starts):
            buffer.close()
