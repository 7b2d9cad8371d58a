"""Turns, pairs and reports, with contenders whose times are known."""

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from scclip_rt.bench import Bench, BenchError, Case, Entry, Plan, Workload, document, entries, table
from scclip_rt.bench.case import sweep
from scclip_rt.bench.contender import Contender, Description, Reference, Sample
from scclip_rt.bench.flops import Product
from scclip_rt.bench.gate import Gate, Limits
from scclip_rt.bench.limit import GemmLimit
from scclip_rt.bench.report import groups_of
from scclip_rt.bench.stats import Percentiles, Ratio
from scclip_rt.errors import OptionError

PRODUCT = Product(name="qkv", rows=10, inner=10, outer=50)  # 10,000 operations
LIMITS = Limits(mean_abs=1e-3, labels=0.9, batch_mean_abs=1e-4)


class Machine:
    """Fake processes: records every call; a contender's speed is its `threads`, and falls from round to round."""

    def __init__(self, *, wrong: str | None = None, backend: str = "onnxruntime") -> None:
        self.calls: list[tuple[str, str]] = []
        self.open: set[str] = set()
        self.wrong, self.backend = wrong, backend

    def start(self, factory: Callable[[Any], Any], argument: Any, name: str) -> "Process":
        kind = {Contender: "contender", Reference: "reference", GemmLimit: "limit"}[factory]
        assert name not in self.open
        self.open.add(name)
        return Process(self, kind, argument, name)


class Process:
    def __init__(self, machine: Machine, kind: str, argument: Any, name: str) -> None:
        self.machine, self.kind, self.argument, self.name = machine, kind, argument, name
        self.drift = 1.0

    def call(self, method: str, *arguments: Any) -> Any:
        self.machine.calls.append((self.name, method))
        return getattr(self, method)(*arguments)

    def close(self) -> None:
        self.machine.open.discard(self.name)

    def describe(self) -> Description:
        case = self.argument
        return Description(
            bundle={
                "name": "b",
                "path": f"/secret/{case.bundle}",
                "sha256": "0" * 64,
                "calibration": "scclip",
            },
            backend={
                "backend": self.machine.backend,
                "version": "1",
                "device": "cpu",
                "precision": "fp32",
                "threads": case.threads or 1,
            },
            image=case.workload.size or (1, 1),
            queries=case.workload.queries,
            windows=6,
            patches=196,
            batch=6,
            flops=1_000_000,
            products=(PRODUCT,),
        )

    def windows(self) -> np.ndarray:
        return np.zeros((6, 4, 4, 3), np.uint8)

    def features(self, windows: np.ndarray) -> str:
        assert windows.dtype == np.uint8
        return "the reference"

    def check(self, reference: str) -> Gate:
        assert reference == "the reference"
        if self.name == self.machine.wrong:
            raise BenchError(f"{self.name} fails the correctness gate")
        return Gate(
            limits=LIMITS, windows=6, unit_error=0, mean_abs=1e-5, max_abs=1e-4, labels=1, batch_mean_abs=0
        )

    def sample(self) -> Sample:
        self.drift *= 1.1
        encode = 0.1 * self.drift / (self.argument.threads or 1)
        return Sample(total=encode, prepare=0.0, encode=encode, decode=0.0)

    def seconds(self) -> dict[str, list[float]]:
        return {"fp32": [0.0005], "int8": [0.00025]}

    def stream(self, images: int) -> float:
        return images / 4

    def labels(self) -> np.ndarray:
        return np.arange(10) % (self.argument.threads or 1)

    def cpu_seconds(self) -> float:
        return 0.0

    def peak_bytes(self) -> int:
        return 123_000_000


def group(**workload: Any) -> list[Entry]:
    cases = [Case(bundle="b.scclip", threads=n, workload=Workload(**workload)) for n in (1, 2)]
    return entries(cases)


def test_contenders_take_turns_and_change_places() -> None:
    machine = Machine()
    Bench(Plan(warmup=1, iterations=3), machine.start).run(group())
    timed = [name for name, method in machine.calls if method in ("sample", "seconds")]
    one, two = "b threads 1", "b threads 2"
    limits = [f"the GEMM limit of onnxruntime, {n} threads, 10 rows" for n in (1, 2)]
    warmup, rounds = [one, two], [[one, two, *limits], [two, one, *limits], [one, two, *limits]]
    assert timed == [*warmup, *rounds[0], *rounds[1], *rounds[2]]
    assert machine.open == set()


def test_the_reference_is_computed_once_and_ends_before_the_clock_starts() -> None:
    machine = Machine()
    bench = Bench(Plan(warmup=0, iterations=1), machine.start)
    bench.run(group())
    bench.run(group(queries=150))
    references = [i for i, (name, _) in enumerate(machine.calls) if name.startswith("the reference of")]
    first = next(i for i, (_, method) in enumerate(machine.calls) if method == "sample")
    assert len(references) == 1
    assert references[0] < first


def test_a_wrong_contender_ends_it_all_untimed() -> None:
    machine = Machine(wrong="b threads 2")
    with pytest.raises(BenchError, match="b threads 2 fails the correctness gate"):
        Bench(Plan(), machine.start).run(group())
    assert not [method for _, method in machine.calls if method == "sample"]
    assert machine.open == set()


def test_ratios_are_of_pairs_so_that_drift_cancels() -> None:
    results = Bench(Plan(warmup=0, iterations=5), Machine().start).run(group())
    report = document([results], Plan(warmup=0, iterations=5))
    assert report["rows"][1]["ratio"] == {"to": "b threads 1", "median": 2.0, "min": 2.0, "max": 2.0}
    assert report["rows"][1]["seconds"]["total"]["max"] > 1.3 * report["rows"][1]["seconds"]["total"]["min"]


def test_a_row_says_what_was_measured() -> None:
    plan = Plan(warmup=0, iterations=4)
    results = Bench(plan, Machine().start).run(group(stream=8))
    report = json.loads(json.dumps(document([results], plan, samples=True)))
    row = report["rows"][0]
    encode = row["samples"]["encode"]
    assert report["schema"] == "scclip-bench/1"
    assert len(encode) == 4
    assert row["seconds"]["encode"]["p50"] == pytest.approx(np.median(encode))
    assert row["seconds"]["encode"]["p90"] == pytest.approx(np.percentile(encode, 90))
    assert row["images_per_second"] == pytest.approx(1 / np.mean(encode))
    assert row["stream"] == {"images": 8, "images_per_second": 4.0}
    # 1e6 operations in p50 seconds, against 10,000 in half a millisecond.
    assert row["limit"]["fp32"]["flops_per_second"] == pytest.approx(20e6)
    assert row["limit_share"] == pytest.approx(1e6 / np.median(encode) / 20e6)
    assert row["peak_bytes"] == 123_000_000
    assert [row["labels_as_first"] for row in report["rows"]] == [1.0, 0.5]
    assert row["bundle"]["path"] == "b.scclip"  # no one's folders in a report
    assert {"processor", "cores", "versions", "git_revision", "date"} <= set(report["environment"])


def test_without_a_limit_there_is_no_share() -> None:
    plan = Plan(warmup=0, iterations=1)
    for machine, chosen in (
        (Machine(backend="tensorrt"), plan),
        (Machine(), Plan(iterations=1, limit=False)),
    ):
        rows = document([Bench(chosen, machine.start).run(group())], chosen)["rows"]
        assert rows[0]["limit_share"] is None
        assert not [name for name, _ in machine.calls if "GEMM" in name]


def test_a_table_compares_within_a_workload_and_drops_empty_columns() -> None:
    plan = Plan(warmup=0, iterations=2)
    bench = Bench(plan, Machine().start)
    targets = [Case(bundle="a.scclip", threads=1), Case(bundle="b.scclip", threads=1)]
    report = document([bench.run(entries(g)) for g in sweep(targets, queries=[20, 1000], threads=[1])], plan)
    assert [len(rows) for rows in groups_of(report["rows"])] == [2, 2]
    text = table(report)
    assert text.count("image 375×500") == 2
    assert "1,000 queries" in text
    assert "stream" not in text
    assert "1.00 (1.00–1.00)" in text
    assert "GFLOP/s" in text


def test_a_lone_contender_gets_all_percentiles() -> None:
    plan = Plan(warmup=0, iterations=2)
    report = document([Bench(plan, Machine().start).run(group(stream=8)[:1])], plan)
    text = table(report)
    for word in (
        "prepare",
        "encode",
        "decode",
        "total",
        "p50",
        "p90",
        "p99",
        "4.00 images/s streamed",
        "123 MB",
        "limit",
    ):
        assert word in text


def test_percentiles_and_ratios() -> None:
    seconds = [float(n) for n in range(1, 102)]
    assert Percentiles.of(seconds) == Percentiles(p50=51, p90=91, p99=100, mean=51, min=1, max=101)
    assert Ratio.of([2.0, 9.0, 4.0], [1.0, 3.0, 1.0]) == Ratio(median=3.0, min=2.0, max=4.0)
    with pytest.raises(ValueError, match="argument"):
        Ratio.of([1.0], [1.0, 2.0])


@pytest.mark.parametrize("options", [{"iterations": 0}, {"warmup": -1}])
def test_a_plan_refuses_nothing_to_do(options: dict[str, int]) -> None:
    with pytest.raises(OptionError, match="must be at least"):
        Plan(**options)
