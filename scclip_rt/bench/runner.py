"""Runs contenders in turn, round by round, so that a drift of the machine's speed meets all of them."""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scclip_rt.bench.case import Case, labels
from scclip_rt.bench.contender import Contender, Description, Reference, Sample
from scclip_rt.bench.gate import Gate
from scclip_rt.bench.limit import LIBRARIES, GemmLimit, LimitRequest
from scclip_rt.bench.load import LoadMark
from scclip_rt.bench.remote import Factory, Handle, Remote
from scclip_rt.errors import OptionError

Start = Callable[[Factory, Any, str], Handle]
"""Opens an object and returns a handle on it: `Remote`, unless a test has another."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A contender: a case, what it is called, and what opens it (benchmarks have baselines of their own)."""

    name: str
    case: Case
    factory: Factory = Contender


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How much is measured.

    Attributes:
        warmup: images before the clock counts, for each contender.
        iterations: rounds; each times every contender once.
        limit: also measure the GEMM limit, once a round.
    """

    warmup: int = 3
    iterations: int = 20
    limit: bool = True

    def __post_init__(self) -> None:
        for option, value, least in (("--warmup", self.warmup, 0), ("--iterations", self.iterations, 1)):
            if value < least:
                raise OptionError(f"{option} must be at least {least}; got {value}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What was measured of one contender.

    Attributes:
        entry: which.
        description: what it is.
        gate: what the correctness gate found.
        samples: one of each round.
        peak_bytes: of its process, after the rounds.
        labels_as_first: share of pixels with the label that the first of the group gives.
        other_load: share of the machine's cores that other processes took during the rounds; None if not known.
        stream_seconds: of `workload.stream` images through the pipeline; None if not asked for.
        limits: for each precision (and numpy) the median seconds of each of the block's products; None where
            the backend's library can't be asked.
    """

    entry: Entry
    description: Description
    gate: Gate
    samples: tuple[Sample, ...]
    peak_bytes: int
    labels_as_first: float
    other_load: float | None
    stream_seconds: float | None
    limits: dict[str, list[float]] | None


def entries(cases: Sequence[Case]) -> list[Entry]:
    """The cases of one workload, named by what tells them apart."""
    return [Entry(name=name, case=case) for name, case in zip(labels(cases), cases, strict=True)]


@dataclass(slots=True)
class Bench:
    """Measures groups of entries; each group has one workload.

    Attributes:
        plan: how much.
        start: opens an object in a process.
        progress: called with a line whenever something begins.
    """

    plan: Plan
    start: Start = Remote
    progress: Callable[[str], None] = lambda _: None
    _references: dict[str, NDArray[np.float32]] = field(default_factory=dict)

    def run(self, group: Sequence[Entry]) -> list[Result]:
        """Gate, warm up, then time a group in turn.

        Raises:
            ScclipError: a contender can't be opened, or fails the gate; nothing was timed then.
        """
        with contextlib.ExitStack() as stack:
            handles, descriptions, gates = [], [], []
            for entry in group:
                self.progress(f"{entry.name}: loading and checking")
                handle = self._open(stack, entry.factory, entry.case, entry.name)
                handles.append(handle)
                descriptions.append(handle.call("describe"))
                gates.append(handle.call("check", self._reference(entry, handle.call("windows"))))
            requests = [limit_request(d) if self.plan.limit else None for d in descriptions]
            limits = {
                request: self._open(stack, GemmLimit, request, f"the GEMM limit of {request}")
                for request in unique(requests)
            }
            agreements = _agreements(handles)
            own = [*handles, *limits.values()]
            before = LoadMark.now(_cpu_seconds(own))
            samples, passes = self._rounds(group, handles, limits)
            others = LoadMark.now(_cpu_seconds(own)).others_since(before)
            return [
                Result(
                    entry=entry,
                    description=descriptions[index],
                    gate=gates[index],
                    samples=tuple(samples[index]),
                    peak_bytes=handles[index].call("peak_bytes"),
                    labels_as_first=agreements[index],
                    other_load=others,
                    stream_seconds=_stream(entry, handles[index]),
                    limits=None if (request := requests[index]) is None else passes[request],
                )
                for index, entry in enumerate(group)
            ]

    def _open(self, stack: contextlib.ExitStack, factory: Factory, argument: Any, name: str) -> Handle:
        handle = self.start(factory, argument, name)
        stack.callback(handle.close)
        return handle

    def _reference(self, entry: Entry, windows: NDArray[np.uint8]) -> NDArray[np.float32]:
        """The float32 features of these windows, computed once, in a process that ends before the clock starts."""
        key = f"{entry.case.bundle} {windows.shape} {hashlib.sha256(windows.tobytes()).hexdigest()}"
        if key not in self._references:
            with contextlib.ExitStack() as stack:
                handle = self._open(stack, Reference, entry.case, f"the reference of {entry.name}")
                self._references[key] = handle.call("features", windows)
        return self._references[key]

    def _rounds(
        self, group: Sequence[Entry], handles: Sequence[Handle], limits: dict[LimitRequest, Handle]
    ) -> tuple[list[list[Sample]], dict[LimitRequest, dict[str, list[float]]]]:
        """Samples of each entry, and for each limit the medians of its passes."""
        for handle in handles:
            for _ in range(self.plan.warmup):
                handle.call("sample")
        samples: list[list[Sample]] = [[] for _ in group]
        passes: dict[LimitRequest, list[dict[str, list[float]]]] = {request: [] for request in limits}
        for number in range(self.plan.iterations):
            self.progress(f"round {number + 1} of {self.plan.iterations}")
            # Back and forth, so that nobody always follows the same rival.
            order = range(len(group)) if number % 2 == 0 else reversed(range(len(group)))
            for index in order:
                samples[index].append(handles[index].call("sample"))
            for request, handle in limits.items():
                passes[request].append(handle.call("seconds"))
        return samples, {request: medians(seconds) for request, seconds in passes.items()}


def _cpu_seconds(handles: Sequence[Handle]) -> float:
    return time.process_time() + sum(float(handle.call("cpu_seconds")) for handle in handles)


def _agreements(handles: Sequence[Handle]) -> list[float]:
    """The share of pixels that each labels as the first does; nobody is asked where there is nobody to compare with."""
    if len(handles) == 1:
        return [1.0]
    maps = [handle.call("labels") for handle in handles]
    return [float((each == maps[0]).mean()) for each in maps]


def limit_request(description: Description) -> LimitRequest | None:
    """Which GEMM limit a contender is held against; None off the CPU and for libraries that can't be asked."""
    backend = description.backend
    if backend.get("backend") not in LIBRARIES or not str(backend.get("device", "")).lower().startswith(
        "cpu"
    ):
        return None
    return LimitRequest(
        library=str(backend["backend"]), threads=int(backend["threads"]), products=description.products
    )


def unique(requests: Iterable[LimitRequest | None]) -> list[LimitRequest]:
    """The distinct requests, in order."""
    return list(dict.fromkeys(request for request in requests if request is not None))


def medians(passes: Sequence[dict[str, list[float]]]) -> dict[str, list[float]]:
    """For each name and product the median over passes of the same form."""
    return {name: np.median([one[name] for one in passes], axis=0).tolist() for name in passes[0]}


def _stream(entry: Entry, handle: Handle) -> float | None:
    images = entry.case.workload.stream
    return float(handle.call("stream", images)) if images else None
