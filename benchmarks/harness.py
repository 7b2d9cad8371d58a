"""What the scripts share: their options, work that takes turns, ratios of pairs, and the report of rows."""

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from scclip_rt.bench import Bench, Entry, Plan, document, table
from scclip_rt.bench.environment import environment
from scclip_rt.cli.options import write_json
from scclip_rt.errors import ScclipError

Row = dict[str, Any]
Name = TypeVar("Name")
Result = TypeVar("Result")


def parser(description: str | None, *, iterations: int | None = None) -> argparse.ArgumentParser:
    """The options that every script has: `--json`, and with `iterations` those of `measure`."""
    made = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    if iterations is not None:
        made.add_argument("--iterations", type=int, default=iterations, help="rounds (%(default)s)")
        made.add_argument("--warmup", type=int, default=1, help="images before the clock (%(default)s)")
    made.add_argument("--json", type=Path, help="write the rows here")
    return made


def measure(
    question: str, groups: Sequence[Sequence[Entry]], args: argparse.Namespace, *, limit: bool = True
) -> None:
    """Run the groups one after the other, with every duration kept, since summary.py pairs them."""
    plan = Plan(warmup=args.warmup, iterations=args.iterations, limit=limit)
    bench = Bench(plan, progress=lambda line: print(line, file=sys.stderr))
    try:
        results = [bench.run(group) for group in groups]
    except ScclipError as error:
        sys.exit(f"error: {error}")
    report = {"question": question, **document(results, plan, samples=True)}
    print(table(report))
    if args.json is not None:
        write_json(report, str(args.json), force=True)


def write_report(target: Path | None, question: str, **found: Any) -> None:
    """Write what was found, with what it was measured on; nothing without a target."""
    if target is not None:
        write_json({"question": question, "environment": environment(), **found}, str(target), force=True)


def timed(work: Callable[[], Result]) -> tuple[float, Result]:
    """Seconds of one call, and what it returned."""
    start = time.perf_counter()
    result = work()
    return time.perf_counter() - start, result


def take_turns(
    sides: Mapping[Name, Callable[[], object]], rounds: int, *, warmup: int = 0
) -> dict[Name, list[float]]:
    """Seconds of every side in every round; each has its turn in it, so that what disturbs the machine meets all."""
    seconds: dict[Name, list[float]] = {name: [] for name in sides}
    for number in range(warmup + rounds):
        for name, work in sides.items():
            taken, _ = timed(work)
            if number >= warmup:
                seconds[name].append(taken)
    return seconds


def ratios(values: Sequence[float], base: Sequence[float]) -> list[float]:
    """Each value over the base's of the same round."""
    return [value / other for value, other in zip(values, base, strict=True)]


def spread(values: Sequence[float]) -> str:
    """`1.42× (1.18–1.94)`: the median, and the range."""
    return f"{statistics.median(values):.2f}× ({min(values):.2f}–{max(values):.2f})"
