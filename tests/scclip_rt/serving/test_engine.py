"""The engine: answers keep to their requests, batches fill from what waits, nobody waits for nothing."""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import pytest
from numpy.typing import NDArray

from scclip_rt.serving.engine import Engine, Job, Work
from scclip_rt.serving.errors import BusyError, ClientGoneError, DeadlineError, NotReadyError


class Quiet:
    """An observer that only remembers batches."""

    def __init__(self) -> None:
        self.batches: list[tuple[int, int]] = []

    def stage(self, stage: str, seconds: float) -> None:
        pass

    def batch(self, windows: int, size: int, requests: int) -> None:  # noqa: ARG002
        self.batches.append((windows, requests))


class FakeEncoder:
    """A window's feature is its first pixel; 255 makes the encoder fail."""

    batch_size = 4

    def __init__(self) -> None:
        self.go = threading.Event()
        self.go.set()
        self.entered = threading.Event()

    def features(self, windows: NDArray[np.uint8]) -> NDArray[np.float32]:
        self.entered.set()
        assert self.go.wait(30)
        first = windows[:, 0, 0, 0]
        if (first == 255).any():
            raise RuntimeError("a spoilt window")
        return first.astype(np.float32)[:, None, None]


@dataclass
class Ready:
    windows: NDArray[np.uint8]


@dataclass
class House:
    engine: Engine
    observer: Quiet
    encoder: FakeEncoder = field(default_factory=FakeEncoder)

    def work(self, *values: int, deadline: float = 60.0, prepare: Callable[[], object] | None = None) -> Work:
        windows = np.array(values, np.uint8)[:, None, None, None].repeat(3, axis=3)
        return Work(
            prepare=prepare or (lambda: Ready(windows)),
            finish=lambda _, features, __: tuple(features[:, 0, 0].tolist()),
            encoder=self.encoder,
            deadline=time.monotonic() + deadline,
        )

    def hold(self) -> Job:
        """An image that keeps the encoder busy until `encoder.go`."""
        self.encoder.go.clear()
        self.encoder.entered.clear()
        job = self.engine.submit(self.work(9))
        assert self.encoder.entered.wait(30)
        return job


@pytest.fixture
def house() -> Iterator[House]:
    observer = Quiet()
    house = House(Engine(limit=8, workers=2, observer=observer), observer)
    yield house
    house.encoder.go.set()
    house.engine.close(10)


def test_answers_keep_to_their_requests(house: House) -> None:
    def ask(seed: int) -> bool:
        values = np.random.default_rng(seed).integers(0, 255, seed % 7 + 1).tolist()
        while True:
            try:
                return house.engine.submit(house.work(*values)).future.result(30) == tuple(values)
            except BusyError:
                time.sleep(0.001)

    with ThreadPoolExecutor(12) as pool:
        assert all(pool.map(ask, range(200)))
    assert max(windows for windows, _ in house.observer.batches) <= house.encoder.batch_size


def test_a_lone_image_is_encoded_at_once(house: House) -> None:
    assert house.engine.submit(house.work(1)).future.result(30) == (1,)
    assert house.observer.batches == [(1, 1)]


def test_what_waits_shares_a_batch(house: House) -> None:
    held = house.hold()
    jobs = [house.engine.submit(house.work(number)) for number in (1, 2, 3)]
    while sum(job.prepared is not None for job in jobs) < 3:
        time.sleep(0.001)
    house.encoder.go.set()
    assert [job.future.result(30) for job in (held, *jobs)] == [(9,), (1,), (2,), (3,)]
    assert house.observer.batches == [(1, 1), (3, 3)]


def test_an_image_that_cannot_be_prepared_fails_alone(house: House) -> None:
    def broken() -> object:
        raise ValueError("no picture")

    jobs = [house.engine.submit(house.work(1)), house.engine.submit(house.work(prepare=broken))]
    with pytest.raises(ValueError, match="no picture"):
        jobs[1].future.result(30)
    assert jobs[0].future.result(30) == (1,)


def test_an_image_that_spoils_a_batch_fails_alone(house: House) -> None:
    held = house.hold()
    jobs = [house.engine.submit(house.work(number)) for number in (1, 255, 3)]
    while sum(job.prepared is not None for job in jobs) < 3:
        time.sleep(0.001)
    house.encoder.go.set()
    assert held.future.result(30) == (9,)
    with pytest.raises(RuntimeError, match="spoilt"):
        jobs[1].future.result(30)
    assert (jobs[0].future.result(30), jobs[2].future.result(30)) == ((1,), (3,))


def test_a_full_house_refuses(house: House) -> None:
    house.hold()
    for number in range(7):
        house.engine.submit(house.work(number))
    with pytest.raises(BusyError, match="full") as error:
        house.engine.submit(house.work(1))
    assert error.value.retry_after is not None
    assert error.value.retry_after >= 1


@pytest.mark.parametrize("reason", ["deadline", "gone"])
def test_what_nobody_waits_for_is_not_prepared(house: House, reason: str) -> None:
    house.hold()
    touched: list[int] = []

    def prepare() -> Ready:
        touched.append(1)
        return Ready(np.zeros((1, 1, 1, 3), np.uint8))

    for number in range(5):  # more than are prepared ahead
        house.engine.submit(house.work(*[number] * 3))
    late = house.engine.submit(house.work(prepare=prepare, deadline=0.0 if reason == "deadline" else 60.0))
    if reason == "gone":
        late.cancel()
    house.encoder.go.set()
    with pytest.raises(DeadlineError if reason == "deadline" else ClientGoneError):
        late.future.result(30)
    assert touched == []


def test_prepared_images_are_few_while_the_encoder_is_busy(house: House) -> None:
    house.hold()
    jobs = [house.engine.submit(house.work(1, 2, 3, 4)) for _ in range(7)]
    time.sleep(0.05)
    assert sum(job.prepared is not None for job in jobs) <= 4
    house.encoder.go.set()
    assert all(job.future.result(30) == (1, 2, 3, 4) for job in jobs)


def test_closing_answers_what_is_in_the_house(house: House) -> None:
    house.hold()
    job = house.engine.submit(house.work(5))
    closing = threading.Thread(target=house.engine.close, args=(30,))
    closing.start()
    while not house.engine._closed:
        time.sleep(0.001)
    with pytest.raises(NotReadyError, match="shutting down"):
        house.engine.submit(house.work(1))
    house.encoder.go.set()
    closing.join(30)
    assert job.future.result(0) == (5,)
