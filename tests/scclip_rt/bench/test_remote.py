"""An object in a process of its own."""

import os

import numpy as np
import pytest

from scclip_rt.bench.errors import BenchError
from scclip_rt.bench.remote import Remote, peak_bytes
from scclip_rt.errors import OptionError
from stand_ins.bench import open_echo


def test_a_remote_answers_refuses_fails_and_counts_its_own_memory() -> None:
    ours = np.ones(300 << 20, np.uint8)  # the parent's memory is not the child's
    with Remote(open_echo, {"a": 1}, "echo") as echo:
        assert echo.call("argument") == {"a": 1}
        assert echo.call("process") != os.getpid()
        assert echo.call("cpu_seconds") > 0
        before = echo.call("peak_bytes")
        assert before < ours.nbytes
        echo.call("hold", 64)
        assert 60 << 20 < echo.call("peak_bytes") - before < 80 << 20
        with pytest.raises(OptionError, match="echo: not this"):
            echo.call("refuse")
        with pytest.raises(RuntimeError, match="ZeroDivisionError: a bug"):
            echo.call("fail")
        assert echo.call("argument") == {"a": 1}  # after either it goes on
        with pytest.raises(BenchError, match=r"echo: its process ended without an answer \(exit code 3\)"):
            echo.call("end")
        with pytest.raises(BenchError, match="ended"):
            echo.call("argument")


def test_what_the_factory_refuses_reaches_the_caller() -> None:
    with pytest.raises(OptionError, match="echo: told to refuse"):
        Remote(open_echo, "refuse", "echo")


def test_the_peak_does_not_fall() -> None:
    peak = peak_bytes()
    held = np.ones(32 << 20, np.uint8)
    assert peak_bytes() >= peak
    del held
    assert peak_bytes() >= peak
