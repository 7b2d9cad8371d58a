"""Who else kept the machine busy."""

import os

import pytest

from scclip_rt.bench.load import LoadMark, busy_seconds


def test_others_are_what_the_machine_did_and_we_did_not() -> None:
    cores = os.cpu_count() or 1
    start = LoadMark(wall=100.0, busy=1000.0, own=5.0)
    end = LoadMark(wall=110.0, busy=1000.0 + 6.0 * cores, own=5.0 + 4.0 * cores)
    assert end.others_since(start) == pytest.approx(0.2)  # 2 of 10 seconds on every core
    alone = LoadMark(wall=110.0, busy=1004.0, own=9.5)  # clocks of different grain: never below nothing
    assert alone.others_since(start) == 0.0


def test_where_nobody_tells_nothing_is_told() -> None:
    start = LoadMark.now(0.0, busy=lambda: None)
    assert LoadMark.now(0.0).others_since(start) is None


def test_the_machine_has_been_busy() -> None:
    first = busy_seconds()
    assert first is None or first > 0
