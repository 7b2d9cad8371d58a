"""Streams: order, graphs that replay, captures that fail, and no handle left behind."""

import gc
import threading
import time

import numpy as np
import pytest

from scclip_rt.backends.cuda import CudaError, Device, DeviceBuffer, Event, Ledger, PinnedBuffer, Stream
from stand_ins.cuda import FakeDriver


@pytest.mark.parametrize("refused", [False, True])
def test_rows_are_cut_out_of_rows(device: Device, fake: FakeDriver, refused: bool) -> None:
    """Also where CUDA wants pitches of its own making, which it says it may."""
    if refused:
        fake.faults["cuMemcpy2DAsync"] = "INVALID_VALUE"
    image = np.arange(60, dtype=np.uint8).reshape(6, 10)
    ledger, stream = Ledger(device), Stream(device)
    source = DeviceBuffer.of(ledger, image, "a test")
    target = DeviceBuffer(ledger, 6, "a test")
    stream.copy_rows(target.pointer, 3, source.pointer + 2 * 10 + 4, 10, 3, 2)
    stream.synchronize()
    np.testing.assert_array_equal(fake.view(target.pointer, (2, 3), np.uint8), image[2:4, 4:7])


def test_a_graph_replays_with_new_input(device: Device, fake: FakeDriver) -> None:
    stream, ledger = Stream(device), Ledger(device)
    pinned, buffer = PinnedBuffer(device, 8), DeviceBuffer(ledger, 4, "a test")

    def work() -> None:
        stream.upload(buffer.pointer, pinned.address, 4)
        stream.download(pinned.address + 4, buffer.pointer, 4)

    graph = stream.capture(work)
    view = pinned.array((8,), np.uint8)
    for value in (7, 9):
        view[:4] = value
        graph.launch()
        stream.synchronize()
        assert view[4:].tolist() == [value] * 4
    assert fake.count("cuMemcpyHtoDAsync") == 1


def test_what_can_not_be_captured_is_an_error_and_the_stream_lives_on(
    device: Device, fake: FakeDriver
) -> None:
    stream = Stream(device)
    with pytest.raises(CudaError, match="STREAM_CAPTURE_UNSUPPORTED"):
        stream.capture(lambda: DeviceBuffer(Ledger(device), 16, "a test") and None)
    stream.synchronize()
    assert {kind for kind, _ in fake.objects} == {"stream"}


def test_nothing_is_collected_while_a_stream_captures(device: Device) -> None:
    """A buffer in a cycle that the collector frees in between would spoil the capture, and not be freed."""
    stream = Stream(device)
    seen: list[bool] = []
    assert gc.isenabled()
    stream.capture(lambda: seen.append(gc.isenabled()))
    assert seen == [False]
    assert gc.isenabled()
    with pytest.raises(ZeroDivisionError):
        stream.capture(lambda: 1 / 0 and None)
    assert gc.isenabled()


def test_the_end_of_one_capture_does_not_wake_the_collector_under_another(device: Device) -> None:
    first, second = Stream(device), Stream(device)
    started = threading.Event()
    seen: list[bool] = []

    def short() -> None:
        started.set()
        time.sleep(0.05)

    def longer() -> None:
        time.sleep(0.15)
        seen.append(gc.isenabled())

    thread = threading.Thread(target=first.capture, args=(short,))
    thread.start()
    started.wait()
    second.capture(longer)
    thread.join()
    assert seen == [False]
    assert gc.isenabled()


def test_another_streams_work_comes_first(device: Device, fake: FakeDriver) -> None:
    producer, consumer = Stream(device), Stream(device)
    seen: list[str] = []
    fake.queue(producer.address, lambda: seen.append("made"))
    consumer.wait_for(producer.address)
    fake.queue(consumer.address, lambda: seen.append("used"))
    consumer.synchronize()
    assert seen == ["made", "used"]


def test_nothing_is_left_behind(device: Device, fake: FakeDriver) -> None:
    stream = Stream(device)
    graph = stream.capture(lambda: None)
    event = Event(device)
    event.record(stream)
    for thing in (graph, event, stream):
        thing.close()
    del graph, event, stream
    gc.collect()
    assert fake.objects == set()
