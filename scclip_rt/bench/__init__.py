"""Benchmarks: a correctness gate, then latency, memory and the share of the machine's limit, of rivals in turn.

    from scclip_rt.bench import Bench, Case, Plan, document, entries, table

    cases = [Case(bundle="vitb16.scclip", precision=p) for p in ("fp32", "int8")]
    results = Bench(Plan(iterations=20)).run(entries(cases))
    print(table(document([results], Plan(iterations=20))))

Each contender runs in a process of its own, started by importing the main module again: a script needs the usual
`if __name__ == "__main__":`.
"""

from scclip_rt.bench.case import Case, Workload, parse_target, sweep
from scclip_rt.bench.errors import BenchError
from scclip_rt.bench.report import document, table
from scclip_rt.bench.runner import Bench, Entry, Plan, Result, entries

__all__ = [
    "Bench",
    "BenchError",
    "Case",
    "Entry",
    "Plan",
    "Result",
    "Workload",
    "document",
    "entries",
    "parse_target",
    "sweep",
    "table",
]
