"""`scclip-export --to`: the runtime's converters and those of torch programs, behind one gate."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from numpy.typing import NDArray

from scclip_export.cli import baking
from scclip_export.converters import coreml, executorch, litert
from scclip_export.converters.baked_module import BakedModule
from scclip_export.converters.targets import TARGETS, converter_to
from scclip_rt.baking.converters.base import Run
from scclip_rt.errors import BackendError, OptionError

BAKE = (
    "--bundle",
    "demo",
    "--bake",
    "grass; sky",
    "--bake-options",
    "--size 224 --short-side 224 --result logits",
)


class Torch:
    """A converter that keeps the file and runs it as a torch module: what the real ones begin with."""

    NAME, SUFFIXES, WEIGHTS = "Torch", (".pt2",), ("fp32", "int8")

    def __init__(self, error: float = 0.0, *, package: bool = False) -> None:
        self.error, self.package = error, package

    def version(self) -> str:
        return torch.__version__

    def convert(self, source: Path, target: Path, _weights: str, _chip: str | None) -> None:
        file = target
        if self.package:
            target.mkdir()
            (target / "Manifest.json").write_text("{}")
            file = target / "model"
        file.write_bytes(source.read_bytes())

    def open(self, target: Path, _tensors: Any, _threads: int) -> Run:
        module = BakedModule(target / "model" if self.package else target)

        def run(image: NDArray[Any]) -> NDArray[Any]:
            with torch.inference_mode():
                result = module(torch.from_numpy(image)).numpy()
            result[:, 1] += self.error
            return result

        return run


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], None]:
    def use(converter: Any) -> None:
        monkeypatch.setattr(baking, "converter_to", lambda _target: converter)

    return use


def test_every_target_has_a_converter() -> None:
    assert TARGETS == ("openvino", "mnn", "rknn", "litert", "executorch", "coreml")
    for target in TARGETS:
        converter = converter_to(target)
        assert converter.NAME
        assert converter.SUFFIXES[0].startswith(".")
        assert set(converter.WEIGHTS) <= {"fp32", "fp16", "int8"}
    with pytest.raises(OptionError, match=r"rknn, litert, executorch, coreml; did you mean 'mnn'"):
        converter_to("mn")


def test_a_bundle_is_baked_and_converted(export_cli: Callable[..., int], tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    output = tmp_path / "a.onnx"
    assert (
        export_cli(*BAKE, "--bake-output", output, "--to", "openvino", "--to-options", "--weights fp16") == 0
    )
    report = json.loads((tmp_path / "a.xml.json").read_text())
    assert (report["target"], report["weights"]) == ("openvino", "fp16")
    assert report["labels_agreement"] > 0.99
    assert {"a.onnx", "a.xml", "a.bin"} <= {file.name for file in tmp_path.iterdir()}


@pytest.mark.parametrize("package", [False, True])
def test_an_earlier_file_is_converted_from_torch(
    export_cli: Callable[..., int], tmp_path: Path, stand_in: Callable[[Any], None], package: bool
) -> None:
    stand_in(Torch(package=package))
    output = tmp_path / "a.onnx"
    assert export_cli(*BAKE, "--bake-output", output, "--to", "litert") == 0
    report = json.loads((tmp_path / "a.pt2.json").read_text())
    assert report["labels_agreement"] == pytest.approx(1, abs=1e-3)
    assert report["bytes"] >= output.stat().st_size
    assert (tmp_path / "a.pt2").is_dir() == package
    assert export_cli("--baked", output, "--to", "litert") == 2  # it is there
    assert export_cli("--baked", output, "--to", "litert", "--force") == 0
    words = ("--to-options", f"--output {tmp_path / 'b.pt2'} --weights int8")
    assert export_cli("--baked", output, "--to", "litert", *words) == 0
    assert json.loads((tmp_path / "b.pt2.json").read_text())["weights"] == "int8"


def test_another_result_writes_nothing(
    export_cli: Callable[..., int],
    tmp_path: Path,
    stand_in: Callable[[Any], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    stand_in(Torch(error=50.0))
    output = tmp_path / "a.onnx"
    assert export_cli(*BAKE, "--bake-output", output, "--to", "litert") == 2
    assert "of ONNX Runtime's labels" in capsys.readouterr().err
    assert not list(tmp_path.glob("a.pt2*"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ("--bundle", "demo", "--to", "openvino"),
            "--to goes with --bake CLASSES|FILE.safetensors, or with --baked",
        ),
        (("--bundle", "demo", "--to-options", "--weights fp16"), "--to-options goes with --to TARGET"),
        (("--baked", "a.onnx"), "--baked goes with --to TARGET"),
        (("--baked", "a.onnx", "--to", "openvinno"), "did you mean 'openvino'"),
        (("--baked", "a.onnx", "--to", "openvino", "--stride", "8"), "--stride would need another one"),
        (("--baked", "a.onnx", "--to", "openvino", "--to-options", "--weigths fp16"), "unrecognized|unknown"),
        (
            ("--baked", "a.onnx", "--to", "openvino", "--to", "mnn", "--to-options", "--output b"),
            "--output goes with one --to",
        ),
    ],
)
def test_wrong_options_show_before_any_work(
    export_cli: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
    words: tuple[str, ...],
    message: str,
) -> None:
    pytest.importorskip("openvino")
    pytest.importorskip("MNN")
    try:
        code = export_cli(*words)
    except SystemExit as error:  # argparse's way
        code = int(str(error.code))
    assert code == 2
    said = capsys.readouterr().err
    assert any(part in said for part in message.split("|")) or message in said


@pytest.mark.parametrize(
    ("converter", "module"),
    [(litert, "litert_torch"), (executorch, "executorch.runtime"), (coreml, "coremltools")],
)
def test_a_missing_library_is_told(monkeypatch: pytest.MonkeyPatch, converter: Any, module: str) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(BackendError, match=r"is not installed .*pip install"):
        converter.version()


def test_core_ml_is_written_on_macs_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "coremltools", SimpleNamespace(__version__="9.0"))
    monkeypatch.setattr(sys, "platform", "linux")
    with pytest.raises(BackendError, match="Core ML runs on macOS alone"):
        coreml.version()


def test_scclip_convert_names_the_command_that_can(tmp_path: Path) -> None:
    from scclip_rt.baking.converters.convert import convert

    with pytest.raises(OptionError, match=r"scclip-export --baked FILE\.onnx --to litert"):
        convert(tmp_path / "a.onnx", tmp_path / "a.tflite", to="litert")
