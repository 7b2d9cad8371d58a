"""Many requests through one encoder: stages overlap across requests, and no request waits for another to arrive.

An image is prepared (decoded, resized, cut) by one of a few workers, its windows go through the model's encoder in a
thread of its own, and a worker finishes it (labels, and the bytes of the answer). Workers finish before they prepare,
and prepare only what the encoder will need soon: what waits holds the bytes it came in, not pixels. The encoder fills a
batch with the windows that are there, of several requests if need be, and never waits for more.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from scclip_rt.serving.errors import BusyError, ClientGoneError, DeadlineError, NotReadyError

Result = TypeVar("Result")
_QUEUED_BATCHES = 2  # what is prepared ahead of the encoder: one batch at work, one ready
_IDLE_SECONDS = 30.0


class Prepared(Protocol):
    """What preparing gives: windows for the encoder, or features that are known already."""

    @property
    def windows(self) -> NDArray[np.uint8]:
        """(W, h, w, 3) uint8; W = 0 goes past the encoder."""
        ...


class Encoder(Protocol):
    """The encoder of one loaded model."""

    @property
    def batch_size(self) -> int:
        """Most windows at once."""
        ...

    def features(self, windows: NDArray[np.uint8]) -> NDArray[np.float32]:
        """(B, h, w, 3) uint8 to (B, N, E) float32."""
        ...


class Observer(Protocol):
    """What the engine tells the metrics."""

    def stage(self, stage: str, seconds: float) -> None:
        """A stage of one image took so long."""
        ...

    def batch(self, windows: int, size: int, requests: int) -> None:
        """A batch of `windows` out of `size` went through the encoder, from so many requests."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Work(Generic[Result]):
    """One image's way, as functions that workers call.

    Attributes:
        prepare: gives the windows.
        finish: takes what `prepare` gave, the features (W, N, E) and the threads it may use.
        encoder: whose features.
        deadline: `time.monotonic()` after which nobody waits any more.
    """

    prepare: Callable[[], Prepared]
    finish: Callable[[Any, NDArray[np.float32], int | None], Result]
    encoder: Encoder
    deadline: float


@dataclass(slots=True, eq=False)
class Job(Generic[Result]):
    """A work in the house.

    Attributes:
        future: its result, or what went wrong.
        seconds: of each stage so far.
    """

    work: Work[Result]
    future: Future[Result] = field(default_factory=Future)
    seconds: dict[str, float] = field(default_factory=dict)
    entered: float = field(default_factory=time.monotonic)
    prepared: Any = None
    features: NDArray[np.float32] | None = None
    given: int = 0  # windows that are in a batch
    encoded: int = 0
    gone: bool = False

    def cancel(self) -> None:
        """Nobody reads the answer: what is not begun is not done."""
        self.gone = True


class Engine:
    """The threads between a request and its answer.

    Args:
        limit: images in the house; `submit` refuses the next.
        workers: threads that prepare and finish.
        observer: told what happens.
    """

    def __init__(self, *, limit: int, workers: int, observer: Observer) -> None:
        self._limit = limit
        self._observer = observer
        self._wake = threading.Condition()
        self._waiting: deque[Job[Any]] = deque()
        self._finishing: deque[Job[Any]] = deque()
        self._lanes: dict[int, _Lane] = {}
        self._jobs = 0
        self._preparing = 0
        self._closed = False
        self._pace = 0.1  # seconds between answers, smoothed
        self._answered = time.monotonic()
        self._threads = [
            threading.Thread(target=self._work, name=f"scclip-serve-{number}", daemon=True)
            for number in range(workers)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def jobs(self) -> int:
        """Images in the house."""
        return self._jobs

    @property
    def waiting(self) -> int:
        """Of these, those that no thread has looked at."""
        return len(self._waiting)

    def retry_after(self) -> int:
        """Seconds until a full house has probably emptied by a quarter, at least 1."""
        return max(1, min(60, round(self._pace * self._limit / 4)))

    def check_room(self) -> None:
        """Refuse early what `submit` would refuse.

        Raises:
            BusyError: the house is full.
            NotReadyError: it is closed.
        """
        if self._closed:
            raise NotReadyError("the server is shutting down; try another", retry_after=1)
        if self._jobs >= self._limit:
            raise BusyError(
                f"the queue is full ({self._limit} images); try again later", retry_after=self.retry_after()
            )

    def submit(self, work: Work[Result]) -> Job[Result]:
        """Take a work in.

        Raises:
            BusyError: as `check_room`.
        """
        with self._wake:
            self.check_room()
            job = Job(work)
            if self._jobs == 0:
                self._answered = job.entered  # the pace is that of a busy house
            self._jobs += 1
            self._waiting.append(job)
            self._wake.notify_all()
        return job

    def close(self, timeout: float) -> None:
        """Finish what is in the house, then stop; after `timeout` seconds what is left fails."""
        limit = time.monotonic() + timeout
        with self._wake:
            self._closed = True
            self._wake.notify_all()
            self._wake.wait_for(lambda: self._jobs == 0, timeout)
            lanes = list(self._lanes.values())
        for thread in [*self._threads, *(lane.thread for lane in lanes)]:
            thread.join(max(0.0, limit - time.monotonic()))

    def _work(self) -> None:
        """In a worker."""
        while True:
            with self._wake:
                while not self._finishing and not self._may_prepare():
                    if self._closed and self._jobs == 0:
                        return
                    self._wake.wait()
                if self._finishing:
                    job, step = self._finishing.popleft(), self._finish
                else:
                    job, step = self._waiting.popleft(), self._prepare
                    self._preparing += 1
            self._guard(job, step)

    def _may_prepare(self) -> bool:
        if not self._waiting:
            return False
        lane = self._lanes.get(id(self._waiting[0].work.encoder))
        if lane is None:
            return True
        ahead = sum(len(job.prepared.windows) - job.given for job in lane.jobs)
        return ahead + self._preparing < _QUEUED_BATCHES * lane.encoder.batch_size

    def _guard(self, job: Job[Any], step: Callable[[Job[Any]], None]) -> None:
        """A step of one job; whatever it raises is that job's answer and no other's."""
        try:
            if job.gone:
                raise ClientGoneError("the client closed the connection")
            if time.monotonic() > job.work.deadline:
                raise DeadlineError("the deadline passed while the image waited")
            step(job)
        except BaseException as error:
            self._settle(job, error=error)
        finally:
            if step == self._prepare:
                with self._wake:
                    self._preparing -= 1
                    self._wake.notify_all()

    def _prepare(self, job: Job[Any]) -> None:
        start = time.monotonic()
        self._note(job, "queue", start - job.entered)
        job.prepared = job.work.prepare()
        self._note(job, "prepare", time.monotonic() - start)
        with self._wake:
            if len(job.prepared.windows) == 0:
                self._finishing.append(job)
            else:
                self._lane(job.work.encoder).jobs.append(job)
            self._wake.notify_all()

    def _finish(self, job: Job[Any]) -> None:
        start = time.monotonic()
        features = job.features if job.features is not None else np.empty((0, 0, 0), np.float32)
        result = job.work.finish(job.prepared, features, None if self._jobs == 1 else 1)
        self._note(job, "finish", time.monotonic() - start)
        self._settle(job, result=result)

    def _settle(self, job: Job[Any], *, result: Any = None, error: BaseException | None = None) -> None:
        """The job leaves the house."""
        with self._wake:
            self._jobs -= 1
            now = time.monotonic()
            if error is None:
                self._pace += 0.1 * (min(now - self._answered, 10.0) - self._pace)
            self._answered = now
            self._wake.notify_all()
        if not job.future.set_running_or_notify_cancel():
            return
        if error is None:
            job.future.set_result(result)
        else:
            job.future.set_exception(error)

    def _note(self, job: Job[Any], stage: str, seconds: float) -> None:
        job.seconds[stage] = seconds
        self._observer.stage(stage, seconds)

    def _lane(self, encoder: Encoder) -> _Lane:
        """The encoder's thread; it ends when it has had nothing to do for a while, so a replaced model can go."""
        lane = self._lanes.get(id(encoder))
        if lane is None:
            lane = self._lanes[id(encoder)] = _Lane(encoder)
            lane.thread = threading.Thread(
                target=self._encode_all, args=(lane,), name="scclip-serve-encoder", daemon=True
            )
            lane.thread.start()
        return lane

    def _encode_all(self, lane: _Lane) -> None:
        """In the encoder's thread."""
        while True:
            with self._wake:
                if (
                    not self._wake.wait_for(
                        lambda: bool(lane.jobs) or (self._closed and self._jobs == 0), timeout=_IDLE_SECONDS
                    )
                    or not lane.jobs
                ):
                    del self._lanes[id(lane.encoder)]
                    return
                parts = self._take(lane)
                self._wake.notify_all()  # there is room to prepare ahead
            if parts:
                self._encode(lane, parts)

    def _take(self, lane: _Lane) -> list[tuple[Job[Any], int, int]]:
        """The next batch: windows that are there, oldest image first. Images that nobody waits for are let go."""
        parts: list[tuple[Job[Any], int, int]] = []
        room = lane.encoder.batch_size
        shape: tuple[int, ...] | None = None
        dropped = []
        while lane.jobs and room:
            job = lane.jobs[0]
            if job.gone or time.monotonic() > job.work.deadline:
                dropped.append(lane.jobs.popleft())
                continue
            windows = job.prepared.windows
            if shape is not None and windows.shape[1:] != shape:
                break
            shape = windows.shape[1:]
            stop = min(job.given + room, len(windows))
            parts.append((job, job.given, stop))
            room -= stop - job.given
            job.given = stop
            if stop == len(windows):
                lane.jobs.popleft()
        self._finishing.extend(dropped)  # a worker sees the same reason and settles them
        return parts

    def _encode(self, lane: _Lane, parts: list[tuple[Job[Any], int, int]]) -> None:
        start = time.monotonic()
        slices = [job.prepared.windows[first:stop] for job, first, stop in parts]
        windows = slices[0] if len(slices) == 1 else np.concatenate(slices)
        try:
            features = lane.encoder.features(windows)
        except BaseException as error:
            if len(parts) == 1:
                self._fail(lane, parts[0][0], error)
            else:  # one image may have spoilt the batch: it fails alone
                for part in parts:
                    self._encode(lane, [part])
            return
        seconds = (time.monotonic() - start) / len(features)
        self._observer.batch(len(features), lane.encoder.batch_size, len(parts))
        complete, done = [], 0
        for job, first, stop in parts:
            if job.features is None:
                job.features = np.empty((len(job.prepared.windows), *features.shape[1:]), np.float32)
            job.features[first:stop] = features[done : done + stop - first]
            done += stop - first
            job.encoded += stop - first
            job.seconds["encode"] = job.seconds.get("encode", 0.0) + seconds * (stop - first)
            if job.encoded == len(job.features):
                self._observer.stage("encode", job.seconds["encode"])
                complete.append(job)
        with self._wake:
            self._finishing.extend(complete)
            self._wake.notify_all()

    def _fail(self, lane: _Lane, job: Job[Any], error: BaseException) -> None:
        """The encoder failed with this image in its batch."""
        with self._wake:
            if job in lane.jobs:
                lane.jobs.remove(job)
        self._settle(job, error=error)


@dataclass(slots=True, eq=False)
class _Lane:
    """An encoder, its thread, and the prepared images in front of it."""

    encoder: Encoder
    jobs: deque[Job[Any]] = field(default_factory=deque)
    thread: threading.Thread = field(default_factory=threading.Thread)
