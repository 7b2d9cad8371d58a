"""Buffers: contents, sizes in messages, and nothing left behind."""

import gc

import numpy as np
import pytest

from scclip_rt.backends.cuda import (
    CudaError,
    Device,
    DeviceBuffer,
    Ledger,
    OutOfDeviceMemoryError,
    PinnedBuffer,
    Stream,
    mebibytes,
)
from stand_ins.cuda import FakeDriver


def test_a_round_trip(device: Device) -> None:
    values = np.arange(12, dtype=np.float32)
    stream, ledger = Stream(device), Ledger(device)
    pinned, buffer = PinnedBuffer(device, 96), DeviceBuffer(ledger, 48, "a test")
    pinned.array((12,), np.float32)[:] = values
    stream.upload(buffer.pointer, pinned.address, 48)
    stream.download(pinned.address + 48, buffer.pointer, 48)
    assert not pinned.array((12,), np.float32, 48).any()  # queued, not done
    stream.synchronize()
    np.testing.assert_array_equal(pinned.array((12,), np.float32, 48), values)


def test_out_of_memory_tells_the_sizes(device: Device, fake: FakeDriver) -> None:
    fake.memory = 8 << 20
    ledger = Ledger(device)
    kept = DeviceBuffer(ledger, 6 << 20, "features")
    message = r"no room for logits: 4.0 MiB wanted, 2.0 MiB of 8.0 MiB free, 6.0 MiB held .*--batch"
    with pytest.raises(OutOfDeviceMemoryError, match=message):
        DeviceBuffer(ledger, 4 << 20, "logits")
    kept.close()
    DeviceBuffer(ledger, 4 << 20, "logits").close()


def test_the_ledger_follows(device: Device, fake: FakeDriver) -> None:
    ledger = Ledger(device)
    first, second = (DeviceBuffer(ledger, size, "a test") for size in (100, 50))
    assert (ledger.held, fake.used) == (150, 150)
    first.close()
    first.close()  # twice is harmless
    assert (ledger.held, fake.used) == (50, 50)
    del second
    gc.collect()
    assert (ledger.held, fake.used) == (0, 0)


def test_arrays_are_copied_in_c_order(device: Device, fake: FakeDriver) -> None:
    array = np.arange(6, dtype=np.int32).reshape(2, 3).T
    buffer = DeviceBuffer.of(Ledger(device), array, "a test")
    np.testing.assert_array_equal(fake.view(buffer.pointer, (3, 2), np.int32), array)


def test_asynchronous_copies_need_pinned_memory(device: Device) -> None:
    buffer = DeviceBuffer(Ledger(device), 16, "a test")
    with pytest.raises(CudaError, match="ILLEGAL_ADDRESS"):
        Stream(device).upload(buffer.pointer, np.zeros(16, np.uint8).ctypes.data, 16)


def test_freeing_after_the_driver_has_gone_is_quiet(device: Device, fake: FakeDriver) -> None:
    ledger = Ledger(device)
    buffer = DeviceBuffer(ledger, 16, "a test")
    fake.faults["cuCtxSetCurrent"] = "DEINITIALIZED"
    buffer.close()
    assert ledger.held == 0


@pytest.mark.parametrize(
    ("count", "text"), [(512 << 10, "0.5 MiB"), (3 << 20, "3.0 MiB"), (5 << 29, "2.5 GiB")]
)
def test_sizes_for_people(count: int, text: str) -> None:
    assert mebibytes(count) == text
