"""What `scclip tune` remembered: it is taken where it was measured, and told where it is not."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from scclip_rt import Segmenter
from scclip_rt.backends import open_backend, processor, tuned
from scclip_rt.backends.choose import Host, choose
from scclip_rt.backends.tuned import Measured, Tuned, read_tuned, tuned_file, write_tuned
from scclip_rt.bundle.bundle import Bundle
from scclip_rt.errors import OutputError
from tiny_bundle import edit_manifest, encoder_entry

ROWS = (
    Measured(grid="window", precision="fp32", backend="onnxruntime", threads=1, batch=8, milliseconds=1000.0),
    Measured(grid="window", precision="fp32", backend="openvino", threads=1, batch=2, milliseconds=900.0),
    Measured(grid="window", precision="int8", backend="openvino", threads=2, batch=4, milliseconds=300.0),
    Measured(grid="window", precision="int8", backend="onnxruntime", threads=2, batch=8, milliseconds=200.0),
    Measured(grid="whole", precision="int8", backend="openvino", threads=2, batch=1, milliseconds=100.0),
)
HOST = Host(flags=frozenset({"avx512_vnni"}), packages=frozenset({"openvino"}))


@pytest.fixture
def bundle(own_bundle: Path) -> Bundle:
    window = {"kind": "window", "rows": 6, "columns": 6}
    entries = [encoder_entry("encoder.fp32.onnx", window, precision) for precision in ("fp32", "int8")]
    edit_manifest(own_bundle, lambda document: document.update(encoders=entries))
    return Bundle.open(own_bundle)


@pytest.fixture(autouse=True)
def _versions(monkeypatch: pytest.MonkeyPatch) -> None:
    versions = {"scclip": "0.1.0", "onnxruntime": "1.32.0", "openvino": "2026.4.1"}
    monkeypatch.setattr(tuned, "library_versions", lambda: versions)


@pytest.mark.parametrize(
    ("asked", "backend", "precision", "threads", "batch"),
    [
        ({"precision": "fast"}, "onnxruntime", "int8", 2, 8),
        ({"precision": "auto"}, "openvino", "fp32", 1, 2),
        ({"precision": "int8"}, "onnxruntime", "int8", 2, 8),
        ({"precision": "fast", "backend": "openvino"}, "openvino", "int8", 2, 4),
        ({"precision": "auto", "ort_provider": "cpu"}, "onnxruntime", "fp32", 1, 8),
    ],
)
def test_the_fastest_row_that_agrees_with_what_is_asked(
    bundle: Bundle, asked: dict[str, Any], backend: str, precision: str, threads: int, batch: int
) -> None:
    found = choose(bundle, host=HOST, tuned=Tuned(rows=ROWS), **asked)
    assert (found.backend, found.precision, found.threads, found.batch) == (
        backend,
        precision,
        threads,
        batch,
    )
    assert "scclip tune measured" in found.reason


@pytest.mark.parametrize("asked", [{"threads": 1}, {"batch": 2}])
def test_fast_is_the_fastest_precision_of_all_also_with_few_rows_for_what_is_named(
    bundle: Bundle, asked: dict[str, Any]
) -> None:
    found = choose(bundle, host=HOST, tuned=Tuned(rows=ROWS), precision="fast", **asked)
    assert (found.precision, found.threads, found.batch) == ("int8", None, None)
    assert "int8 is the fastest" in found.reason


@pytest.mark.parametrize(
    ("precision", "backend", "flags", "runs"),
    [
        ("bf16", "openvino", "avx512_bf16", "bf16"),
        ("bf16", "openvino", "avx2", "fp32"),
        ("bf16", "onnxruntime", "avx512_bf16", "fp32"),
        ("int8", "onnxruntime", "avx2", "fp32"),  # the bundle has none
        ("fp16", "onnxruntime", "avx2", "fp32"),
        ("int4", "onnxruntime", "avx2", "fp32"),
    ],
)
def test_a_row_that_can_not_run_here_does_not_count(
    bundle_path: Path, precision: str, backend: Any, flags: str, runs: str
) -> None:
    row = Measured(grid="window", precision=precision, backend=backend, threads=1, batch=8, milliseconds=1.0)
    host = Host(flags=frozenset({flags}), packages=frozenset({"openvino"}))
    measured = Tuned(rows=(ROWS[0], row))
    found = choose(Bundle.open(bundle_path), host=host, tuned=measured, precision="fast")
    assert found.precision == runs


@pytest.mark.parametrize("asked", [{"threads": 7}, {"batch": 3}, {"precision": "bf16"}])
def test_where_nothing_of_the_kind_was_measured_the_rules_hold(bundle: Bundle, asked: dict[str, Any]) -> None:
    found = choose(bundle, host=HOST, tuned=Tuned(rows=ROWS), **asked)
    assert (found.threads, found.batch) == (None, None)
    assert "measured" not in found.reason


def test_a_segmenter_runs_what_was_measured(bundle: Bundle) -> None:
    write_tuned(bundle, ROWS[:1])
    info = Segmenter(bundle).backend.describe()
    assert (info["backend"], info["threads"], info["batch"]) == ("onnxruntime", 1, 8)
    assert "scclip tune measured: 1,000.0 ms an image on 1 threads, 8 windows at once" in info["reason"]
    assert open_backend(bundle, batch=3).describe()["batch"] == 3


def test_what_is_written_is_read(bundle: Bundle) -> None:
    path = write_tuned(bundle, ROWS)
    assert path == tuned_file(bundle)
    assert path.parent.name == "tuned"
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]
    assert read_tuned(bundle) == Tuned(rows=ROWS)


def _edit(change: Callable[[dict[str, Any]], object]) -> Callable[[str], str]:
    def edit(text: str) -> str:
        document = json.loads(text)
        change(document)
        return json.dumps(document)

    return edit


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (_edit(lambda d: d.update(cores=64)), "ran on 64 cores"),
        (_edit(lambda d: d["versions"].update(onnxruntime="1.0")), "with onnxruntime 1.0, here is 1.32.0"),
        (_edit(lambda d: d["versions"].pop("openvino")), "openvino not installed"),
        (_edit(lambda d: d.update(bundle="0" * 64)), "another bundle"),
        (_edit(lambda d: d.update(schema="scclip-tuned/9")), "its format is 'scclip-tuned/9'"),
        (_edit(lambda d: d["rows"][0].update(threads=0)), "damaged"),
        (_edit(lambda d: d["rows"][0].update(batch="8")), "damaged"),
        (_edit(lambda d: d["rows"][0].update(backend="/tmp/evil.so")), "damaged"),
        (_edit(lambda d: d["rows"][0].update(milliseconds=-1)), "damaged"),
        (_edit(lambda d: d["rows"][0].update(more=1)), "damaged"),
        (_edit(lambda d: d.pop("rows")), "damaged"),
        (_edit(lambda d: d.update(versions=[])), "damaged"),
        (lambda _: "[]", "damaged"),
        (lambda text: text[:50], "damaged"),
        (lambda _: "[" * 9999, "damaged"),
    ],
)
def test_a_stale_or_damaged_answer_is_not_used_and_told(
    bundle: Bundle, edit: Callable[[str], str], words: str
) -> None:
    path = write_tuned(bundle, ROWS)
    path.write_text(edit(path.read_text()))
    found = read_tuned(bundle)
    assert found.rows == ()
    assert words in found.stale
    assert "run scclip tune again" in found.stale
    assert found.stale in choose(bundle).reason


def test_the_answer_of_another_processor_is_not_used_and_told(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_tuned(bundle, ROWS)
    other = {"model name": "another processor", "flags": "avx2"}
    monkeypatch.setattr(processor, "_cpuinfo", lambda: other)
    found = read_tuned(bundle)
    assert found.rows == ()
    assert "another processor" in found.stale
    write_tuned(bundle, ROWS[:1])
    assert read_tuned(bundle).rows == ROWS[:1]


def test_rows_of_a_library_that_is_gone_are_left_out(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    write_tuned(bundle, ROWS)
    monkeypatch.setattr(tuned, "library_versions", lambda: {"scclip": "0.1.0", "onnxruntime": "1.32.0"})
    assert {row.backend for row in read_tuned(bundle).rows} == {"onnxruntime"}


def test_nothing_measured_is_nothing_told(bundle: Bundle) -> None:
    assert read_tuned(bundle) == Tuned()


def test_without_a_home_there_is_nothing_to_read_and_no_place_to_write(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tuned, "cache_directory", lambda: None)
    assert read_tuned(bundle) == Tuned()
    with pytest.raises(OutputError, match="no home, and XDG_CACHE_HOME is not set"):
        write_tuned(bundle, ROWS)
