"""The model repository: configurations with every shape, graphs cut to features, the Python model under a stand-in."""

import importlib.util
import json
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from scclip_export.cli.main import run
from scclip_export.triton_repository import write_repository
from scclip_rt import Segmenter
from scclip_rt.bundle.bundle import Bundle
from scclip_rt.errors import OptionError, OutputError
from services import picture, png
from stand_ins import triton_backend
from stand_ins.engine_files import add_engine, list_engines
from tiny_bundle import build_bundle

IMAGE = picture(3, 240, 320)


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo bundle's, by the command."""
    target = tmp_path_factory.mktemp("triton") / "repository"
    assert run(["--bundle", "demo", "--triton-repository", str(target)]) == 0
    return target


@pytest.fixture(scope="module")
def model(repository: Path) -> Iterator[Any]:
    """`model.py` as Triton starts it."""
    sys.modules["triton_python_backend_utils"] = triton_backend  # type: ignore[assignment]
    yield started(repository)
    del sys.modules["triton_python_backend_utils"]


def started(repository: Path) -> Any:
    triton_backend.InferenceRequest.models = repository / "models"
    folder = repository / "models/scclip"
    spec = importlib.util.spec_from_file_location("model", folder / "1/model.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    made = module.TritonPythonModel()
    text = (folder / "config.pbtxt").read_text()
    pairs = re.findall(r'key: "(\w+)" value \{ string_value: "(\w+)"', text)
    parameters = {key: {"string_value": value} for key, value in pairs}
    made.initialize(
        {
            "model_config": json.dumps({"parameters": parameters}),
            "model_repository": str(folder),
            "model_version": "1",
            "model_instance_kind": "CPU",
            "model_instance_device_id": "0",
        }
    )
    return made


def ask(model: Any, data: bytes, classes: list[str] | None = None) -> Any:
    inputs = [triton_backend.Tensor("IMAGE", np.array([data], dtype=np.object_))]
    if classes is not None:
        names = np.array([name.encode() for name in classes], dtype=np.object_)
        inputs.append(triton_backend.Tensor("CLASSES", names))
    return triton_backend.InferenceRequest("scclip", ["LABELS", "CLASS_NAMES"], inputs), inputs


@pytest.mark.parametrize("classes", [None, ["grass", "sky, night sky", "brick"]])
def test_the_python_model_gives_the_labels_of_python(
    repository: Path, model: Any, classes: list[str] | None
) -> None:
    request, inputs = ask(model, png(IMAGE), classes)
    config = repository / "models/scclip/config.pbtxt"
    triton_backend.check(config, "input", inputs)
    before = len(triton_backend.InferenceRequest.calls)
    (response,) = model.execute([request])
    assert not response.has_error(), response.error()
    triton_backend.check(config, "output", response.output_tensors)
    expected = Segmenter("demo", classes=classes)(IMAGE)
    labels, names = (tensor.as_numpy() for tensor in response.output_tensors)
    assert np.array_equal(labels, expected.labels)
    assert [name.decode() for name in names] == list(expected.classes)
    called = set(triton_backend.InferenceRequest.calls[before:])
    assert called >= {"scclip_encoder"}


@pytest.mark.usefixtures("model")  # the stand-in
def test_names_go_into_the_bundles_own_templates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = tmp_path / "demo.scclip"
    shutil.copytree(Bundle.open("demo").path, bundle)
    manifest = json.loads((bundle / "bundle.json").read_text())
    manifest["format_version"] = 2
    manifest["decoding"]["templates"] = "none"
    (bundle / "bundle.json").write_text(json.dumps(manifest))
    write_repository(Bundle.open(bundle), tmp_path / "repository")
    monkeypatch.setattr(triton_backend.InferenceRequest, "models", None)  # put back at the end
    ours = started(tmp_path / "repository")
    classes = ["grass", "brick"]
    made = ours._vocabulary(ask(ours, png(IMAGE), classes)[0])
    assert np.array_equal(made.embeddings, Segmenter(bundle, classes=classes).vocabulary.embeddings)


def test_a_request_that_fails_fails_alone(model: Any) -> None:
    bad, good = (ask(model, data)[0] for data in (b"no image", png(IMAGE)))
    first, second = model.execute([bad, good])
    assert "known format" in first.error().message()
    assert not second.has_error()


def test_the_encoder_is_cut_to_its_features(repository: Path) -> None:
    for path in ("models/scclip_encoder/1/model.onnx/model.onnx", "ovms/scclip_encoder/1/model.onnx"):
        graph = onnx.load(repository / path).graph
        assert [value.name for value in graph.input] == ["windows"]
        assert [value.name for value in graph.output] == ["features"]
        assert (repository / path).with_name("encoder.fp32.onnx.data").is_file()


def test_configurations_name_every_shape_and_refuse_when_full(repository: Path) -> None:
    models = repository / "models"
    encoder = (models / "scclip_encoder/config.pbtxt").read_text()
    assert triton_backend.declared(models / "scclip_encoder/config.pbtxt", "input") == {
        "windows": ("TYPE_UINT8", [224, 224, 3])
    }
    assert "max_queue_size: 64" in encoder
    assert "max_queue_delay_microseconds: 0" in encoder
    assert "max_batch_size: 0" in (models / "scclip_text/config.pbtxt").read_text()
    listed = json.loads((repository / "ovms/config.json").read_text())["model_config_list"]
    assert [Path(entry["config"]["base_path"]).name for entry in listed] == ["scclip_encoder", "scclip_text"]
    hints = [entry["config"]["plugin_config"]["INFERENCE_PRECISION_HINT"] for entry in listed]
    assert hints == ["f32", "f32"]


def test_the_small_bundle_has_no_weights(repository: Path) -> None:
    folder = repository / "models/scclip/1/bundle"
    assert not list(folder.rglob("*.data"))
    assert len(Bundle.open(folder).encoders) == 1


def test_what_exists_is_kept_and_an_unknown_precision_is_refused(repository: Path, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="exists"):
        write_repository(Bundle.open("demo"), repository)
    with pytest.raises(OptionError, match="it has fp32, int8"):
        write_repository(Bundle.open("demo"), tmp_path / "x", precision="fp16")
    assert not (tmp_path / "x").exists()


@pytest.fixture(scope="module")
def int8_text(tiny_checkpoint: Path, export_once: Callable[..., Path]) -> Path:
    return export_once("tiny-int8-text", tiny_checkpoint, "--int8-text")


@pytest.mark.usefixtures("model")  # the stand-in
def test_names_are_embedded_in_int8_where_that_is_asked_for(
    int8_text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "repository"
    line = ["--bundle", str(int8_text), "--triton-repository", str(target), "--text-precision", "int8"]
    assert run(line) == 0
    weights = {"text_encoder.onnx.data", "text_encoder.int8.onnx.data"}
    for folder in (target / "models/scclip_text/1/model.onnx", target / "ovms/scclip_text/1"):
        assert {path.name for path in folder.iterdir()} == {"model.onnx", *weights}
    monkeypatch.setattr(triton_backend.InferenceRequest, "models", None)  # put back at the end
    ours, classes = started(target), ["grass", "brick"]
    made = ours._vocabulary(ask(ours, png(IMAGE), classes)[0])
    wanted, other = (
        Segmenter(int8_text, classes=classes, text_precision=name, cache=False).vocabulary.embeddings
        for name in ("int8", "fp32")
    )
    np.testing.assert_allclose(made.embeddings, wanted, rtol=0, atol=1e-5)
    assert np.abs(made.embeddings - other).max() > 1e-4
    # What is in the cache on disk from here on is int8's, and not taken for float32's.
    again = Segmenter(int8_text, classes=classes, text_precision="int8").vocabulary.embeddings
    assert np.array_equal(again, made.embeddings)
    narrow = Segmenter(int8_text, classes=classes).vocabulary.embeddings
    np.testing.assert_allclose(narrow, other, rtol=0, atol=1e-6)


def test_text_in_a_precision_that_is_not_there_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "x"
    asked = ("--triton-repository", str(target))
    for line, message in (
        (("--bundle", "demo", *asked, "--text-precision", "int8"), "the bundle has: fp32"),
        (("--backbone", "vitb16", *asked, "--text-precision", "int8"), "this export makes fp32"),
        (("--backbone", "vitb16", *asked, "--repository-precision", "bf16"), "this export makes fp32"),
        (("--backbone", "vitb16", "--text-precision", "int8"), "only with --triton-repository"),
        (("--backbone", "vitb16", "--repository-precision", "fp32"), "only with --triton-repository"),
    ):
        assert run(list(line)) == 2
        told = capsys.readouterr().err.strip().splitlines()
        assert len(told) == 1
        assert message in told[0]
    assert not target.exists()


def test_an_engine_goes_in_as_a_plan_with_the_whole_bundle(tmp_path: Path) -> None:
    """TensorRT's engine takes queries, so Triton must not batch; the Python model then segments on the device."""
    bundle = build_bundle(tmp_path / "tiny.scclip")
    list_engines(bundle, [add_engine(bundle)])
    report = write_repository(Bundle.open(bundle), tmp_path / "repository")
    models = tmp_path / "repository/models"
    assert report.engine is not None
    assert (models / "scclip_encoder/1/model.plan").read_bytes() == b"plan"
    config = (models / "scclip_encoder/config.pbtxt").read_text()
    assert 'platform: "tensorrt_plan"' in config
    assert triton_backend.declared(models / "scclip_encoder/config.pbtxt", "input") == {
        "windows": ("TYPE_UINT8", [-1, 96, 96, 3]),
        "text": ("TYPE_FP32", [-1, 8]),
    }
    assert 'string_value: "local"' in (models / "scclip/config.pbtxt").read_text()
    assert Bundle.open(models / "scclip/1/bundle").verify_all()
