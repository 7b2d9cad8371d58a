"""Device memory and pinned host memory, freed when closed, reported in bytes."""

import ctypes
import threading
import weakref
from typing import Any, Self

import numpy as np
from numpy.typing import DTypeLike, NDArray

from scclip_rt.backends.cuda.device import Device
from scclip_rt.backends.cuda.driver import OutOfDeviceMemoryError


class Ledger:
    """How many bytes of device memory an encoder holds, for `describe()` and for messages."""

    def __init__(self, device: Device) -> None:
        self.device = device
        self._bytes = 0
        self._lock = threading.Lock()

    @property
    def held(self) -> int:
        """Bytes allocated through this ledger and not freed."""
        return self._bytes

    def add(self, count: int) -> None:
        """Count `count` bytes in, or out where it is negative."""
        with self._lock:
            self._bytes += count


class DeviceBuffer:
    """Device memory of `size` bytes; `close` (or the last reference) frees it.

    Args:
        ledger: of the encoder that owns it.
        size: bytes; 0 allocates one.
        purpose: what it is for, for the message when there is no room.

    Raises:
        OutOfDeviceMemoryError: not enough is free; the message has the sizes.
    """

    def __init__(self, ledger: Ledger, size: int, purpose: str) -> None:
        self.size = max(size, 1)
        device = ledger.device
        device.make_current()
        try:
            pointer = device.driver("cuMemAlloc", self.size)
        except OutOfDeviceMemoryError as error:
            free, total = device.memory()
            raise OutOfDeviceMemoryError(
                f"{device} has no room for {purpose}: {mebibytes(self.size)} wanted, {mebibytes(free)} of "
                f"{mebibytes(total)} free, {mebibytes(ledger.held)} held by this encoder. Lower --batch or "
                "--short-side, end other processes on the GPU, or use fewer threads",
                error.status,
            ) from error
        self.pointer = int(pointer)
        ledger.add(self.size)
        self._free = weakref.finalize(self, _free_device, ledger, pointer, self.size)

    @classmethod
    def of(cls, ledger: Ledger, array: NDArray[Any], purpose: str) -> Self:
        """A buffer that holds an array; the copy is complete on return."""
        array = np.ascontiguousarray(array)
        buffer = cls(ledger, array.nbytes, purpose)
        driver = ledger.device.driver
        driver("cuMemcpyHtoD", buffer.pointer, array.ctypes.data, array.nbytes)
        # From memory that is not pinned it comes back when that has been read: the rest is still on its way, in order
        # on the default stream, which our streams do not wait for.
        driver("cuStreamSynchronize", 0)
        return buffer

    def close(self) -> None:
        """Free it now; the pointer is of no use afterwards."""
        self._free()


class PinnedBuffer:
    """Page-locked host memory of `size` bytes, which the GPU copies from and to by itself."""

    def __init__(self, device: Device, size: int) -> None:
        self.size = max(size, 1)
        device.make_current()
        address = device.driver("cuMemHostAlloc", self.size, 0)
        self.address = int(address)
        self._memory = (ctypes.c_uint8 * self.size).from_address(self.address)
        self._free = weakref.finalize(self, device.release, "cuMemFreeHost", address)

    def array(self, shape: tuple[int, ...], dtype: DTypeLike, offset: int = 0) -> NDArray[Any]:
        """A view of the memory as an array; valid until `close`."""
        count = int(np.prod(shape, dtype=np.int64))
        return np.frombuffer(memoryview(self._memory), dtype, count, offset).reshape(shape)

    def close(self) -> None:
        """Free it now."""
        self._free()


def _free_device(ledger: Ledger, pointer: object, size: int) -> None:
    ledger.device.release("cuMemFree", pointer)
    ledger.add(-size)


def mebibytes(count: int) -> str:
    """A number of bytes for people: `512 MiB`, `7.9 GiB`."""
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.1f} MiB"
