"""What the benchmark scripts share: whose turn it is, ratios of pairs, what a report says."""

import json
from pathlib import Path

from benchmarks.harness import parser, ratios, spread, take_turns, timed, write_report


def test_sides_take_turns_and_a_warm_up_is_not_counted() -> None:
    calls: list[str] = []
    seconds = take_turns({side: lambda side=side: calls.append(side) for side in "ab"}, 2, warmup=1)
    assert calls == list("ababab")
    assert {side: len(values) for side, values in seconds.items()} == {"a": 2, "b": 2}
    assert timed(lambda: "made")[1] == "made"


def test_ratios_are_of_pairs() -> None:
    assert ratios([3.0, 8.0, 1.0], [1.0, 2.0, 1.0]) == [3.0, 4.0, 1.0]
    assert spread([3.0, 4.0, 1.0]) == "3.00× (1.00–4.00)"


def test_a_report_says_what_was_asked_and_where_it_was_measured(tmp_path: Path) -> None:
    write_report(None, "nothing is asked for")
    args = parser("one").parse_args(["--json", str(tmp_path / "rows.json")])
    for number in (1, 2):  # written again as rows come
        write_report(args.json, "one", rows=[{"number": number}])
    report = json.loads(args.json.read_text())
    assert (report["question"], report["rows"]) == ("one", [{"number": 2}])
    assert report["environment"]["cores"] >= 1
