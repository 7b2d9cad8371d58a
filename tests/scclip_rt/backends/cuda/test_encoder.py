"""A `DeviceEncoder`'s end, and what its library may refuse, on a fake driver and a fake TensorRT."""

import gc
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("cuda.bindings", reason="cuda-python is not installed (extra dev)")

from scclip_rt import Segmenter
from scclip_rt.backends import choose as choose_module
from scclip_rt.backends import cuda
from scclip_rt.backends import tensorrt as backend_module
from scclip_rt.backends.cuda import device as device_module
from scclip_rt.backends.cuda.encoder import DeviceEncoder
from scclip_rt.backends.cuda.plans import Lane, PlanCache
from scclip_rt.errors import BackendError, ImageError
from stand_ins import tensorrt_runtime as fake_trt_runtime
from stand_ins.cuda import FakeDriver, ForeignArray
from stand_ins.engine_files import add_engine
from stand_ins.kernels import add_kernels
from tiny_bundle import blocks_image

WINDOWS = np.random.default_rng(3).integers(0, 256, (2, 96, 96, 3), dtype=np.uint8)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeDriver]:
    driver = FakeDriver()
    wrapped = cuda.Driver(driver)
    module = fake_trt_runtime.make_module(driver)
    for place in (backend_module, device_module):
        monkeypatch.setattr(place, "load_driver", lambda: wrapped)
    for place in (backend_module, choose_module):
        monkeypatch.setattr(place, "library_module", lambda _: module)
    yield driver
    device_module._OPEN.clear()


@pytest.fixture
def segment(own_bundle: Path, fake: FakeDriver) -> Segmenter:
    profile: dict[str, Any] = {"batch": (1, 6, 8), "queries": (1, 20, 40)}
    content = fake_trt_runtime.engine_bytes(own_bundle / "encoder.fp32.onnx", **profile)
    add_engine(own_bundle, content=content, compute_capabilities=["9.0"], device=None)
    add_kernels(own_bundle, fake)
    return Segmenter(own_bundle, classes=["red", "blue"], templates="none", backend="tensorrt")


class Gate:
    """Holds every run on a stream until it is opened."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.entered, self._open = threading.Semaphore(0), threading.Event()
        real = Lane.run

        def run(lane: Lane, work: Callable[[], None]) -> None:
            self.entered.release()
            assert self._open.wait(600)
            real(lane, work)

        monkeypatch.setattr(Lane, "run", run)

    def open(self) -> None:
        self._open.set()


def started(work: Callable[[], object], log: list[str], name: str) -> threading.Thread:
    """A thread that writes how its work ended."""

    def run() -> None:
        try:
            work()
            log.append(name)
        except BackendError as error:
            log.append(f"{name}: {error}")

    thread = threading.Thread(target=run)
    thread.start()
    return thread


def told_of_waits(encoder: DeviceEncoder) -> threading.Semaphore:
    """Counts the threads that begin to wait for a stream or for the end of others' calls."""
    condition, waits = encoder._waiting, threading.Semaphore(0)
    real = condition.wait

    def wait(timeout: float | None = None) -> bool:
        waits.release()
        return real(timeout)

    condition.wait = wait  # type: ignore[method-assign]
    return waits


def encoder_of(segment: Segmenter) -> DeviceEncoder:
    assert isinstance(segment.backend, DeviceEncoder)
    return segment.backend


def test_closing_waits_for_the_calls_that_run(
    segment: Segmenter, fake: FakeDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder, image = encoder_of(segment), blocks_image()
    wanted = segment(image).labels
    waits, gate, log, found = told_of_waits(encoder), Gate(monkeypatch), list[str](), list[np.ndarray]()
    call = started(lambda: found.append(segment(image).labels), log, "call")
    assert gate.entered.acquire(timeout=600)
    closing = started(encoder.close, log, "close")
    assert waits.acquire(timeout=600)
    assert log == []
    gate.open()
    call.join()
    closing.join()
    assert sorted(log) == ["call", "close"]
    np.testing.assert_array_equal(found[0], wanted)
    assert fake.used == 0


def test_who_waits_for_a_stream_is_told_of_the_end_at_once(
    segment: Segmenter, fake: FakeDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = encoder_of(segment)
    waits, gate, log = told_of_waits(encoder), Gate(monkeypatch), list[str]()
    running = [started(lambda: encoder.features(WINDOWS), log, f"call {i}") for i in range(2)]
    for _ in running:
        assert gate.entered.acquire(timeout=600)
    waiting = started(lambda: encoder.features(WINDOWS), log, "waiting")
    assert waits.acquire(timeout=600)
    closing = started(encoder.close, log, "close")
    waiting.join()  # while both streams are still in use
    assert len(log) == 1
    assert log[0].startswith("waiting: this encoder on cuda:0")
    gate.open()
    for thread in (*running, closing):
        thread.join()
    assert sorted(log[1:]) == ["call 0", "call 1", "close"]


def test_after_the_end_every_call_is_one_error_and_nothing_is_held(
    segment: Segmenter, fake: FakeDriver
) -> None:
    encoder, image = encoder_of(segment), blocks_image()
    gc.disable()  # memory has to be freed by closing, not when Python gets around to it
    try:
        segment(image)
        encoder.features(WINDOWS)
        encoder.close()
        encoder.close()
        assert (fake.used, fake.pinned_memory, fake.objects) == (0, {}, set())
    finally:
        gc.enable()
    text = segment.vocabulary.embeddings
    for call in (
        lambda: segment(image),
        lambda: encoder.features(WINDOWS),
        lambda: encoder.run(WINDOWS, text),
    ):
        with pytest.raises(BackendError, match=r"this encoder on cuda:0 .* was closed; open the backend"):
            call()
    assert fake.used == 0
    details = encoder.describe()["details"]
    assert (details["streams"], details["device_memory_held"]) == (0, 0)


def test_a_stream_that_failed_does_not_keep_the_rest(segment: Segmenter, fake: FakeDriver) -> None:
    encoder = encoder_of(segment)
    fake.faults["cuStreamSynchronize"] = "ILLEGAL_ADDRESS"
    with pytest.raises(BackendError, match="start it again"):
        segment(blocks_image())
    encoder.close()
    assert fake.used == 0


def test_what_a_library_can_not_capture_runs_call_by_call(
    segment: Segmenter, fake: FakeDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TensorRT does not say that capture is the reason: its enqueue fails, with words in its log."""
    real = fake_trt_runtime.FakeContext.execute_async_v3

    def enqueue(context: Any, stream: int) -> bool:
        if fake._streams[int(stream)].capturing is not None:
            context.engine.log("operation not permitted when stream is capturing")
            return False
        return real(context, stream)

    monkeypatch.setattr(fake_trt_runtime.FakeContext, "execute_async_v3", enqueue)
    image = blocks_image()
    labels = [segment(image).labels for _ in range(4)]
    for other in labels[1:]:
        np.testing.assert_array_equal(other, labels[0])
    details = encoder_of(segment).describe()["details"]
    (reason,) = details["cuda_graphs_refused"]
    assert "not permitted when stream is capturing" in reason
    assert (fake.count("cuGraphLaunch"), fake.count("cuStreamBeginCapture")) == (0, 1)


class ThreadsArray(ForeignArray):
    """As torch and CuPy say it: their current stream belongs to a thread, and others have the default one."""

    def __init__(self, fake: FakeDriver, image: np.ndarray, producer: int) -> None:
        super().__init__(fake, np.zeros_like(image))
        self._interface, self._thread = self.__dict__.pop("__cuda_array_interface__"), threading.get_ident()
        self._producer = producer
        fake.queue(producer, lambda: np.copyto(fake.view(self.pointer, image.shape, np.uint8), image))

    def __getattr__(self, name: str) -> Any:
        if name != "__cuda_array_interface__":
            raise AttributeError(name)
        stream = self._producer if threading.get_ident() == self._thread else None
        return {**self._interface, "stream": stream}


def test_a_stream_of_images_waits_for_what_made_them(segment: Segmenter, fake: FakeDriver) -> None:
    images = [blocks_image(150 + 10 * (i % 3), 220, i) for i in range(7)]
    wanted = [segment(image).labels for image in images]
    producer = cuda.Stream(encoder_of(segment)._device)
    arrays = (ThreadsArray(fake, image, producer.address) for image in images)
    for result, labels in zip(segment.stream(arrays), wanted, strict=True):
        np.testing.assert_array_equal(result.labels, labels)


def test_instances_in_threads_do_not_disturb_each_other(
    segment: Segmenter, own_bundle: Path, fake: FakeDriver
) -> None:
    """Each captures its graphs and then closes while the other works on the same GPU."""
    options: dict[str, Any] = {"classes": ["red", "blue"], "templates": "none", "backend": "tensorrt"}
    images = [blocks_image(150 + 10 * (i % 2), 220, i) for i in range(6)]
    wanted = [segment(image).labels for image in images]
    ready, log = threading.Barrier(2), list[str]()

    def work() -> None:
        own = Segmenter(own_bundle, **options)
        ready.wait(600)
        for image, labels in zip(images, wanted, strict=True):
            np.testing.assert_array_equal(own(image).labels, labels)
        assert encoder_of(own).describe()["details"]["cuda_graphs"] == 2
        encoder_of(own).close()

    threads = [started(work, log, "equal") for _ in range(2)]
    for thread in threads:
        thread.join()
    assert log == ["equal", "equal"]
    encoder_of(segment).close()
    assert fake.used == 0


def test_an_image_that_is_refused_is_its_own_outcome(segment: Segmenter, fake: FakeDriver) -> None:
    good = ForeignArray(fake, blocks_image())
    bad = ForeignArray(fake, blocks_image().astype(np.float32))
    found = list(segment.stream([good, bad, good], errors="yield"))
    assert [isinstance(each, ImageError) for each in found] == [False, True, False]
    encoder_of(segment).close()
    with pytest.raises(BackendError, match="was closed"):
        next(iter(segment.stream([good])))
    gc.collect()
    assert {kind for kind, _ in fake.objects} <= {"event"}


def test_plans_may_be_listed_while_another_thread_makes_one() -> None:
    """Keys hash in Python, so that a thread switch falls between two entries of the list: `describe()` asks for it."""
    asked, added = threading.Event(), threading.Event()

    class Key:
        def __hash__(self) -> int:
            if asked.is_set():
                added.wait(0.1)  # for nothing where the cache is locked meanwhile
            return 1

    class Plan:
        def close(self) -> None: ...

    plans: PlanCache[Plan] = PlanCache()
    first, second = Key(), Key()
    plans.get(first, Plan)
    plans.get(second, Plan)

    def add() -> None:
        asked.wait(600)
        plans.get("another", Plan)
        added.set()

    log: list[str] = []
    thread = started(add, log, "added")
    asked.set()
    listed = plans.values()
    thread.join()
    assert (len(listed) in (2, 3), log, len(plans.values())) == (True, ["added"], 3)
