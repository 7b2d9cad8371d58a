"""One run of benchmarks/gpu: rows as they come, on disk at once, so that a run that was cut off goes on later.

A row is known by its question and sizes. What an earlier call with the same GPU, libraries and revision has found is
kept and not measured again; a row that was under way when that call ended (a crash, a hang, a time limit) is
recorded as failed, not tried a second time. `--fresh` begins anew.
"""

import argparse
import json
import os
import re
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.gpu.clock import Clock

Row = dict[str, Any]
IDENTITY = (
    "question", "arch", "bundle", "contender", "kernel", "method", "precision", "patches", "windows", "queries",
)  # fmt: skip
SAME_LABELS = 0.9999
"""Share of pixels on which two ways to decode the same logits must agree; the rest are ties."""
LENGTH = 300
"""Of a reason in a row."""


class ContextLostError(Exception):
    """A kernel failed so that CUDA refuses every later call of this process."""


class OutOfTimeError(Exception):
    """--budget is spent."""


@dataclass(slots=True)
class Run:
    """Options, clock, ceilings and rows.

    Attributes:
        args: of the command line.
        clock: for all timings.
        environment: what the rows are measured on.
        ceilings: of this GPU.
        rows: in the order they came.
        failures: what went wrong, in words; any makes the exit code 1.
        complete: whether nothing was left undone.
    """

    args: argparse.Namespace
    clock: Clock
    environment: Row
    ceilings: Row = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    complete: bool = False
    _done: set[tuple[Any, ...]] = field(default_factory=set)
    _under_way: Row | None = None
    _deadline: float = float("inf")
    _begun: int = 0

    def __post_init__(self) -> None:
        if self.args.budget is not None:
            self._deadline = time.monotonic() + self.args.budget
        if not self.args.fresh:
            self._resume()

    @property
    def path(self) -> Path:
        """Where the rows go: gpu-NAME.json of the results folder."""
        name = self.environment.get("gpu", {}).get("name", "cpu")
        return Path(self.args.results) / f"gpu-{re.sub(r'[^A-Za-z0-9]+', '-', name).strip('-').lower()}.json"

    def wants(self, base: Row, needs: float = 0.0) -> bool:
        """Whether a row is still to be measured.

        Args:
            base: names it.
            needs: seconds that it may take beyond what every row does; none that needs some is begun when less is left,
                unless it is the first of this call.

        Raises:
            OutOfTimeError: it is, but the time is up.
        """
        if identity(base) in self._done:
            return False
        if time.monotonic() + (needs if self._begun else 0.0) > self._deadline:
            raise OutOfTimeError
        return True

    def seconds_left(self) -> float:
        """Of --budget; infinite without one."""
        return max(self._deadline - time.monotonic(), 0.0)

    def attempt(self, base: Row, work: Callable[[], Row], needs: float = 0.0) -> Row | None:
        """Measure a row if it is wanted; `base` names it, `work` gives the rest.

        Whatever a compiler, a library or a driver raises becomes the row's `failed`: one contender's trouble does not
        end the others' turn.

        Args:
            base: what the row is known by.
            work: measures it.
            needs: see `wants`.

        Returns:
            The row; None if an earlier call had it.

        Raises:
            ContextLostError: the GPU is of no more use to this process.
            OutOfTimeError: the time is up.
        """
        if not self.wants(base, needs):
            return None
        self._begun += 1
        self._under_way = base
        self.save()
        try:
            row = base | work()
        except Exception as error:
            traceback.print_exc(limit=-3)
            row = base | {"failed": reason(error)}
        self.add(row)
        if "failed" in row:
            self.fail(f"{title(row)}: {row['failed']}")
            self._check_context()
        return row

    def found(self, base: Row) -> Row | None:
        """The row of this identity, from this call or an earlier one."""
        return next((row for row in self.rows if identity(row) == identity(base)), None)

    def add(self, row: Row) -> None:
        """Keep a row, say it, write it."""
        self.rows.append(row)
        self._done.add(identity(row))
        self._under_way = None
        told = f"{row['milliseconds']['p50']:.4g} ms" if "milliseconds" in row else _why(row)
        print(f"{title(row)}: {told}", file=sys.stderr, flush=True)
        self.save()

    def fail(self, what: str) -> None:
        """Keep a failure; the script goes on and exits with 1."""
        if what not in self.failures:
            self.failures.append(what)
        print(f"FAILED: {what}", file=sys.stderr, flush=True)
        self.save()

    def report(self) -> Row:
        """Everything, for JSON."""
        return {
            "question": "everything on one GPU",
            "quick": self.args.quick,
            "complete": self.complete,
            "environment": self.environment,
            "ceilings": self.ceilings,
            "rows": self.rows,
            "failures": self.failures,
            "under_way": self._under_way,
        }

    def save(self) -> None:
        """Write what there is; the file is whole at any time."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.path.with_suffix(".part")
        temporary.write_text(json.dumps(self.report(), indent=1, default=str) + "\n", "utf-8")
        temporary.replace(self.path)

    def _resume(self) -> None:
        try:
            report = json.loads(self.path.read_text("utf-8"))
        except (OSError, ValueError):
            return
        if report.get("quick") != self.args.quick or _machine(report["environment"]) != _machine(
            self.environment
        ):
            print(f"{self.path} is of another GPU, version or revision: begun anew", file=sys.stderr)
            return
        self.ceilings, self.rows, self.failures = report["ceilings"], report["rows"], report["failures"]
        self._done = {identity(row) for row in self.rows}
        print(f"{self.path}: {len(self.rows)} rows are there already", file=sys.stderr)
        lost = report.get("under_way")
        if lost is not None:
            words = "did not return: the process crashed, hung or was ended in it"
            self.add(lost | {"failed": words})
            self.fail(f"{title(lost)}: {words}")

    def _check_context(self) -> None:
        try:
            self.clock.synchronize()
        except Exception as error:
            raise ContextLostError(reason(error)) from error


def identity(row: Mapping[str, Any]) -> tuple[Any, ...]:
    """What a row is known by."""
    return tuple(row.get(key) for key in IDENTITY)


def title(row: Mapping[str, Any]) -> str:
    """A row in words."""
    named = " ".join(str(row[key]) for key in ("question", "arch", "contender", "kernel") if key in row)
    sizes = [f"{key} {row[key]}" for key in ("windows", "patches", "queries", "precision") if key in row]
    return f"{named} ({', '.join(sizes)})" if sizes else named


def reason(error: BaseException) -> str:
    """An exception in one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:LENGTH]


def _why(row: Row) -> str:
    if row["question"] == "labels":
        return f"{row['labels_as_fp32']:.3%} as float32's" if "labels_as_fp32" in row else str(row["failed"])
    return str(row.get("failed") or row.get("skipped") or "unsound: not timed")


def _machine(environment: Mapping[str, Any]) -> tuple[Any, ...]:
    """What must be the same for rows to stand in one table."""
    gpu = environment.get("gpu", {})
    versions = {key: environment.get("versions", {}).get(key) for key in ("torch", "triton")}
    return gpu.get("name"), gpu.get("cuda"), environment.get("git_revision"), str(versions)


def start_again(arguments: list[str], seconds_left: float = float("inf")) -> None:
    """Replace this process by a new one that goes on where this one stopped, in what is left of the time."""
    print("the GPU's context is lost; going on in a new process", file=sys.stderr, flush=True)
    kept = [argument for argument in arguments if argument != "--fresh"]
    if seconds_left < float("inf"):
        kept += ["--budget", f"{seconds_left:.0f}"]  # the last one counts
    os.execv(sys.executable, [sys.executable, *kept])
