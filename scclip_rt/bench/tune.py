"""What `scclip tune` does: the ways to run a bundle's encoder on this processor, checked, timed one after the other."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, cast, get_args

import numpy as np
from numpy.typing import NDArray

from scclip_rt.backends.base import EncoderBackend, GridChoice
from scclip_rt.backends.choose import Host, cpu_precisions, cpu_ways, this_host
from scclip_rt.backends.tuned import CpuBackend, Measured, Tuned
from scclip_rt.bench.case import Workload
from scclip_rt.bench.errors import BenchError
from scclip_rt.bench.gate import check, limits_for
from scclip_rt.bench.inputs import bench_image
from scclip_rt.bundle.bundle import Bundle
from scclip_rt.cpus import default_threads, usable_cpus
from scclip_rt.errors import ScclipError
from scclip_rt.segmenter import Segmenter

SECONDS = 50.0
"""Nothing new begins after so long: what has begun ends within a minute, on most models and processors."""
RUNS = 3
WORTH = 0.97
"""Another number of threads or windows must take at most this share of the default's time, else it is noise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A way to run the encoder; `batch` None is the backend's own number."""

    grid: GridChoice
    precision: str
    backend: CpuBackend
    threads: int
    batch: int | None = None

    def __str__(self) -> str:
        batch = "" if self.batch is None else f", batch {self.batch}"
        return f"{self.grid} {self.precision} on {self.backend}, {self.threads} threads{batch}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """A candidate, loaded, and the windows of the image that are to be encoded."""

    encoder: EncoderBackend
    windows: NDArray[np.uint8]


def open_candidate(bundle: Bundle, candidate: Candidate) -> Opened:
    """Load a candidate, for the scene that comes with the package at the size of a photo, 375×500.

    Raises:
        ScclipError: it can't be loaded.
    """
    segmenter = Segmenter(
        bundle,
        backend=candidate.backend,
        device="cpu",
        precision=candidate.precision,
        threads=candidate.threads,
        batch=candidate.batch,
        whole_image=candidate.grid == "whole",
    )
    windows = segmenter.preparation(bench_image(Workload())).windows
    return Opened(encoder=segmenter.backend, windows=windows)


@dataclass(slots=True)
class Tuner:
    """Measures a bundle.

    Attributes:
        bundle: an open bundle.
        seconds: nothing new begins after so long.
        host: the processor and the libraries; default: those here.
        progress: called with a line whenever something begins.
        open_candidate: loads one.
        clock: seconds.
        skipped: candidates that count for nothing, and why.
        unfinished: grids of which not every precision could be timed: what was timed of them would be taken for the
            fastest, so it is left out.
    """

    bundle: Bundle
    seconds: float = SECONDS
    host: Host = field(default_factory=this_host)
    progress: Callable[[str], None] = lambda _: None
    open_candidate: Callable[[Bundle, Candidate], Opened] = open_candidate
    clock: Callable[[], float] = time.perf_counter
    skipped: list[tuple[Candidate, str]] = field(default_factory=list)
    unfinished: list[GridChoice] = field(default_factory=list)
    _end: float = 0.0
    _late: set[Candidate] = field(default_factory=set)
    _longest: dict[GridChoice, float] = field(default_factory=dict)
    _references: dict[GridChoice, NDArray[np.float32]] = field(default_factory=dict)

    def run(self) -> tuple[Measured, ...]:
        """Check and time: first every precision and library, then other batches and threads of the best of them.

        Raises:
            BenchError: no candidate is left, or no grid is finished, so that there is nothing to remember.
        """
        self._end = self.clock() + self.seconds
        grids = [grid for grid in get_args(GridChoice) if _held(self.bundle, grid)]
        rows = list(self._measure_all([candidate for grid in grids for candidate in self._plain(grid)]))
        self.unfinished = [grid for grid in grids if any(late.grid == grid for late in self._late)]
        if rows and self.unfinished == grids:
            raise BenchError(
                f"{self.bundle.path}: {self.seconds:g} s are not enough to time every precision, so nothing is "
                "remembered; give more --seconds",
                field="seconds",
            )
        rows = [row for row in rows if row.grid not in self.unfinished]
        for grid in grids:
            rows += self._variants(grid, rows)
        if not rows:
            reasons = "; ".join(f"{candidate}: {why}" for candidate, why in self.skipped[:3])
            raise BenchError(f"{self.bundle.path}: nothing to remember: {reasons or 'no encoder for a CPU'}")
        return tuple(rows)

    def _plain(self, grid: GridChoice) -> Iterator[Candidate]:
        """Every precision on every library; float32 on ONNX Runtime first, which the others are held against."""
        for precision, library in cpu_ways(_held(self.bundle, grid), self.host):
            yield Candidate(grid=grid, precision=precision, backend=library, threads=default_threads())

    def _variants(self, grid: GridChoice, rows: Sequence[Measured]) -> Iterator[Measured]:
        """Other batches and threads of what `fast` and `auto` would take; only those that gain."""
        tuned = Tuned(rows=tuple(rows))
        bases = [tuned.best(grid=grid), tuned.best(grid=grid, precision="fp32")]
        for base in dict.fromkeys(row for row in bases if row is not None):
            best = base
            for change in (*_batches(base), *_threads(base)):
                of_best = {"threads": best.threads, "batch": best.batch} | change
                candidate = Candidate(
                    grid=grid, precision=base.precision, backend=base.backend, **cast("Any", of_best)
                )
                for row in self._measure_all([candidate]):
                    if row.milliseconds <= WORTH * best.milliseconds:
                        best = row
                        yield row

    def _measure_all(self, candidates: Sequence[Candidate]) -> Iterator[Measured]:
        for index, candidate in enumerate(candidates):
            start = self.clock()
            if start + self._longest.get(candidate.grid, 0.0) > self._end:
                self._late.add(candidate)
                self.skipped.append((candidate, f"no time left of {self.seconds:g} s"))
                continue
            self.progress(str(candidate))
            try:
                yield self._measure(candidate, until=start + (self._end - start) / (len(candidates) - index))
            except ScclipError as error:
                self.skipped.append((candidate, str(error)))
            taken = self.clock() - start
            self._longest[candidate.grid] = max(taken, self._longest.get(candidate.grid, 0.0))

    def _measure(self, candidate: Candidate, *, until: float) -> Measured:
        """Gate, then the fastest of some runs: whatever else runs on the machine can only slow one down.

        The first run is always timed, the others begin before `until`, by the clock.
        """
        held = _held(self.bundle, candidate.grid)
        if candidate.grid not in self._references and candidate.precision != "fp32" and "fp32" in held:
            raise BenchError("float32 does not run, so there is nothing to compare with")
        opened = self.open_candidate(self.bundle, candidate)
        encoder, windows = opened.encoder, opened.windows
        features = encoder.features(windows)  # the first run is not timed
        if candidate.grid not in self._references or candidate.batch is None:
            singles = np.concatenate([encoder.features(window[np.newaxis]) for window in windows])
        else:
            singles = features  # batches were checked with the backend's own number
        info, spec = encoder.describe(), encoder.spec
        reference = self._references.setdefault(candidate.grid, singles)
        limits = limits_for(info["precision"], spec.precision, spec.parity)
        check(features, singles, reference, limits, name=str(candidate))
        taken: list[float] = []
        while len(taken) < RUNS and (not taken or self.clock() < until):
            start = self.clock()
            encoder.features(windows)
            taken.append(self.clock() - start)
        return Measured(
            grid=candidate.grid,
            precision=candidate.precision,
            backend=candidate.backend,
            threads=candidate.threads,
            batch=info["batch"],
            milliseconds=1000 * min(taken),
        )


def _held(bundle: Bundle, grid: GridChoice) -> set[str]:
    try:
        return cpu_precisions(bundle, grid)
    except ScclipError:  # no encoder for whole images
        return set()


def _batches(base: Measured) -> list[dict[str, int]]:
    """Fewer windows at once than the backend takes by itself: their activations may fit into the caches."""
    return [{"batch": batch} for batch in (4, 2, 1) if base.grid == "window" and batch < base.batch]


def _threads(base: Measured) -> list[dict[str, int]]:
    """The other number that may be better: all hyper-threads, or, on many cores, half of them."""
    logical = len(usable_cpus())
    numbers = [logical] if logical > base.threads else []
    return [{"threads": number} for number in (*numbers, *([base.threads // 2] if base.threads >= 4 else []))]
