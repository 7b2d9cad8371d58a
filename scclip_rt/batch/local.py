"""Workers on this machine: in this process if one is enough, else a process each."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import traceback
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any

from scclip_rt.batch.engine import Event, Failed, shard_events
from scclip_rt.batch.errors import BatchError
from scclip_rt.batch.item import Shard
from scclip_rt.batch.ledger import Finished
from scclip_rt.batch.worker import Setup, Worker
from scclip_rt.cpus import worker_threads
from scclip_rt.errors import ScclipError
from scclip_rt.limits import in_range

_CPUS_PER_WORKER = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalEngine:
    """Workers on this machine.

    Attributes:
        workers: how many; None takes one for each of `devices`, or for each four CPUs.
        devices: the workers take them in turn; empty leaves the choice to the options of the run.
        threads: CPU threads of all workers together; None takes the CPUs this process may use.
    """

    workers: int | None = None
    devices: tuple[str, ...] = ()
    threads: int | None = None

    def __post_init__(self) -> None:
        if self.workers is not None:
            in_range("workers", self.workers)

    def overrides(self) -> list[dict[str, Any]]:
        """The options of each worker's `Segmenter`."""
        threads = worker_threads(self.threads)
        count = self.workers or len(self.devices) or max(1, threads // _CPUS_PER_WORKER)
        options: list[dict[str, Any]] = []
        for number in range(count):
            mine = {"threads": max(1, threads // count)}
            options.append(
                mine | ({"device": self.devices[number % len(self.devices)]} if self.devices else {})
            )
        return options

    def run(self, setup: Setup, shards: Sequence[tuple[int, Shard]]) -> Iterator[Event]:
        """See `Engine`."""
        workers = self.overrides()[: max(1, len(shards))]
        if len(workers) == 1:
            worker = Worker(setup, **workers[0])
            for index, shard in shards:
                yield from shard_events(worker, index, shard)
            return
        pool = _Pool(setup, workers, deque(shards))
        try:
            yield from pool.run()
        finally:
            pool.stop()


@dataclass(slots=True)
class _Process:
    """One worker, seen from outside."""

    process: Any
    connection: Connection
    shard: tuple[int, Shard] | None = None


class _Pool:
    """Worker processes, each with one shard at a time."""

    def __init__(
        self, setup: Setup, overrides: list[dict[str, Any]], shards: deque[tuple[int, Shard]]
    ) -> None:
        context = multiprocessing.get_context("spawn")  # ONNX Runtime's threads do not survive a fork
        self._shards = shards
        self._processes: list[_Process] = []
        for options in overrides:
            ours, theirs = context.Pipe()
            process = context.Process(target=_work, args=(theirs, setup, options), daemon=True)
            process.start()
            theirs.close()  # so that the end of the process closes the pipe
            self._processes.append(_Process(process, ours))

    def run(self) -> Iterator[Event]:
        for worker in self._processes:
            self._give(worker)
        while busy := [worker for worker in self._processes if worker.shard is not None]:
            ready = wait([worker.connection for worker in busy])
            for worker in busy:
                if worker.connection in ready:
                    yield from self._receive(worker)

    def _give(self, worker: _Process) -> None:
        worker.shard = self._shards.popleft() if self._shards else None
        if worker.shard is not None:
            worker.connection.send(worker.shard)

    def _receive(self, worker: _Process) -> Iterator[Event]:
        try:
            message = worker.connection.recv()
        except EOFError:
            raise self._death(worker) from None
        if isinstance(message, BaseException):
            raise message
        yield message
        if isinstance(message, Finished | Failed):
            self._give(worker)

    def _death(self, worker: _Process) -> BatchError:
        worker.process.join()
        code, index = worker.process.exitcode, worker.shard[0] if worker.shard else None
        how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        hint = (
            "; often that is the system short of memory: fewer --actors need less"
            if code == -signal.SIGKILL
            else ""
        )
        return BatchError(
            f"the worker with shard {index} {how}{hint}. What is finished is kept: --resume goes on"
        )

    def stop(self) -> None:
        """End the processes that are left, in the middle of their work if need be."""
        for worker in self._processes:
            worker.connection.close()
            worker.process.terminate()
        for worker in self._processes:
            worker.process.join()


def _work(connection: Connection, setup: Setup, options: dict[str, Any]) -> None:
    """In a worker process: answer shards with events, until the pipe is closed."""
    signal.signal(
        signal.SIGINT, signal.SIG_IGN
    )  # Ctrl-C reaches every process; the first one ends the others
    threading.Thread(target=_follow_parent, daemon=True).start()
    try:
        worker = Worker(setup, **options)
        while True:
            for event in shard_events(worker, *connection.recv()):
                connection.send(event)
    except (EOFError, BrokenPipeError):
        return
    except ScclipError as error:
        connection.send(error)
    except BaseException:
        connection.send(RuntimeError(f"a worker failed:\n{traceback.format_exc()}"))


def _follow_parent() -> None:
    """End with the process that started this one, so that a killed run leaves none behind."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
