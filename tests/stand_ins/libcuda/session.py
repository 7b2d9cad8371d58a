"""The runtime's CUDA layer on the real cuda.bindings over the libcuda of stub.c; run by test_bindings.py."""

import ctypes
import gc
import struct
import sys
from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import pytest

from scclip_rt.backends.cuda import (
    CudaError,
    Device,
    DeviceBuffer,
    Event,
    Kernel,
    KernelSpec,
    Ledger,
    OutOfDeviceMemoryError,
    PinnedBuffer,
    Stream,
    device_array,
    device_count,
    load_driver,
)
from scclip_rt.backends.cuda.replay import Replay

TYPES = {
    "*fp32": ("Q", 0),
    "i1": ("?", True),
    "i8": ("b", -8),
    "i16": ("h", -1616),
    "i32": ("i", -323232),
    "i64": ("q", -(1 << 40)),
    "u8": ("B", 200),
    "u16": ("H", 60000),
    "u32": ("I", 1 << 31),
    "u64": ("Q", 1 << 63),
    "fp32": ("f", 1.5),
    "fp64": ("d", 2.5),
}


def failing(kind: type[Exception], work: Callable[[], object], *parts: str) -> None:
    with pytest.raises(kind) as caught:
        work()
    assert all(part in str(caught.value) for part in parts), caught.value


def copies(device: Device, ledger: Ledger) -> None:
    stream = Stream(device)
    pinned, buffer, other = (
        PinnedBuffer(device, 96),
        DeviceBuffer(ledger, 48, "a test"),
        DeviceBuffer(ledger, 48, "b"),
    )
    values = pinned.array((12,), np.float32)

    def work() -> None:
        stream.upload(buffer.pointer, pinned.address, 48)
        stream.copy(other.pointer, buffer.pointer, 48)
        stream.zero(other.pointer, 4)
        stream.download(pinned.address + 48, other.pointer, 48)

    replay = Replay(stream, work)
    for seed in range(4):
        values[:] = np.random.default_rng(seed).normal(size=12)
        replay()
        stream.synchronize()
        found = pinned.array((12,), np.float32, 48)
        assert found[0] == 0
        assert (found[1:] == values[1:]).all()
    assert replay.captured
    replay.close()
    failing(
        CudaError, lambda: stream.capture(lambda: DeviceBuffer(ledger, 4, "c").close()), "CAPTURE_UNSUPPORTED"
    )
    image = np.arange(60, dtype=np.uint8).reshape(6, 10)
    source = DeviceBuffer.of(ledger, image, "an image")
    stream.copy_rows(buffer.pointer, 3, source.pointer + 2 * 10 + 4, 10, 3, 2)
    stream.download(pinned.address, buffer.pointer, 6)
    stream.synchronize()
    assert (pinned.array((2, 3), np.uint8) == image[2:4, 4:7]).all()

    interface = {
        "shape": (6, 10),
        "typestr": "|u1",
        "data": (source.pointer, False),
        "version": 3,
        "stream": 1,
    }
    foreign = SimpleNamespace(__cuda_array_interface__=interface)
    assert device_array(foreign, stream).pointer == source.pointer
    event = Event(device)
    event.record(stream)
    for thing in (event, pinned, buffer, other, source, stream):
        thing.close()


def launches(device: Device, ledger: Ledger) -> None:
    """Every type a parameter may have, at the place and in the size that the kernel reads it; hidden pointers null."""
    parameters = tuple((f"p{i}", kind) for i, kind in enumerate(TYPES))
    sizes = [struct.calcsize(f"={code}") for code, _ in TYPES.values()]
    spec = KernelSpec(
        name="probe",
        file="kernels/probe.cubin",
        compute_capability=(9, 0),
        entry="probe",
        num_warps=4,
        shared_bytes=64 << 10,
        parameters=parameters,
        constants={},
        hidden_pointers=2,
    )
    image = f"probe {' '.join(map(str, [*sizes, 8, 8]))}\0".encode()
    kernel, stream = Kernel(device, spec, image), Stream(device)
    out = DeviceBuffer(ledger, 256, "what the kernel saw")
    values = [value for _, value in TYPES.values()]
    values[0] = out.pointer
    arguments = dict(zip((name for name, _ in parameters), values, strict=True))
    layout = "=7I" + "".join(code for code, _ in TYPES.values()) + "2Q"
    wanted = struct.pack(layout, 3, 2, 1, 128, 1, 1, 64 << 10, *values, 0, 0)
    graph = stream.capture(lambda: kernel.launch(stream, (3, 2, 1), **arguments))
    for run in (lambda: kernel.launch(stream, (3, 2, 1), **arguments), graph.launch):
        stream.zero(out.pointer, 256)
        run()
        stream.synchronize()
        assert ctypes.string_at(out.pointer, len(wanted)) == wanted
    failing(
        CudaError,
        lambda: Kernel(device, spec, b"rubbish\0"),
        "INVALID_IMAGE",
        "kernels/probe.cubin",
        "damaged",
    )
    for thing in (graph, kernel, out, stream):
        thing.close()


def main() -> None:
    driver = load_driver()
    device = Device.open(0, driver)
    assert device_count() == 1
    assert (device.name, device.compute_capability) == ("Stub GPU", (9, 0))
    assert device.memory() == (1 << 30, 2 << 30)
    device.make_current()
    ledger = Ledger(device)
    copies(device, ledger)
    launches(device, ledger)
    failing(
        OutOfDeviceMemoryError,
        lambda: DeviceBuffer(ledger, 2 << 30, "features"),
        "no room for features",
        "2.0 GiB",
    )
    failing(CudaError, lambda: driver("cuInit", 7), "CUDA_ERROR_INVALID_VALUE", "stub words")
    gc.collect()
    assert ledger.held == 0
    left = ctypes.CDLL(sys.argv[1]).stub_live()
    assert left == 0, f"{left} buffers, streams, events or graphs were left"
    print("all of it")


if __name__ == "__main__":
    main()
