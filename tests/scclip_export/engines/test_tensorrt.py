"""The life cycle of a TensorRT build, against a stand-in for the module: no machine here has a GPU."""

import hashlib
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from scclip_export.engines import EngineRequest, add_engines, check_requests
from scclip_export.errors import ExportError
from scclip_rt.bundle.bundle import Bundle
from scclip_rt.bundle.engine_fit import Machine, Wanted, choose_engine
from scclip_rt.files import cache_directory
from stand_ins.tensorrt import (
    BuilderFlag,
    DataType,
    FakeTensorrt,
    HardwareCompatibilityLevel,
    MemoryPoolType,
    gemm,
    linear,
)
from tiny_bundle import edit_manifest

Install = Callable[..., FakeTensorrt]
L4 = Machine(library="tensorrt", version="10.14.1.48", compute_capability="8.9", device="NVIDIA L4")


def request(**options: Any) -> EngineRequest:
    return EngineRequest(library="tensorrt", **{"grids": ("window",), **options})


def sidecar(bundle: Path, name: str) -> dict[str, Any]:
    return json.loads((bundle / name).read_text())


def snapshot(bundle: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in bundle.rglob("*") if path.is_file()}


def test_an_engine_is_built_stored_and_chosen(bundle: Path, install: Install) -> None:
    install()
    lines: list[str] = []
    (report,) = add_engines(bundle, [request()], lines.append)
    document = sidecar(bundle, report.sidecar)
    assert document["library_version"] == "10.14.1.48"
    assert document["compute_capabilities"] == ["8.9"]
    assert document["device"] == "NVIDIA L4"
    assert document["profile"] == {"batch": [1, 6, 16], "queries": [1, 150, 1024]}
    assert document["options"]["tf32"] is False
    assert document["layer_precisions"]["network"] == {"MATRIX_MULTIPLY": {"FLOAT": 4}}
    assert (bundle / document["file"]).read_bytes() == b"a plan"
    opened = Bundle.open(bundle)
    opened.verify_all()
    assert choose_engine(opened, L4, Wanted(batch=16)).sidecar == report.sidecar
    assert lines.count("warning: a warning") == 1
    assert not any("chatter" in line for line in lines)


def test_the_builder_is_told_everything(bundle: Path, install: Install, tmp_path: Path) -> None:
    fake = install()
    cache = tmp_path / "timing"
    cache.write_bytes(b"known")
    add_engines(
        bundle,
        [
            request(
                min_batch=2,
                opt_batch=4,
                max_batch=8,
                opt_queries=20,
                max_queries=100,
                workspace=256,
                builder_level=4,
                version_compatible=True,
                hardware_compatible="ampere+",
                timing_cache=cache,
            )
        ],
    )
    (network, config), *_ = fake.built
    assert network.flags == 1 << 1
    assert config.flags == {BuilderFlag.VERSION_COMPATIBLE}  # TF32 is on by default, and off here
    assert config.pools == {MemoryPoolType.WORKSPACE: 256 << 20}
    assert config.builder_optimization_level == 4
    assert config.hardware_compatibility_level == HardwareCompatibilityLevel.AMPERE_PLUS
    assert config.profiles[0].shapes == {
        "windows": ((2, 96, 96, 3), (4, 96, 96, 3), (8, 96, 96, 3)),
        "text": ((1, 8), (20, 8), (100, 8)),
    }
    assert cache.read_bytes() == b"known+"
    assert fake.host_code == [True]
    (name,) = Bundle.open(bundle).manifest.engines
    assert sidecar(bundle, name)["compute_capabilities"] == ["8.0+"]
    assert sidecar(bundle, name)["options"]["version_compatible"] is True


def test_tensorrt_11_gets_no_creation_flag(bundle: Path, install: Install) -> None:
    fake = install(version="11.4.0.106")
    add_engines(bundle, [request()])
    assert fake.built[0][0].flags == 0


def test_the_timing_cache_lives_in_the_cache_folder(bundle: Path, install: Install) -> None:
    install()
    add_engines(bundle, [request()])
    add_engines(bundle, [request()])
    assert (cache_directory() / "tensorrt/10.14.1.48-sm89-nvidia-l4.timing").read_bytes().endswith(b"++")


def test_windows_and_fixed_sizes_get_engines_the_dynamic_grid_none(bundle: Path, install: Install) -> None:
    install()
    reports = add_engines(bundle, [request(grids=())])
    grids = [sidecar(bundle, report.sidecar)["grid"] for report in reports]
    assert grids == [{"kind": "window", "rows": 6, "columns": 6}, {"kind": "fixed", "rows": 8, "columns": 12}]
    assert [sidecar(bundle, report.sidecar)["profile"]["batch"][1] for report in reports] == [6, 1]


def test_an_engine_of_the_same_key_is_replaced_others_stay(bundle: Path, install: Install) -> None:
    fake = install()
    (first,) = add_engines(bundle, [request()])
    (other,) = add_engines(bundle, [request(max_batch=64)])
    fake.plan = b"a better plan"
    (second,) = add_engines(bundle, [request()])
    opened = Bundle.open(bundle)
    assert set(opened.manifest.engines) == {other.sidecar, second.sidecar}
    assert second.dropped == (first.sidecar.rpartition("-")[0] + ".engine",)
    assert len(list((bundle / "engines").iterdir())) == 4
    assert {name for name in opened.manifest.files if name.startswith("engines/")} == {
        f"engines/{path.name}" for path in (bundle / "engines").iterdir()
    }
    opened.verify_all()


def test_building_again_the_same_engine_changes_nothing(bundle: Path, install: Install) -> None:
    install()
    add_engines(bundle, [request()])
    before = snapshot(bundle)
    (report,) = add_engines(bundle, [request()])
    assert snapshot(bundle) == before
    assert report.dropped == ()


def test_engines_of_other_weights_and_damaged_ones_go(bundle: Path, install: Install) -> None:
    fake = install()
    (stale,) = add_engines(bundle, [request(max_batch=64)])
    document = sidecar(bundle, stale.sidecar)
    text = json.dumps(document | {"source_sha256": "0" * 64})
    (bundle / stale.sidecar).write_text(text)
    edit_manifest(
        bundle,
        lambda manifest: manifest["files"].update(
            {stale.sidecar: {"sha256": hashlib.sha256(text.encode()).hexdigest(), "bytes": len(text)}}
        ),
    )
    (damaged,) = add_engines(bundle, [request(max_batch=32)])
    (bundle / damaged.sidecar).write_text("{")
    fake.plan = b"new"
    (report,) = add_engines(bundle, [request()])
    assert Bundle.open(bundle).manifest.engines == (report.sidecar,)
    assert len(list((bundle / "engines").iterdir())) == 2
    Bundle.open(bundle).verify_all()


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (
            lambda fake: fake.parse_errors.append("no such op: Foo"),
            "is not understood by the parser: no such op: Foo",
        ),
        (
            lambda fake: setattr(fake, "build_error", "out of memory"),
            "can't build encoder.fp32.onnx: out of memory",
        ),
        (lambda fake: setattr(fake, "stubborn", True), "keeps TF32 on"),
        (lambda fake: setattr(fake, "loads", False), "does not load on this machine's GPU"),
        (lambda fake: setattr(fake, "layers", linear("fc", DataType.HALF, 8, 8)), "claims fp32, but 100%"),
        (
            lambda fake: setattr(fake, "inspector", {"Layers": [gemm("Float", tactic="gemm_tf32")]}),
            "products in TF32",
        ),
    ],
)
def test_a_failed_build_says_why_and_leaves_the_bundle_as_it_was(
    break_it: Callable[[FakeTensorrt], None], message: str, bundle: Path, install: Install, tmp_path: Path
) -> None:
    break_it(install())
    before = snapshot(bundle)
    with pytest.raises(ExportError) as error:
        add_engines(bundle, [request(log=tmp_path / "log.txt")])
    assert message in str(error.value)
    assert snapshot(bundle) == before
    assert "WARNING: a warning" in (tmp_path / "log.txt").read_text()


def test_an_interrupted_build_stops_and_leaves_the_bundle_as_it_was(bundle: Path, install: Install) -> None:
    fake = install()

    def press_ctrl_c(line: str) -> None:
        if "Timing" in line:
            raise KeyboardInterrupt

    def build(config: Any) -> None:
        config.progress_monitor.phase_start("Building engine", None, 2)
        config.progress_monitor.phase_start("Timing tactics", "Building engine", 9)
        assert config.progress_monitor.step_complete("Timing tactics", 0) is False
        fake.plan = None

    fake.during_build = build
    before = snapshot(bundle)
    with pytest.raises(KeyboardInterrupt):
        add_engines(bundle, [request()], press_ctrl_c)
    assert snapshot(bundle) == before


def test_a_foreign_timing_cache_is_refused(bundle: Path, install: Install, tmp_path: Path) -> None:
    install()
    (tmp_path / "timing").write_bytes(b"foreign")
    with pytest.raises(ExportError, match="no timing cache of this TensorRT"):
        add_engines(bundle, [request(timing_cache=tmp_path / "timing")])


def test_without_a_gpu_the_build_is_refused_before_any_work(install: Install) -> None:
    install(capability=None)
    with pytest.raises(
        ExportError, match=r"--tensorrt builds for the GPU .* no NVIDIA driver .* --tensorrt-rtx"
    ):
        check_requests([request()], precisions=("fp32",), grids=("window",))


def test_tensorrt_before_10_is_refused(install: Install) -> None:
    install(version="8.6.1")
    with pytest.raises(ExportError, match=r"needs TensorRT 10 or later; 8\.6\.1 is installed"):
        check_requests([request()], precisions=("fp32",), grids=("window",))


def test_the_file_with_the_higher_opset_is_tried_first(bundle: Path, install: Install) -> None:
    """And the other where that one does not build."""
    fake = install()
    copies = {"encoder.fp32.onnx": "encoder.opset23.onnx"}
    for name, copy in copies.items():
        (bundle / copy).write_bytes((bundle / name).read_bytes())

    def add(manifest: dict[str, Any]) -> None:
        entry = dict(manifest["encoders"][0]) | {"file": "encoder.opset23.onnx", "opset": 23}
        manifest["encoders"].append(entry)
        manifest["files"]["encoder.opset23.onnx"] = manifest["files"]["encoder.fp32.onnx"]

    edit_manifest(bundle, add)
    (report,) = add_engines(bundle, [request()])
    assert sidecar(bundle, report.sidecar)["source"] == "encoder.opset23.onnx"

    attempts: list[str] = []

    def fail_once(config: Any) -> None:
        attempts.append("try")
        fake.build_error = "Attention is not supported" if len(attempts) == 1 else ""

    fake.during_build = fail_once
    lines: list[str] = []
    (report,) = add_engines(bundle, [request()], lines.append)
    assert sidecar(bundle, report.sidecar)["source"] == "encoder.fp32.onnx"
    assert any("Attention is not supported; trying encoder.fp32.onnx" in line for line in lines)


def test_two_builders_of_one_bundle_lose_nothing(bundle: Path, install: Install) -> None:
    install()
    with ThreadPoolExecutor(4) as pool:
        jobs = [pool.submit(add_engines, bundle, [request(max_batch=n)]) for n in range(8, 16)]
        reports = [job.result()[0] for job in jobs]
    assert set(Bundle.open(bundle).manifest.engines) == {report.sidecar for report in reports}
    Bundle.open(bundle).verify_all()
