"""benchmarks/gpu without a GPU: all of its way on a tiny model, its baseline, its verdicts."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.gpu.clock import Clock, statistics
from benchmarks.gpu.kernels import KERNELS, choice_table
from benchmarks.gpu.models import calibration, encoder, flops, naive, visual
from benchmarks.gpu.report import tables
from oracles.scclip import NaiveScclip
from scclip_rt.image.geometry import Tiling, cut_windows
from synthetic import scene

ROOT = Path(__file__).parents[2]


def test_the_whole_script_runs_on_a_cpu(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.gpu", "--device", "cpu", "--quick"]
    run = subprocess.run(
        [*command, "--results", str(tmp_path)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        timeout=900,
        check=False,
    )
    assert run.returncode == 0, run.stderr[-4000:]
    report = json.loads((tmp_path / "gpu-cpu.json").read_text())
    assert report["failures"] == []
    rows = report["rows"]
    assert report["complete"]
    assert {row["question"] for row in rows} == {
        "labels",
        "kernel",
        "encode",
        "image",
        "decode",
        "encode (host to host)",
    }
    kernels = [row for row in rows if row["question"] == "kernel"]
    assert {row["kernel"] for row in kernels} == set(KERNELS)
    assert all(row["sound"] for row in kernels)
    names = {row.get("contender") for row in rows}
    assert {
        "naive eager fp32",
        "eager fp32",
        "compiled fp32",
        "plain eager fp32",
        "ONNX Runtime CPU fp32",
        "ONNX Runtime CPU fp32, biases behind",
    } <= names
    assert all("milliseconds" in row for row in rows if row["question"] != "labels")
    assert all(row["sound"] for row in rows if row["question"] == "labels")
    assert "### Kernels" in run.stdout
    choices = json.loads((tmp_path / "gpu-kernels-cpu.json").read_text())
    assert {choice["kernel"] for choice in choices["choices"]} == {row["kernel"] for row in kernels}


def test_torch_is_all_it_needs_to_start() -> None:
    code = (
        "import sys\n"
        "for name in ('open_clip', 'onnx', 'onnxscript', 'onnxruntime', 'skimage', 'triton', 'cuda', 'tensorrt',\n"
        "             'jsonschema', 'ftfy'):\n"
        "    sys.modules[name] = None\n"
        "from benchmarks.gpu import __main__, kernels, measure, models, report, run, torch_models\n"
        "models.encoder(models.visual('tiny'), 'tiny', precision='fp32', device='cpu')\n"
    )
    path = os.pathsep.join(str(ROOT / part) for part in (".", "export", "kernels", "tests"))
    environment = os.environ | {"PYTHONPATH": path}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment, timeout=600)


@pytest.fixture(scope="module")
def tower() -> Any:
    return visual("tiny")


def test_the_baseline_on_gpus_is_the_naive_one(tower: Any) -> None:
    """Same outliers, same replacements, same features, without a walk in Python."""
    c = calibration("tiny")
    eager = naive(tower, "tiny", precision="fp32", device="cpu")
    plain = NaiveScclip(
        clip=eager.clip, pre=c.pre_layer, post=c.post_layer, multi=c.fusion_layers, res_cls=c.cls_residual
    )
    with torch.inference_mode():
        patches = torch.randn(196, 128, generator=torch.Generator().manual_seed(0))
        patches[[0, 13, 14, 15, 27, 195]] *= 6
        wanted, found = plain.outliers(patches), eager.outliers(patches)
        assert set(found.nonzero().flatten().tolist()) == wanted
        torch.testing.assert_close(eager.repair(patches, found, 14), plain.repair(patches, wanted, 14))
        pixels = torch.randn(3, 224, 224, generator=torch.Generator().manual_seed(1))
        torch.testing.assert_close(
            eager.window_features(pixels), plain.window_features(pixels), atol=1e-5, rtol=1e-5
        )


def test_the_encoder_without_open_clip_is_the_method(tower: Any) -> None:
    image = scene(224, 336)
    windows = cut_windows(image, Tiling.windows(224, 336, window=224))
    module = encoder(tower, "tiny", precision="fp32", device="cpu")
    eager = naive(tower, "tiny", precision="fp32", device="cpu")
    mean, std = (
        torch.tensor(v).reshape(3, 1, 1) for v in ((122.771, 116.746, 104.094), (68.501, 66.632, 70.323))
    )
    with torch.inference_mode():
        features, _ = module(torch.from_numpy(windows), torch.eye(64)[:2])
        for window, found in zip(windows, features, strict=True):
            pixels = (torch.from_numpy(window).permute(2, 0, 1).float() - mean) / std
            torch.testing.assert_close(found, eager.window_features(pixels), atol=2e-4, rtol=0)


def test_operations_are_those_the_method_counts() -> None:
    """METHOD §5: a B/16 window takes 35 GFLOP, of which the calibration is about 1.5 %."""
    counted = flops("vitb16", "scclip", 150)
    assert counted.total == pytest.approx(35e9, rel=0.05)
    assert 0.005 < counted.calibration / counted.total < 0.03


def test_percentiles_are_numpys() -> None:
    samples = np.random.default_rng(0).exponential(size=57).tolist()
    told = statistics(samples)
    for p in (50, 90, 99):
        assert told[f"p{p}"] == pytest.approx(np.percentile(samples, p))
    assert told["runs"] == 57


def test_the_clock_runs_the_work_as_often_as_told() -> None:
    calls = []
    clock = Clock(device=torch.device("cpu"), warmup=2, iterations=5)
    assert clock.host_time(lambda: calls.append(1))["runs"] == 5
    assert len(calls) == 7
    clock.device_time(lambda: calls.append(1))
    assert len(calls) == 14


def row(question: str, p50: float, **more: Any) -> dict[str, Any]:
    times = {"p50": p50, "p90": p50, "p99": p50, "min": p50, "runs": 3}
    return {"question": question, "milliseconds": times, "arch": "vitb16", **more}


def test_tables_say_what_is_missing_and_why() -> None:
    skipped = {
        "question": "image",
        "arch": "vitb16",
        "contender": "TensorRT fp16",
        "skipped": "not installed",
    }
    report = {"environment": {}, "rows": [row("image", 2.0, contender="eager fp16", queries=20), skipped]}
    text = tables(report)
    assert text.endswith("- vitb16, TensorRT fp16: not installed")
    assert "CPU (no timing worth quoting)" in text


def test_an_unsound_kernel_is_never_chosen() -> None:
    size = {"arch": "vitb16", "patches": 196, "windows": 6, "precision": "fp16", "kernel": "aggregate"}
    sound = size | {
        "sound": True,
        "milliseconds": {"p50": 1.0},
        "reference_milliseconds": {"p50": 2.0},
        "compiled_milliseconds": {"p50": 0.5},
    }
    broken = size | {"kernel": "attention", "sound": False}
    table = choice_table([sound, broken], {"gpu": {}})
    assert [(choice["kernel"], choice["fastest"]) for choice in table["choices"]] == [
        ("aggregate", "compiled")
    ]
    assert table["unsound"] == ["attention"]
