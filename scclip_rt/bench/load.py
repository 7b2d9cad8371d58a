"""How busy a machine is with other things: a figure taken beside a compiler is worth little, and should say so."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

NOTABLE = 0.05
"""Share of the processor from which a report says so."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadMark:
    """A moment: the wall clock, and CPU seconds of the whole machine and of the benchmark's own processes."""

    wall: float
    busy: float | None
    own: float

    @classmethod
    def now(cls, own: float, *, busy: Callable[[], float | None] | None = None) -> Self:
        """Take a mark; `own` is CPU seconds of the processes that measure."""
        return cls(wall=time.perf_counter(), busy=(busy or busy_seconds)(), own=own)

    def others_since(self, start: Self) -> float | None:
        """Share of all cores, 0 to 1, that other processes (or a hypervisor) took since; None where nobody tells."""
        if self.busy is None or start.busy is None or self.wall <= start.wall:
            return None
        others = (self.busy - start.busy) - (self.own - start.own)
        return min(1.0, max(0.0, others / ((self.wall - start.wall) * (os.cpu_count() or 1))))


def busy_seconds() -> float | None:
    """CPU seconds that the machine has spent on anything since it started, time stolen from it included; Linux only."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        fields = [int(field) for field in Path("/proc/stat").read_text("ascii").splitlines()[0].split()[1:9]]
        idle = fields[3] + fields[4]  # idle, and waiting for a disk
        return (sum(fields) - idle) / os.sysconf("SC_CLK_TCK")
    return None
