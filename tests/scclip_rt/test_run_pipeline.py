"""The engine of `stream`, with stages that need no model."""

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pytest

from scclip_rt.stream import Stages, map_ahead, run_pipeline


@dataclass
class Item:
    index: int
    windows: np.ndarray
    held_bytes: int = 0


class Recorder:
    """Stages that double a window's first pixel, and note what they saw."""

    def __init__(
        self, *, batch: int = 4, delay: float = 0.0, side: int = 2, held_bytes: int = 1 << 20
    ) -> None:
        self.batches: list[tuple[int, ...]] = []
        self.prepared = 0
        self.delay = delay
        self.side = side
        self.stages: Stages[int, Item, int] = Stages(
            prepare=self.prepare, encode=self.encode, finish=self.finish, batch=batch, held_bytes=held_bytes
        )

    def prepare(self, index: int) -> Item:
        if index < 0:
            raise ValueError(f"item {index}")
        self.prepared += 1
        time.sleep(self.delay * (index % 3))  # the later of two neighbours is often ready first
        count = 1 + index % 3
        windows = np.full((count, self.side, self.side, 3), index % 250, np.uint8)
        return Item(index, windows, windows.nbytes)

    def encode(self, windows: np.ndarray) -> np.ndarray:
        self.batches.append(windows.shape)
        return windows[:, :1, 0, :1].astype(np.float32) * 2

    def finish(self, item: Item, features: np.ndarray) -> int:
        assert features.shape == (len(item.windows), 1, 1)
        assert (features == item.index % 250 * 2).all()
        return item.index


def threads() -> list[str]:
    return [
        thread.name
        for thread in threading.enumerate()
        if thread.name.startswith("scclip") and thread not in OTHERS
    ]


OTHERS: list[threading.Thread] = []
"""Of what earlier tests left to the collector."""


@pytest.fixture(autouse=True)
def _note_others() -> None:
    OTHERS[:] = threading.enumerate()


@pytest.mark.parametrize("batch", [1, 2, 3, 4, 5, 64])
@pytest.mark.parametrize("count", [0, 1, 2, 7, 40])
def test_order_is_kept_and_batches_are_full(batch: int, count: int) -> None:
    recorder = Recorder(batch=batch, delay=0.001)
    outcomes = list(run_pipeline(recorder.stages, range(count)))
    assert [outcome.result for outcome in outcomes] == list(range(count))
    assert [outcome.item for outcome in outcomes] == list(range(count))
    windows = sum(1 + index % 3 for index in range(count))
    sizes = [shape[0] for shape in recorder.batches]
    assert sum(sizes) == windows
    assert len(sizes) == -(-windows // batch)
    assert all(size == batch for size in sizes[:-1])
    assert threads() == []


def test_windows_of_other_sizes_never_share_a_batch() -> None:
    recorder = Recorder(batch=4)

    def prepare(index: int) -> Item:
        side = 2 + index // 2
        return Item(index, np.full((1, side, side, 3), index, np.uint8))

    stages = Stages(prepare=prepare, encode=recorder.encode, finish=recorder.finish, batch=4)
    assert [outcome.result for outcome in run_pipeline(stages, range(5))] == list(range(5))
    assert [shape[:2] for shape in recorder.batches] == [(2, 2), (2, 3), (1, 4)]


def test_error_of_one_item_comes_in_its_place() -> None:
    outcomes = list(run_pipeline(Recorder().stages, [0, 1, -1, 3, -2]))
    assert [outcome.result for outcome in outcomes] == [0, 1, None, 3, None]
    assert str(outcomes[2].error) == "item -1"
    assert str(outcomes[4].error) == "item -2"


@pytest.mark.parametrize("stage", ["encode", "finish"])
def test_error_of_the_model_is_raised(stage: str) -> None:
    recorder = Recorder(batch=2)

    def fail(*_: object) -> None:
        raise RuntimeError(stage)

    functions = {
        "prepare": recorder.prepare,
        "encode": recorder.encode,
        "finish": recorder.finish,
        stage: fail,
    }
    with pytest.raises(RuntimeError, match=stage):
        list(run_pipeline(Stages(**functions, batch=2), range(9)))
    assert threads() == []


def test_error_of_the_source_follows_what_it_gave() -> None:
    def source() -> Iterator[int]:
        yield from range(3)
        raise OSError("camera unplugged")

    results = []
    with pytest.raises(OSError, match="camera unplugged"):
        results.extend(outcome.result for outcome in run_pipeline(Recorder().stages, source()))
    collected = []
    outcomes = run_pipeline(Recorder().stages, source())
    collected = [next(outcomes).result for _ in range(3)]
    assert collected == [0, 1, 2]
    with pytest.raises(OSError, match="camera unplugged"):
        next(outcomes)


def endless() -> Iterator[int]:
    index = 0
    while True:
        yield index
        index += 1


def test_endless_source_is_read_ahead_by_a_bound() -> None:
    recorder = Recorder(batch=4)
    outcomes = run_pipeline(recorder.stages, endless())
    for _ in range(20):
        next(outcomes)
    assert recorder.prepared <= 20 + 2 * 4 + 2 + 1
    outcomes.close()  # type: ignore[attr-defined]
    assert threads() == []


def test_memory_bounds_reading_ahead() -> None:
    recorder = Recorder(batch=64, side=100, held_bytes=100_000)
    outcomes = run_pipeline(recorder.stages, endless())
    for _ in range(6):
        next(outcomes)
    # 30 to 90 kB an item: a handful, not the 130 that two batches of 64 would take.
    assert recorder.prepared <= 6 + 8
    outcomes.close()  # type: ignore[attr-defined]


def test_item_larger_than_the_bound_goes_through_alone() -> None:
    recorder = Recorder(batch=4, side=100, held_bytes=1)
    assert [outcome.result for outcome in run_pipeline(recorder.stages, range(7))] == list(range(7))


def test_nothing_starts_before_the_first_result_is_asked_for() -> None:
    recorder = Recorder()
    outcomes = run_pipeline(recorder.stages, endless())
    time.sleep(0.02)
    assert recorder.prepared == 0
    assert threads() == []
    outcomes.close()  # type: ignore[attr-defined]


def test_stages_overlap() -> None:
    """The third item's preparation, the second's encoding and the first's end wait for one another."""
    recorder = Recorder(batch=1)
    together = threading.Barrier(3, timeout=60)

    def prepare(index: int) -> Item:
        if index == 2:
            together.wait()
        return Item(index, np.full((1, 2, 2, 3), index, np.uint8))

    def encode(windows: np.ndarray) -> np.ndarray:
        if windows[0, 0, 0, 0] == 1:
            together.wait()
        return recorder.encode(windows)

    def finish(item: Item, features: np.ndarray) -> int:
        if item.index == 0:
            together.wait()
        return recorder.finish(item, features)

    stages = Stages(prepare=prepare, encode=encode, finish=finish, batch=1)
    assert [outcome.result for outcome in run_pipeline(stages, range(5))] == list(range(5))


def test_keyboard_interrupt_is_passed_on_at_once() -> None:
    recorder = Recorder(batch=1)
    release = threading.Event()

    def encode(windows: np.ndarray) -> np.ndarray:
        release.wait()
        return recorder.encode(windows)

    def source() -> Iterator[int]:
        yield 0
        raise KeyboardInterrupt

    stages = Stages(prepare=recorder.prepare, encode=encode, finish=recorder.finish, batch=1)
    with pytest.raises(KeyboardInterrupt):  # while the encoder is at work
        list(run_pipeline(stages, source()))
    release.set()


def test_timings_are_told() -> None:
    outcome = next(iter(run_pipeline(Recorder(batch=1).stages, [1])))
    assert outcome.timings.prepare > 0
    assert outcome.timings.encode > 0
    assert outcome.timings.decode > 0


def test_mapping_ahead_keeps_the_order_and_stays_near_the_caller():
    taken: list[int] = []

    def source():
        for number in range(20):
            taken.append(number)
            yield number

    results = map_ahead(lambda number: number * number, source(), workers=2)
    assert [next(results) for _ in range(5)] == [0, 1, 4, 9, 16]
    assert len(taken) <= 5 + 3
    assert list(results) == [number * number for number in range(5, 20)]


def test_mapping_ahead_delivers_what_came_before_an_error_of_the_source():
    def source():
        yield from (1, 2)
        raise OSError("the disk is gone")

    results = map_ahead(str, source())
    assert [next(results), next(results)] == ["1", "2"]
    with pytest.raises(OSError, match="gone"):
        next(results)


def test_mapping_ahead_raises_an_error_in_its_place():
    results = map_ahead(lambda number: 1 // (3 - number), range(9))
    assert [next(results) for _ in range(3)] == [0, 0, 1]
    with pytest.raises(ZeroDivisionError):
        next(results)
