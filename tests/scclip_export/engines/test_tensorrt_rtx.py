"""TensorRT-RTX builds real engines here, without a GPU: the packaged demo model's, by the command."""

import importlib.util
import json
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from scclip_export.engines import libraries
from scclip_rt import cli
from scclip_rt.bundle.bundle import Bundle
from scclip_rt.bundle.engine_fit import Machine, Wanted, choose_engine, encoder_of
from scclip_rt.errors import BackendError
from tiny_bundle import build_bundle

pytestmark = [
    pytest.mark.tensorrt,
    pytest.mark.skipif(
        importlib.util.find_spec("tensorrt_rtx") is None, reason="tensorrt-rtx-cu13 is not installed"
    ),
]
Export = Callable[..., int]


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory, export_cli: Export) -> Path:
    """A copy of the packaged demo with an engine for two targets and a portable one for small batches."""
    path = tmp_path_factory.mktemp("rtx") / "demo.scclip"
    shutil.copytree(Bundle.open("demo").path, path)
    assert (
        export_cli("--bundle", path, "--tensorrt-rtx", "--no-gpu-kernels", "--compute-capability", "86,12.0")
        == 0
    )
    options = ("--max-batch", "4", "--max-queries", "40", "--workspace", "512", "--builder-level", "2")
    assert export_cli("--bundle", path, "--tensorrt-rtx", "--no-gpu-kernels", *options) == 0
    return path


def machine(capability: str, version: str | None = None) -> Machine:
    import tensorrt_rtx

    return Machine(
        library="tensorrt-rtx", version=version or tensorrt_rtx.__version__, compute_capability=capability
    )


def test_each_gpu_gets_its_engine(demo: Path) -> None:
    bundle = Bundle.open(demo)
    bundle.verify_all()
    assert choose_engine(bundle, machine("8.6")).compute_capabilities == ("8.6", "12.0")
    assert choose_engine(bundle, machine("12.0"), Wanted(batch=16)).profile["batch"] == (1, 6, 16)
    portable = choose_engine(bundle, machine("8.9"), Wanted(batch=4))
    assert portable.compute_capabilities == ("8.0", "8.6", "8.9", "12.0+")
    assert portable.profile == {"batch": (1, 4, 4), "queries": (1, 40, 40)}
    with pytest.raises(BackendError, match=r"takes batch 1 to 4; 5 wanted"):
        choose_engine(bundle, machine("8.9"), Wanted(batch=5))
    with pytest.raises(BackendError, match=r"was built by tensorrt-rtx .*; 1\.6\.0 is installed"):
        choose_engine(bundle, machine("8.6", "1.6.0"))
    with pytest.raises(BackendError, match=r"this GPU has 7\.5"):
        choose_engine(bundle, machine("7.5"))


def test_the_sidecar_says_what_the_network_computes_in(demo: Path) -> None:
    engine = choose_engine(Bundle.open(demo), machine("8.6"))
    layers = engine.layer_precisions["network"]
    assert (
        set(layers["MATRIX_MULTIPLY"]) == set(layers["SOFTMAX"]) == set(layers["NORMALIZATION"]) == {"FLOAT"}
    )
    assert layers["MATRIX_MULTIPLY"]["FLOAT"] > 50
    assert engine.device is None
    assert encoder_of(Bundle.open(demo), engine).precision == "fp32"


def test_the_engine_is_one_for_its_library(demo: Path) -> None:
    """Loading needs a GPU; without one the library gets as far as asking for it."""
    import tensorrt_rtx as trt

    engine = choose_engine(Bundle.open(demo), machine("8.6"))
    plan = (demo / engine.file).read_bytes()
    assert plan[:4] == b"vtrt"
    assert len(plan) > 15_000_000  # the weights are inside
    messages: list[str] = []

    class Logger(trt.ILogger):
        def __init__(self) -> None:
            super().__init__()

        def log(self, _severity: Any, message: str) -> None:
            messages.append(message)

    if trt.Runtime(logger := Logger()).deserialize_cuda_engine(plan) is None:
        assert any("CUDA" in message for message in messages), messages
    del logger


def test_the_command_of_the_sidecar_builds_the_engine_again_in_its_place(
    demo: Path, export_cli: Export, tmp_path: Path
) -> None:
    """The bytes may differ: TensorRT-RTX does not build the same engine twice."""
    copy = Path(shutil.copytree(demo, tmp_path / "demo.scclip"))
    engine = choose_engine(Bundle.open(copy), machine("8.9"), Wanted(batch=4))
    words = [str(copy) if word == "BUNDLE" else word for word in shlex.split(engine.command)]
    assert export_cli(*words[1:]) == 0
    bundle = Bundle.open(copy)
    bundle.verify_all()
    again = choose_engine(bundle, machine("8.9"), Wanted(batch=4))
    assert replace(again, sidecar=engine.sidecar, file=engine.file, sha256=engine.sha256) == engine
    assert len(bundle.manifest.engines) == 2


def test_inspect_shows_engines_and_why_they_do_not_fit(
    demo: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("scclip_rt.cli.inspect.engine_machine", lambda _library: machine("8.6"))
    assert cli.run(["inspect", str(demo)]) == 0
    text = capsys.readouterr().out
    assert "fits this machine" in text
    assert "takes           batch 1–4 (tuned for 4), queries 1–40 (tuned for 40)" in text
    monkeypatch.setattr("scclip_rt.cli.inspect.engine_machine", lambda _library: machine("7.5"))
    assert cli.run(["inspect", str(demo), "--json"]) == 0
    engines = json.loads(capsys.readouterr().out)["engines"]
    assert {engine["fits_this_machine"] for engine in engines} == {False}
    assert all("this GPU has 7.5" in engine["reason"] for engine in engines)

    def missing(_library: str) -> Machine:
        raise BackendError("no NVIDIA driver on this machine")

    monkeypatch.setattr("scclip_rt.cli.inspect.engine_machine", missing)
    assert cli.run(["inspect", str(demo)]) == 0
    assert "refused: no NVIDIA driver on this machine" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--compute-capability", "9.0"), "builds for 8.0, 8.6, 8.9, 12.0"),
        (("--compute-capability", "7.5"), "no fp32 matrix products for Turing"),
        (("--engine-precision", "bf16"), "holds fp32; export it again with --bf16"),
        (("--engine-grid", "336x448"), "has encoders for window, 128x192"),
        (("--force",), "--force would need another export"),
        (("--opset", "23", "--checkpoint", "x.pt"), "--checkpoint, --opset would need another export"),
    ],
)
def test_what_can_not_be_built_is_said_in_one_line(
    options: tuple[str, ...],
    message: str,
    export_cli: Export,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    bundle = build_bundle(tmp_path / "tiny.scclip")
    before = {path: path.read_bytes() for path in bundle.iterdir()}
    assert export_cli("--bundle", bundle, "--tensorrt-rtx", *options) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert message in line
    assert {path: path.read_bytes() for path in bundle.iterdir()} == before


def test_the_library_refuses_what_we_refuse_for_it() -> None:
    """H100 (9.0) and B200 (10.0) have no target of their own: the day they get one, this fails and the docs change."""
    library = libraries.open_library("tensorrt-rtx")
    assert {"SM90", "SM100"}.isdisjoint(library.trt.ComputeCapability.__members__)
    builder = library.trt.Builder(library.trt.Logger(library.trt.Logger.INTERNAL_ERROR))
    config = builder.create_builder_config()
    config.num_compute_capabilities = 1
    assert not config.set_compute_capability(library.trt.ComputeCapability(90), 0)


def test_the_packaged_demo_is_left_alone(export_cli: Export, capsys: pytest.CaptureFixture[str]) -> None:
    assert export_cli("--bundle", "demo", "--tensorrt-rtx") == 2
    assert "the packaged demo stays as it is" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--tensorrt-rtx", "--engine-precision", "bf16"), "this export makes fp32; add --bf16"),
        (("--tensorrt-rtx", "--engine-grid", "96x160"), "this export makes window; add --image-size HxW"),
        (("--tensorrt-rtx", "--compute-capability", "9.0"), "TensorRT-RTX"),
    ],
)
def test_an_export_that_can_not_build_its_engines_does_not_begin(
    options: tuple[str, ...],
    message: str,
    export_cli: Export,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The checkpoint is not read."""
    output, checkpoint = tmp_path / "out.scclip", tmp_path / "w.safetensors"
    checkpoint.write_bytes(b"no checkpoint")
    assert export_cli("--checkpoint", checkpoint, "--output", output, *options) == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == [checkpoint]


def test_adding_engines_needs_neither_torch_nor_onnx(tmp_path: Path) -> None:
    bundle = build_bundle(tmp_path / "tiny.scclip")
    code = (
        "import sys\n"
        "from scclip_export.cli.main import run\n"
        "options = ['--tensorrt-rtx', '--no-gpu-kernels', '--engine-grid', 'window']\n"
        f"assert run(['--bundle', {str(bundle)!r}, *options]) == 0\n"
        "print({'torch', 'onnx', 'open_clip'} & set(sys.modules))"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=120
    )
    assert run.stdout.splitlines()[-1] == "set()"
