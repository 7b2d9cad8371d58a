"""Which kernels run: what was asked for, or what the table says."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from scclip_kernels.fastest import (
    CALIBRATION,
    TRUNK,
    check_kernels,
    faster_in_triton,
    measured,
    use_triton,
)


def table(**milliseconds: tuple[float, float]) -> dict:
    """Times of (triton, reference) for the four operations together, by "patches_windows"."""
    rows = [
        {"kernel": name, "patches": int(size.split("_")[1]), "windows": int(size.split("_")[2]), "precision": "fp16",
         "milliseconds": {"triton": triton / 4, "reference": reference / 4}}
        for size, (triton, reference) in milliseconds.items()
        for name in CALIBRATION
    ]  # fmt: skip
    return {"format_version": 1, "measured_on": {"gpu": "made up"}, "choices": rows, "unsound": []}


def test_the_table_that_ships_is_a_measurement() -> None:
    """Of benchmarks/gpu; fp16 runs in Triton at every size there is, float32 at many windows in torch."""
    results = Path(__file__).parents[2] / "benchmarks/results"
    written = [json.loads(path.read_text("utf-8")) for path in results.glob("gpu-kernels-*.json")]
    assert measured() in written
    assert measured()["measured_on"]["gpu"]["compute_capability"] == "9.0"
    assert measured()["unsound"] == []
    sizes = {(row["patches"], row["windows"]) for row in measured()["choices"] if row["precision"] == "fp16"}
    assert {(196, 6), (256, 32), (1024, 1), (2304, 1)} <= sizes
    assert all(faster_in_triton(measured(), CALIBRATION, "fp16", *size) for size in sizes)
    assert not faster_in_triton(measured(), CALIBRATION, "fp32", 196, 32)


def test_auto_is_plain_torch_where_nothing_was_measured() -> None:
    empty = {"format_version": 1, "measured_on": None, "choices": [], "unsound": []}
    assert not faster_in_triton(empty, CALIBRATION, "fp16", 196, 6)


def test_the_nearest_size_decides() -> None:
    measurements = table(size_196_6=(2, 1), size_196_64=(1, 2), size_1024_6=(1, 3))
    assert not faster_in_triton(measurements, CALIBRATION, "fp16", 196, 8)
    assert faster_in_triton(measurements, CALIBRATION, "fp16", 256, 50)
    assert faster_in_triton(measurements, CALIBRATION, "fp16", 900, 1)
    assert not faster_in_triton(measurements, CALIBRATION, "fp32", 900, 1)


def test_wrong_numbers_or_gaps_are_never_chosen() -> None:
    measurements = table(size_196_6=(1, 2))
    assert faster_in_triton(measurements, CALIBRATION, "fp16", 196, 6)
    assert not faster_in_triton(measurements | {"unsound": ["aggregate"]}, CALIBRATION, "fp16", 196, 6)
    assert not faster_in_triton(
        measurements | {"choices": measurements["choices"][1:]}, CALIBRATION, "fp16", 196, 6
    )


def test_the_operations_of_the_trunk_are_chosen_by_themselves() -> None:
    measurements = table(size_196_6=(2, 1))
    assert not faster_in_triton(measurements, TRUNK, "fp16", 196, 6)
    size = {"patches": 196, "windows": 6, "precision": "fp16"}
    measurements["choices"] += [
        size | {"kernel": name, "milliseconds": {"triton": 1, "reference": 2}} for name in TRUNK
    ]
    assert faster_in_triton(measurements, TRUNK, "fp16", 196, 6)
    assert not faster_in_triton(measurements, CALIBRATION, "fp16", 196, 6)


def test_auto_stays_in_torch_off_the_gpu() -> None:
    options = {"operations": CALIBRATION, "device": torch.device("cpu"), "dtype": torch.float16,
               "num_patches": 196, "num_windows": 6}  # fmt: skip
    assert not use_triton("auto", **options)
    assert use_triton("triton", **options)
    assert not use_triton("reference", **options)


def test_unknown_kernels_are_refused() -> None:
    with pytest.raises(ValueError, match="'reference', 'triton' or 'auto'; got 'cuda'"):
        check_kernels("cuda")


def test_triton_that_is_missing_is_one_clear_error(monkeypatch) -> None:
    monkeypatch.setattr("scclip_kernels.fastest.find_spec", lambda _: None)
    check_kernels("auto")
    with pytest.raises(ValueError, match=r"needs Triton, which is not installed\. pip install triton"):
        check_kernels("triton")


def test_the_references_need_no_triton() -> None:
    code = (
        "import sys; sys.modules['triton'] = None\n"
        "import torch, scclip_kernels, scclip_kernels.fastest\n"
        "scclip_kernels.anomaly_scores(torch.randn(1, 49, 8))\n"
        "from scclip_kernels.aot.compile import run\n"
        "raise SystemExit(run(['--targets', '80']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    assert "compiling kernels needs Triton" in done.stderr
    assert "Traceback" not in done.stderr
