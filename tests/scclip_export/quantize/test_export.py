"""`scclip-export --int8`: the files, the record in bundle.json, the runtime, and what is refused."""

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import jsonschema
import numpy as np
import onnx
import onnxruntime as ort
import pytest

from scclip_export.onnx.trace import operators
from scclip_export.parity import THRESHOLDS, Parity
from scclip_rt import Segmenter
from synthetic import scene

Export = Callable[..., int]


@pytest.fixture(scope="module")
def int8_bundle(micro_checkpoint: Path, export_cli: Export, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four blocks: windows and a dynamic grid, in fp32 and int8, one layer kept float by name."""
    path = tmp_path_factory.mktemp("int8") / "micro.scclip"
    options = ("--dynamic-grid", "--fusion-layers", "1:3", "--int8", "--calibration-windows", "6")
    assert (
        export_cli(
            "--checkpoint", micro_checkpoint, "--output", path, *options, "--int8-keep-float", "*.0.fc"
        )
        == 0
    )
    return path


def entries(bundle: Path) -> dict[str, dict]:
    document = json.loads((bundle / "bundle.json").read_text())
    return {encoder["file"]: encoder for encoder in document["encoders"]}


def test_every_grid_has_an_int8_encoder_for_cpus(int8_bundle: Path) -> None:
    made = entries(int8_bundle)
    assert set(made) == {f"encoder.{p}{g}.onnx" for p in ("fp32", "int8") for g in ("", ".dynamic")}
    for name, entry in made.items():
        assert (entry["precision"] == "int8") == ("int8" in name) == (entry["runs_on"] == ["cpu"])
        assert entry["inputs"] == made[name.replace("int8", "fp32")]["inputs"]
        assert entry["outputs"] == made[name.replace("int8", "fp32")]["outputs"]


def test_the_record_says_how_it_was_calibrated_and_how_close_it_is(int8_bundle: Path) -> None:
    from importlib import resources

    schema = json.loads((resources.files("scclip_rt") / "bundle/schema/bundle.schema.json").read_text())
    jsonschema.validate(json.loads((int8_bundle / "bundle.json").read_text()), schema)
    for name, entry in entries(int8_bundle).items():
        assert ("quantization" in entry) == ("int8" in name)
        if "quantization" in entry:
            said, parity = entry["quantization"], entry["parity"]
            assert said["calibration_images"] == "3 rendered demo scenes"
            assert (said["method"], said["calibration_windows"]) == ("tuned", 6)
            assert said["float_layers"] == ["blocks.0.fc"]
            assert said["int8_layers"] == 4 * 3 + 2 - 1
            assert 0 < parity["features_mean_abs"] <= parity["thresholds"]["mean_abs"]
            assert parity["labels_agreement"] >= parity["thresholds"]["labels"] > 0.5


@pytest.mark.parametrize(("figure", "value"), [("features_mean_abs", 0.02), ("labels_agreement", 0.8)])
def test_a_missed_threshold_fails_the_export(figure: str, value: float) -> None:
    """`export_bundle` ends on any parity that has not passed (test_pipeline.py); these two figures count here."""
    good = Parity(
        thresholds=THRESHOLDS["int8"],
        features_max_abs=0.5,
        logits_max_abs=0.5,
        features_mean_abs=1e-3,
        labels_agreement=0.95,
        windows=6,
        tied_windows=0,
        outliers_agreement=0.5,
        outlier_sets_equal=0.1,
        batches=(1,),
        queries=(1,),
    )
    assert good.passed
    assert not replace(good, **{figure: value}).passed
    assert not replace(good, **{figure: float("nan")}).passed


def test_weights_are_a_quarter_and_shared_between_grids(int8_bundle: Path) -> None:
    def size(name: str) -> int:
        return (int8_bundle / f"{name}.onnx.data").stat().st_size

    assert size("encoder.int8.dynamic") < 0.1 * size("encoder.int8")
    modes = {(int8_bundle / f"encoder.int8.onnx{end}").stat().st_mode for end in ("", ".data")}
    assert len(modes) == 1, "who may read the graph may read its weights"
    graph = onnx.load(str(int8_bundle / "encoder.int8.onnx"), load_external_data=False).graph
    weights = [tensor for tensor in graph.initializer if len(tensor.dims) == 2]
    narrow = sum(int(np.prod(t.dims)) for t in weights if t.data_type == onnx.TensorProto.INT8)
    wide = sum(int(np.prod(t.dims)) for t in weights if t.data_type == onnx.TensorProto.FLOAT)
    blocks = 3 * 12 * 128**2 - 4 * 128**2  # without the layer kept float
    assert narrow == blocks + 3 * 128**2
    assert wide < narrow


@pytest.mark.parametrize("grid", ["", ".dynamic"])
def test_every_product_of_a_fresh_export_is_an_integer_one(
    int8_bundle: Path, tmp_path: Path, grid: str
) -> None:
    """In ONNX Runtime's own form of the graph; float are the patch and visual projections and the layer asked for."""
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    ort.InferenceSession(
        str(int8_bundle / f"encoder.int8{grid}.onnx"), options, providers=["CPUExecutionProvider"]
    )
    counts = Counter(operators(tmp_path / "optimised.onnx"))
    products = (
        3 * 6 + 3
    )  # query, key, value, out_proj, fc, proj of three blocks; key, value, projection of the last
    assert counts["QGemm"] + counts["MatMulIntegerToFloat"] == products - 1
    assert counts["Gemm"] + counts["FusedGemm"] <= 3
    assert counts["QuantizeLinear"] == 13


@pytest.mark.parametrize("calibration", ["none", "maskclip"])
def test_other_last_blocks_become_int8_too(
    micro_checkpoint: Path, export_cli: Export, tmp_path: Path, calibration: str
) -> None:
    """The export checks parity itself; `none` keeps queries and MLP in its last block, `maskclip` only values."""
    bundle = tmp_path / "other.scclip"
    options = ("--calibration", calibration, "--int8", "--calibration-windows", "2")
    assert export_cli("--checkpoint", micro_checkpoint, "--output", bundle, *options) == 0
    assert set(entries(bundle)) == {"encoder.fp32.onnx", "encoder.int8.onnx"}
    said = entries(bundle)["encoder.int8.onnx"]["quantization"]
    last = {"none": 4, "maskclip": 2}[calibration]  # layers of the last block
    assert said["int8_layers"] + len(said["float_layers"]) == 3 * 4 + last
    counts = Counter(operators(bundle / "encoder.int8.onnx"))
    assert counts["QuantizeLinear"] >= said["int8_layers"]


@pytest.mark.parametrize("whole", [False, True])
def test_the_runtime_segments_in_int8(int8_bundle: Path, whole: bool) -> None:
    image, classes = scene(224, 300, 4), ["sky", "grass", "dog"]
    options = {"classes": classes, "templates": "none", "whole_image": whole}
    exact = Segmenter(int8_bundle, precision="fp32", **options).encode(image).features
    segment = Segmenter(int8_bundle, precision="int8", **options)
    assert segment.backend.describe()["precision"] == "int8"
    cosines = (segment.encode(image).features * exact).sum(axis=-1)
    assert cosines.mean() > 0.98
    assert cosines.max() < 0.9999999
    assert segment(image).labels.shape == (224, 300)


def test_options_of_int8_are_refused_without_it(
    micro_checkpoint: Path, export_cli: Export, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = export_cli(
        "--checkpoint", micro_checkpoint, "--output", tmp_path / "a.scclip", "--calibration-windows", "4"
    )
    assert code == 2
    assert "--calibration-windows needs --int8" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["missing", "empty"])
def test_bad_calibration_folders_end_before_the_export(
    micro_checkpoint: Path, export_cli: Export, tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    folder = tmp_path / "photos"
    if kind == "empty":
        folder.mkdir()
    out = tmp_path / "a.scclip"
    code = export_cli(
        "--checkpoint", micro_checkpoint, "--output", out, "--int8", "--calibration-images", folder
    )
    error = capsys.readouterr().err
    assert code == 2
    assert f"--calibration-images {folder}: no" in error
    assert "tracing" not in error
    assert "writing encoder" not in error
    assert not out.exists()
