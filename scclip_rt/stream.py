"""The engine under `Segmenter.stream`: full batches across images, work that overlaps, results in order.

Reading the source happens in the caller's thread, encoding in one thread of its own (the model takes all
cores or the GPU by itself), preparing and finishing in a small pool. Everything is a future, so an error
surfaces where its image's result is due.
"""

import contextlib
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Generic, Literal, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

# What may wait in memory between its reading and its result, in bytes (one image may exceed it alone).
HELD_BYTES = 512 << 20
_QUEUED_BATCHES = 2  # one in the encoder, one ready: more would only hold memory


class HasWindows(Protocol):
    """What preparing gives: at least the windows, and how many bytes it keeps alive."""

    @property
    def windows(self) -> NDArray[np.uint8]:
        """(W, H, W, 3) uint8."""
        ...

    @property
    def held_bytes(self) -> int:
        """Bytes kept until the result is delivered, windows and features included."""
        ...


Item = TypeVar("Item")
Prepared = TypeVar("Prepared", bound=HasWindows)
Result = TypeVar("Result")
Mapped = TypeVar("Mapped")


@dataclass(slots=True)
class Timings:
    """Seconds of one image: reading and resizing, its share of its batches, decoding."""

    prepare: float = 0.0
    encode: float = 0.0
    decode: float = 0.0

    @contextlib.contextmanager
    def measure(self, stage: Literal["prepare", "encode", "decode"]) -> Iterator[None]:
        """Set a stage to the seconds that the body takes."""
        start = time.perf_counter()
        yield
        setattr(self, stage, time.perf_counter() - start)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stages(Generic[Item, Prepared, Result]):
    """The three functions of the pipeline; each may be called from another thread than the last.

    `expected_bytes` says before an item is prepared what it will hold.
    `prepare` and `finish` run several at a time; `encode` takes windows (B, H, W, 3), B ≤ `batch`, and
    returns features (B, N, E), one call at a time.
    """

    prepare: Callable[[Item], Prepared]
    encode: Callable[[NDArray[np.uint8]], NDArray[np.float32]]
    finish: Callable[[Prepared, NDArray[np.float32]], Result]
    batch: int
    workers: int = 2
    held_bytes: int = HELD_BYTES
    expected_bytes: Callable[[Item], int] = lambda _: 0


@dataclass(slots=True, eq=False)
class _Job(Generic[Prepared, Result]):
    """One image on its way."""

    prepared: "Future[Prepared]"
    timings: Timings
    expected: int = 0
    batches: list["Future[None]"] = field(default_factory=list)
    features: NDArray[np.float32] | None = None
    left: int = 0  # windows not encoded yet
    submitted: bool = False  # every window is in a batch that was handed to the encoder
    finished: "Future[Result] | None" = None


@dataclass(slots=True)
class Outcome(Generic[Item, Result]):
    """The result for one item, or the error that its preparation raised."""

    item: Item
    timings: Timings
    result: Result | None = None
    error: Exception | None = None

    def unwrap(self) -> Result:
        """The result; without one, raise the error."""
        if self.result is None:
            raise self.error or RuntimeError("an outcome without result and error")
        return self.result


class _Run(Generic[Item, Prepared, Result]):
    """One pass over a source. Methods run in the caller's thread unless they say otherwise."""

    def __init__(self, stages: Stages[Item, Prepared, Result], items: Iterable[Item]) -> None:
        self._stages = stages
        self._source: Iterator[Item] | None = iter(items)
        self._source_error: Exception | None = None
        self._pool = ThreadPoolExecutor(stages.workers, thread_name_prefix="scclip-worker")
        self._encoder = ThreadPoolExecutor(1, thread_name_prefix="scclip-encoder")
        self._next: tuple[Item, int] | None = None  # looked at, not read yet
        self._jobs: deque[tuple[Item, _Job[Prepared, Result]]] = deque()  # read, result not delivered
        self._waiting: deque[_Job[Prepared, Result]] = deque()  # read, not in a batch
        self._batch: list[tuple[_Job[Prepared, Result], int, int]] = []  # job, first and last window
        self._batches: deque[Future[None]] = deque()  # handed to the encoder

    def outcomes(self) -> Iterator[Outcome[Item, Result]]:
        """Deliver every item's outcome in order, then what the source raised, if it did."""
        wait = True
        try:
            while True:
                self._fill()
                if not self._jobs:
                    break
                yield self._deliver(*self._jobs.popleft())
            if self._source_error is not None:
                raise self._source_error
        except KeyboardInterrupt:
            wait = False  # the batch in the encoder may take seconds; let Ctrl-C through at once
            raise
        finally:
            for executor in (self._pool, self._encoder):
                executor.shutdown(wait=wait, cancel_futures=True)

    def _fill(self) -> None:
        """Read and batch ahead until the first item is with the encoder, and if possible the next batch."""
        while True:
            while self._may_read():
                self._read()
            if not self._waiting:
                # Nothing more can join the last batch now, so it goes as it is if somebody waits for it.
                if self._jobs and not self._jobs[0][1].submitted:
                    self._submit_batch()
                return
            while self._batches and self._batches[0].done():
                self._batches.popleft()
            ahead = len(self._batches) >= _QUEUED_BATCHES or not self._waiting[0].prepared.done()
            if self._jobs[0][1].submitted and ahead:
                return
            self._enqueue(self._waiting.popleft())

    def _may_read(self) -> bool:
        if self._source is None and self._next is None:
            return False
        unprepared = sum(not job.prepared.done() for job in self._waiting)
        if (
            unprepared > self._stages.workers
            or len(self._jobs) >= 2 * self._stages.batch + self._stages.workers
        ):
            return False
        if not self._jobs:
            return True
        held = sum(self._held(job) for _, job in self._jobs)
        if held >= self._stages.held_bytes:
            return False
        # Looked at before it is taken: what several workers decode at a time counts as well.
        self._look_ahead()
        return self._next is not None and held + self._next[1] <= self._stages.held_bytes

    @staticmethod
    def _held(job: _Job[Prepared, Result]) -> int:
        if not job.prepared.done():
            return job.expected
        return 0 if job.prepared.exception() is not None else job.prepared.result().held_bytes

    def _look_ahead(self) -> None:
        """Take the next item from the source, unless one was taken, without preparing it."""
        if self._source is None or self._next is not None:
            return
        try:
            item = next(self._source)
        except StopIteration:
            self._source = None
            return
        except Exception as error:  # the source is the caller's; what it gave before it failed is delivered
            self._source, self._source_error = None, error
            return
        self._next = item, self._stages.expected_bytes(item)

    def _read(self) -> None:
        self._look_ahead()
        if self._next is None:
            return
        (item, expected), self._next, timings = self._next, None, Timings()
        job: _Job[Prepared, Result] = _Job(self._pool.submit(self._prepare, item, timings), timings, expected)
        self._jobs.append((item, job))
        self._waiting.append(job)

    def _prepare(self, item: Item, timings: Timings) -> Prepared:
        """In a worker."""
        with timings.measure("prepare"):
            return self._stages.prepare(item)

    def _enqueue(self, job: _Job[Prepared, Result]) -> None:
        """Spread a job's windows over batches; a full batch goes to the encoder at once."""
        if job.prepared.exception() is not None:
            job.submitted = True
            return
        windows = job.prepared.result().windows
        job.left = len(windows)
        if self._batch and self._shape(self._batch[0][0]) != windows.shape[1:]:
            self._submit_batch()
        start = 0
        while start < len(windows):
            stop = min(start + self._stages.batch - self._batch_length(), len(windows))
            self._batch.append((job, start, stop))
            start = stop
            if self._batch_length() == self._stages.batch:
                self._submit_batch()

    @staticmethod
    def _shape(job: _Job[Prepared, Result]) -> tuple[int, ...]:
        return job.prepared.result().windows.shape[1:]

    def _batch_length(self) -> int:
        return sum(last - first for _, first, last in self._batch)

    def _submit_batch(self) -> None:
        if not self._batch:
            return
        parts, self._batch = self._batch, []
        future = self._encoder.submit(self._encode, parts)
        self._batches.append(future)
        for job, _, last in parts:
            job.batches.append(future)
            job.submitted = last == len(job.prepared.result().windows)

    def _encode(self, parts: list[tuple[_Job[Prepared, Result], int, int]]) -> None:
        """In the encoder's thread: one batch; whoever is complete goes on to a worker."""
        start = time.perf_counter()
        slices = [job.prepared.result().windows[first:last] for job, first, last in parts]
        features = self._stages.encode(slices[0] if len(slices) == 1 else np.concatenate(slices))
        seconds = (time.perf_counter() - start) / len(features)
        done = 0
        for job, first, last in parts:
            count = last - first
            if job.features is None:
                total = len(job.prepared.result().windows)
                job.features = np.empty((total, *features.shape[1:]), np.float32)
            job.features[first:last] = features[done : done + count]
            done += count
            job.timings.encode += seconds * count
            job.left -= count
            if job.left == 0:
                prepared = job.prepared.result()
                job.finished = self._pool.submit(self._finish, prepared, job.features, job.timings)

    def _finish(self, prepared: Prepared, features: NDArray[np.float32], timings: Timings) -> Result:
        """In a worker."""
        with timings.measure("decode"):
            return self._stages.finish(prepared, features)

    def _deliver(self, item: Item, job: _Job[Prepared, Result]) -> Outcome[Item, Result]:
        error = job.prepared.exception()
        if isinstance(error, Exception):
            return Outcome(item, job.timings, error=error)
        if error is not None:
            raise error
        for batch in job.batches:
            batch.result()
        if job.finished is None:
            raise RuntimeError("an image left the pipeline without a result")
        return Outcome(item, job.timings, result=job.finished.result())


def map_ahead(
    function: Callable[[Item], Mapped], items: Iterable[Item], *, workers: int = 2
) -> Iterator[Mapped]:
    """`map` in threads, for work that releases the GIL: results in order, at most `workers` items ahead of the caller.

    Yields:
        The result for each item. An error of the function or of the source is raised in its place, after the results of
        what came before it.
    """
    pending: deque[Future[Mapped]] = deque()
    source, failure = iter(items), None
    with ThreadPoolExecutor(workers, thread_name_prefix="scclip-ahead") as pool:
        try:
            while True:
                try:
                    item = next(source)
                except StopIteration:
                    break
                except Exception as error:
                    failure = error
                    break
                pending.append(pool.submit(function, item))
                while len(pending) > workers or (pending and pending[0].done()):
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()
    if failure is not None:
        raise failure


def run_pipeline(
    stages: Stages[Item, Prepared, Result], items: Iterable[Item]
) -> Iterator[Outcome[Item, Result]]:
    """Send items through the three stages.

    Args:
        stages: what to do.
        items: any iterable, also an endless one; read ahead by a bounded number of items and bytes.

    Yields:
        One outcome for each item, in order. An error of `prepare` is in its outcome; errors of `encode` and
        `finish` are raised. Closing the iterator stops the workers.
    """
    # A generator of its own, so that no thread starts before the first result is asked for.
    yield from _Run(stages, items).outcomes()
