"""From what benchmarks/gpu wrote on a GPU to the documents: made-up rows in a folder of their own."""

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.gpu.report import NO_RUN, load_reports, short_table
from benchmarks.tables import summary


def row(question: str, contender: str, p50: float | None = None, **more: Any) -> dict[str, Any]:
    made = {"question": question, "arch": "vitb16", "contender": contender, **more}
    if p50 is not None:
        made["milliseconds"] = {"p50": p50, "p90": p50, "p99": 2 * p50, "min": p50, "runs": 100}
    return made


def encode(contender: str, windows: int, p50: float) -> dict[str, Any]:
    shares = {"windows_per_second": 1000 * windows / p50, "of_gemm_ceiling": 0.5, "of_own_products": 0.7}
    return row("encode", contender, p50, windows=windows, precision="fp16", method="scclip", **shares)


ROWS = [
    row("labels", "eager fp16", precision="fp16", labels_as_fp32=0.9961, sound=True),
    row("labels", "eager bf16", precision="bf16", failed="RuntimeError: out of memory"),
    row("image", "naive eager fp16", 80.0, queries=150, precision="fp16", labels_as_fp32=0.995),
    row("image", "eager fp16", 20.0, queries=150, precision="fp16", labels_as_fp32=0.9961),
    row("image", "eager fp16, CUDA graph", 2.0, queries=150, precision="fp16", labels_as_fp32=0.9961),
    row("image", "eager fp16", 19.0, queries=20, precision="fp16"),
    row("image", "TensorRT fp16", queries=150, precision="fp16", skipped="TensorRT is not installed"),
    row("runtime", "without the encoder", 0.3, queries=150, windows=6),
    encode("eager fp16", 6, 4.0),
    encode("eager fp16", 32, 10.0),
    row("decode", "decode, triton", 0.2, queries=150)
    | {"graph_milliseconds": {"p50": 0.05}, "of_copy_ceiling": 0.1},
    {"question": "kernel", "kernel": "all", "skipped": "not here: No module named 'triton'"},
    {
        "question": "kernel",
        "kernel": "anomaly",
        "arch": "vitb16",
        "precision": "fp16",
        "windows": 6,
        "patches": 196,
    }
    | {"error": 1e-4, "allowed": 2e-3, "sound": True, "milliseconds": {"p50": 0.1}},
    {
        "question": "kernel",
        "kernel": "attention",
        "arch": "vitb16",
        "precision": "fp16",
        "windows": 6,
        "patches": 196,
    }
    | {"failed": "OutOfResources: shared memory"},
]


@pytest.fixture
def results(tmp_path: Path) -> Path:
    gpu = {"name": "NVIDIA H100", "cuda": "13.0", "nvidia_smi": "580.1, 1980 MHz"}
    environment = {"gpu": gpu, "versions": {"torch": "2.11.0", "triton": "3.6.0"}, "git_revision": "abc"}
    report = {"quick": False, "complete": True, "environment": environment, "ceilings": {}, "rows": ROWS}
    for name, content in {
        "gpu-nvidia-h100.json": report,
        "gpu-nvidia-quick.json": report | {"quick": True},
        "gpu-cpu.json": report | {"environment": {}},
        "gpu-kernels-nvidia-h100.json": {"choices": [], "measured_on": environment},
    }.items():
        (tmp_path / name).write_text(json.dumps(content), "utf-8")
    return tmp_path


def test_only_whole_runs_on_a_gpu_count(results: Path) -> None:
    assert [report["environment"]["gpu"]["name"] for report in load_reports(results)] == ["NVIDIA H100"]


def test_the_gpu_page_gets_one_photo_beside_the_baseline(results: Path) -> None:
    text = summary.tables(results)["gpu"]
    assert text.startswith("NVIDIA H100; torch 2.11.0; triton 3.6.0; nvidia-smi: 580.1, 1980 MHz; abc\n")
    assert "| vitb16, naive eager fp16 | 80 | 1.0× | 99.50% |" in text
    assert "| vitb16, eager fp16, CUDA graph | 2 | 40.0× | 99.61% |" in text
    assert "19" not in short_table(ROWS).replace("1980", "")  # another number of queries
    assert "TensorRT" not in text  # nothing was measured


def test_the_measurements_get_everything_also_what_failed(results: Path) -> None:
    text = summary.tables(results)["gpu-all"]
    for part in (
        "| vitb16, eager bf16 | RuntimeError: out of memory | not timed |",
        "| p50 | 20 queries, ms | 150 queries, ms | p99 of the last | labels as fp32 |",
        "| vitb16, eager fp16 | 19 | 20 | 40 | 99.61% |",
        "| vitb16, eager fp16, CUDA graph | – | 2 | 4 | 99.61% |",
        "- vitb16, TensorRT fp16: TensorRT is not installed",
        "| vitb16, without the encoder | 0.3 | 0.6 |",
        "| vitb16, eager fp16 | 4 | 10 | 20 | 3,200 | 50.0% | 70.0% |",
        "| vitb16, decode, triton | 150 | 0.2 | 0.4 | 0.2 | 0.05 | 10.0% |",
        "| vitb16, attention, fp16, 6 × 196 patches | OutOfResources: shared memory |",
        "| all | not here: No module named 'triton' |",
        "(images/bench-gpu.png)",
    ):
        assert part in text


def test_a_run_that_was_cut_off_says_so(results: Path) -> None:
    path = results / "gpu-nvidia-h100.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"complete": False}))
    assert "(cut off: rows are missing)" in summary.tables(results)["gpu"]


def test_without_a_gpu_a_sentence_says_so(tmp_path: Path) -> None:
    made = summary.tables(tmp_path)
    assert made["gpu"] == made["gpu-all"] == NO_RUN


def test_the_plot_is_drawn(results: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from benchmarks.tables.figures import draw

    written = draw(results, tmp_path / "images")
    assert [path.name for path in written] == ["bench-gpu.png"]
    assert written[0].read_bytes().startswith(b"\x89PNG")
