"""What the measuring scripts share: run groups of the package's harness, print the table, write the rows."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from scclip_rt.bench import Bench, Entry, Plan, document, table
from scclip_rt.cli.options import write_json
from scclip_rt.errors import ScclipError


def parser(description: str | None, *, iterations: int) -> argparse.ArgumentParser:
    """The options that every script has."""
    made = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
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
