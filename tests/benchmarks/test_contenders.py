"""The naive baseline in the harness: the same labels, measured the same way."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from benchmarks.cpu.naive_contender import NaiveContender
from benchmarks.cpu.sweeps import LARGE, groups
from scclip_rt.bench import BenchError, Case, Workload
from scclip_rt.bench.contender import Contender, Reference


@pytest.fixture
def case(tiny_bundle: Path, tiny_checkpoint: Path, tmp_path: Path) -> Case:
    (tmp_path / "tiny.scclip").symlink_to(tiny_bundle)
    (tmp_path / "tiny.safetensors").symlink_to(tiny_checkpoint)
    return Case(bundle=str(tmp_path / "tiny.scclip"), workload=Workload(image_size=(230, 340), queries=7))


def test_the_baseline_passes_the_gate_and_gives_the_runtime_s_labels(case: Case) -> None:
    naive, runtime = NaiveContender(case), Contender(case)
    reference = Reference(case).features(runtime.windows())
    np.testing.assert_array_equal(naive.windows(), runtime.windows())
    for contender in (naive, runtime):
        gate = contender.check(reference)
        assert gate.mean_abs < 1e-4
        assert gate.labels > 0.99
    assert (naive.labels() == runtime.labels()).mean() > 0.999
    one, other = naive.describe(), runtime.describe()
    assert (one.windows, one.patches, one.flops, one.queries) == (
        other.windows,
        other.patches,
        other.flops,
        7,
    )
    assert naive.sample().total > 0
    assert runtime.stream(2) > 0


@pytest.mark.parametrize("method", ["surgery", "gem"])
def test_methods_that_change_the_decoding_have_the_runtime_s_labels(
    method: str, tiny_checkpoint: Path, export_cli: Callable[..., int], tmp_path: Path
) -> None:
    bundle = tmp_path / f"tiny-{method}.scclip"
    assert export_cli("--checkpoint", tiny_checkpoint, "--calibration", method, "--output", bundle) == 0
    (tmp_path / "tiny.safetensors").symlink_to(tiny_checkpoint)
    case = Case(bundle=str(bundle), workload=Workload(image_size=(230, 340), queries=7))
    assert (NaiveContender(case).labels() == Contender(case).labels()).mean() > 0.999


def test_features_of_another_image_fail_the_gate(case: Case) -> None:
    runtime = Contender(case)
    other = Reference(case).features(runtime.windows()[:, ::-1].copy())
    with pytest.raises(BenchError, match="differ from the float32 reference"):
        runtime.check(other)


def test_sweeps_change_what_they_say() -> None:
    case = Case(bundle="b.scclip")
    assert [g[0].case.workload.queries for g in groups("queries", case)] == [1, 5, 20, 50, 150, 500, 1000]
    assert [g[0].case.workload.size for g in groups("images", case)][-1] == (2160, 3840)
    assert [entry.case.batch for entry in groups("batch", case)[0]] == [1, 2, 3, 6]
    assert [entry.case.short_side for entry in groups("windows", case)[0]] == [224, 336, 448, 560]
    assert groups("large", case)[0][0].case.workload == LARGE
    assert (LARGE.queries, LARGE.size) == (10_000, (2160, 3840))


def test_the_scripts_bring_no_torch_into_a_contender_s_process() -> None:
    """Each process imports the script again; torch's 200 MB would be counted as the runtime's."""
    code = (
        "import sys; from benchmarks.cpu import calibration, methods, pareto, photo, sweeps\n"
        "print(sorted({'torch', 'open_clip'} & set(sys.modules)))"
    )
    folder = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
