"""`scclip tune` with a clock that the tests turn: what is measured, what fails, what is remembered."""

import errno
import json
import multiprocessing
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from scclip_rt.backends import open_backend, tuned
from scclip_rt.backends.choose import Host
from scclip_rt.backends.tuned import read_tuned, tuned_file
from scclip_rt.bench import tune
from scclip_rt.bench.errors import BenchError
from scclip_rt.bench.tune import Candidate, Opened, Tuner
from scclip_rt.bundle.bundle import Bundle
from scclip_rt.cli import run
from scclip_rt.errors import BackendError
from scclip_rt.files import exclusive
from tiny_bundle import edit_manifest, encoder_entry

WINDOW = {"kind": "window", "rows": 6, "columns": 6}
# bf16 loses here by the rules, and is measured all the same.
VNNI = Host(
    flags=frozenset({"avx512_vnni", "avx512_bf16"}), vendor="GenuineIntel", packages=frozenset({"openvino"})
)
AVX2 = Host(flags=frozenset({"avx2"}), packages=frozenset({"openvino"}))


@dataclass
class Machine:
    """A clock, and encoders that move it: seconds of a window by (precision, library)."""

    bundle: Bundle
    seconds: dict[tuple[str, str], float]
    by_batch: dict[int, float] = field(default_factory=dict)
    broken: frozenset[str] = frozenset()
    wrong: frozenset[str] = frozenset()
    now: float = 0.0
    opened: list[Candidate] = field(default_factory=list)

    def open(self, bundle: Bundle, candidate: Candidate) -> Opened:
        if candidate.backend in self.broken:
            raise BackendError(f"backend {candidate.backend!r} is not installed")
        self.opened.append(candidate)
        windows = np.random.default_rng(0).integers(0, 256, (6, 96, 96, 3), np.uint8)
        return Opened(encoder=_Encoder(self, bundle, candidate), windows=windows)


class _Encoder:
    def __init__(self, machine: Machine, bundle: Bundle, candidate: Candidate) -> None:
        self._machine, self._candidate = machine, candidate
        self._true = open_backend(bundle, backend="onnxruntime", precision="fp32", batch=candidate.batch)
        self.spec = self._true.spec

    def features(self, windows: np.ndarray) -> np.ndarray:
        machine, candidate = self._machine, self._candidate
        each = machine.seconds[candidate.precision, candidate.backend]
        each *= machine.by_batch.get(candidate.batch or 8, 1.0) / candidate.threads
        machine.now += each * len(windows)
        features = self._true.features(windows)
        return features[:, ::-1] if candidate.precision in machine.wrong else features

    def describe(self) -> Any:
        return self._true.describe() | {"precision": self._candidate.precision}


SECONDS = {
    ("fp32", "onnxruntime"): 0.30,
    ("fp32", "openvino"): 0.28,
    ("int8", "onnxruntime"): 0.10,
    ("int8", "openvino"): 0.20,
    ("bf16", "openvino"): 0.15,
}


@pytest.fixture
def bundle(own_bundle: Path) -> Bundle:
    entries = [encoder_entry("encoder.fp32.onnx", WINDOW, precision) for precision in ("fp32", "int8")]
    edit_manifest(own_bundle, lambda document: document.update(encoders=entries))
    return Bundle.open(own_bundle)


@pytest.fixture(autouse=True)
def _two_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tune, "default_threads", lambda: 2)
    monkeypatch.setattr(tune, "usable_cpus", lambda: {0, 1})


def tuner(machine: Machine, host: Host = VNNI, seconds: float = 1000.0) -> Tuner:
    return Tuner(
        machine.bundle,
        seconds=seconds,
        host=host,
        open_candidate=machine.open,
        clock=lambda: machine.now,
    )


def found(rows: tuple[tuned.Measured, ...]) -> dict[tuple[str, str], float]:
    return {(row.precision, row.backend): round(row.milliseconds) for row in rows}


def test_every_precision_on_every_library_is_measured(bundle: Bundle) -> None:
    rows = tuner(Machine(bundle, SECONDS)).run()
    assert found(rows) == {key: round(1000 * 6 * each / 2) for key, each in SECONDS.items()}


def test_bf16_is_tried_only_where_the_processor_has_it(bundle: Bundle) -> None:
    rows = tuner(Machine(bundle, SECONDS), AVX2).run()
    assert "bf16" not in {row.precision for row in rows}
    without = Host(flags=VNNI.flags, packages=frozenset())
    assert {row.backend for row in tuner(Machine(bundle, SECONDS), without).run()} == {"onnxruntime"}


def test_what_is_wrong_is_not_timed(bundle: Bundle) -> None:
    machine = Machine(bundle, SECONDS, wrong=frozenset({"int8"}))
    made = tuner(machine)
    assert "int8" not in {row.precision for row in made.run()}
    reasons = [why for candidate, why in made.skipped if candidate.precision == "int8"]
    assert len(reasons) == 2
    assert all("fails the correctness gate" in why for why in reasons)


def test_what_does_not_open_is_left_out_and_told(bundle: Bundle) -> None:
    made = tuner(Machine(bundle, SECONDS, broken=frozenset({"openvino"})))
    assert {row.backend for row in made.run()} == {"onnxruntime"}
    assert all("not installed" in why for _, why in made.skipped)


def test_nothing_that_runs_is_an_error_and_nothing_is_kept(bundle: Bundle) -> None:
    broken = frozenset({"openvino", "onnxruntime"})
    with pytest.raises(BenchError, match="nothing to remember: window fp32 on onnxruntime"):
        tuner(Machine(bundle, SECONDS, broken=broken)).run()


@pytest.mark.parametrize(("four", "kept"), [(0.5, {43, 4}), (0.98, {43})])
def test_another_batch_counts_only_where_it_gains_more_than_noise(
    bundle: Bundle, four: float, kept: set[int]
) -> None:
    rows = tuner(Machine(bundle, SECONDS, by_batch={4: four, 2: 1.0, 1: 2.0})).run()
    assert {row.batch for row in rows if row.precision == "int8"} == kept


def test_more_threads_are_tried_where_cores_have_two(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tune, "usable_cpus", lambda: {0, 1, 2, 3})
    rows = tuner(Machine(bundle, SECONDS)).run()
    assert min(rows, key=lambda row: row.milliseconds).threads == 4


def test_nothing_begins_when_the_time_is_over_and_half_an_answer_is_none(bundle: Bundle) -> None:
    machine = Machine(bundle, SECONDS)
    made = tuner(machine, seconds=4.0)
    with pytest.raises(
        BenchError, match="4 s are not enough to time every precision, so nothing is remembered"
    ):
        made.run()
    assert len(machine.opened) < len(SECONDS)
    assert machine.now < 2 * 4.0
    assert all("no time left of 4 s" in why for _, why in made.skipped)


def test_few_seconds_are_shared_by_all_precisions(bundle: Bundle) -> None:
    machine = Machine(bundle, SECONDS)
    made = tuner(machine, seconds=15.4)
    assert found(made.run()) == {key: round(1000 * 6 * each / 2) for key, each in SECONDS.items()}
    assert not made.unfinished
    assert machine.now < 15.4


def test_a_grid_that_is_not_finished_is_not_remembered(own_bundle: Path) -> None:
    grids = [WINDOW, {"kind": "fixed", "rows": 6, "columns": 6}]
    entries = [
        encoder_entry("encoder.fp32.onnx", grid, which) for grid in grids for which in ("fp32", "int8")
    ]
    edit_manifest(own_bundle, lambda document: document.update(encoders=entries))
    made = tuner(Machine(Bundle.open(own_bundle), SECONDS), seconds=18.0)
    assert {row.grid for row in made.run()} == {"window"}
    assert made.unfinished == ["whole"]


@pytest.fixture
def measured(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """The command with encoders that turn the clock."""
    machine = Machine(bundle, SECONDS)

    def made(bundle: Bundle, **options: Any) -> Tuner:
        return Tuner(bundle, host=AVX2, open_candidate=machine.open, clock=lambda: machine.now, **options)

    monkeypatch.setattr(tune, "Tuner", made)
    return machine


def test_the_command_remembers_and_inspect_tells(
    measured: Machine, bundle: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["tune", str(bundle.path), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["remembered_in"] == str(tuned_file(bundle))
    assert {row["precision"] for row in document["rows"]} == {"fp32", "int8"}
    assert {row.precision for row in read_tuned(bundle).rows} == {"fp32", "int8"}
    assert run(["inspect", str(bundle.path)]) == 0
    assert "fast: int8 on onnxruntime (int8 is the fastest; onnxruntime, as scclip tune measured: 300.0" in (
        capsys.readouterr().out
    )
    assert run(["cache"]) == 0
    assert "tuned" in capsys.readouterr().out


def test_the_table_tells_what_was_left_out(
    measured: Machine, bundle: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    measured.wrong = frozenset({"int8"})
    assert run(["tune", str(bundle.path)]) == 0
    out = capsys.readouterr().out
    assert "not timed: window int8 on openvino" in out
    assert "remembered in" in out


def test_a_folder_that_can_not_be_written_is_told_before_anything_is_measured(
    measured: Machine,
    bundle: Bundle,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert run(["tune", str(bundle.path)]) == 2
    error = capsys.readouterr().err
    assert "can't write" in error
    assert len(error.strip().splitlines()) == 1
    assert measured.opened == []


def test_a_full_disk_is_told_before_anything_is_measured(
    measured: Machine, bundle: Bundle, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(path: Path, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device", str(path)) if data else AssertionError

    monkeypatch.setattr(Path, "write_bytes", full)
    assert run(["tune", str(bundle.path)]) == 2
    assert "No space left on device; free some space there or choose another place" in capsys.readouterr().err
    assert measured.opened == []


def test_an_interrupted_tune_leaves_the_old_answer(
    measured: Machine, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(["tune", str(bundle.path)]) == 0
    path = tuned_file(bundle)
    assert path is not None
    before = path.read_bytes()

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(measured, "open", stop)
    assert run(["tune", str(bundle.path)]) == 130
    assert path.read_bytes() == before
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def _hold(folder: Path, ready: Any, done: Any) -> None:
    with exclusive(folder, "busy"):
        ready.set()
        done.wait(60)
        os._exit(0)  # the lock goes with the process


def test_a_second_tune_at_a_time_is_refused(
    measured: Machine, bundle: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tuned_file(bundle)
    assert path is not None
    path.parent.mkdir(parents=True)
    context = multiprocessing.get_context("spawn")
    ready, done = context.Event(), context.Event()
    other = context.Process(target=_hold, args=(path.parent, ready, done))
    other.start()
    assert ready.wait(60)
    assert run(["tune", str(bundle.path)]) == 2
    assert "another scclip tune is measuring" in capsys.readouterr().err
    assert not path.exists()
    done.set()
    other.join(60)
    assert run(["tune", str(bundle.path)]) == 0


def test_no_bundle_is_one_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert run(["tune", str(tmp_path / "none.scclip")]) == 2
    assert "[BundleError]" in capsys.readouterr().err


@pytest.mark.parametrize("candidate", [{"grid": "window"}, {"grid": "whole"}])
def test_a_real_candidate_is_the_packaged_scene(candidate: dict[str, Any]) -> None:
    made = Candidate(precision="int8", backend="onnxruntime", threads=1, **candidate)
    opened = tune.open_candidate(Bundle.open("demo"), made)
    info = opened.encoder.describe()
    assert (info["precision"], info["backend"], info["threads"]) == ("int8", "onnxruntime", 1)
    assert len(opened.windows) == (6 if candidate["grid"] == "window" else 1)
