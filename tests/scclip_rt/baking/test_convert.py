"""Converted files: kept only where the engine's own runtime gives ONNX Runtime's labels."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from scclip_rt import Segmenter
from scclip_rt.baking.bake import bake
from scclip_rt.baking.converters import convert as convert_module
from scclip_rt.baking.converters.base import Run
from scclip_rt.baking.converters.convert import BakedFile, convert, onnxruntime_run
from scclip_rt.baking.converters.passes import scatter_as_product, scatter_axis_first
from scclip_rt.baking.options import BakeOptions
from scclip_rt.errors import BackendError, OptionError, OutputError


@pytest.fixture(scope="module")
def baked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    segmenter = Segmenter("demo", backend="onnxruntime", precision="fp32", short_side=224, threads=1)
    path = tmp_path_factory.mktemp("baked") / "a.onnx"
    few = segmenter.with_classes(["grass", "sky", "zebra", "water"])
    bake(few, path, BakeOptions(size=(224, 224), result="logits"))
    return path


@pytest.mark.parametrize(
    ("target", "weights", "largest"),
    [("openvino", "fp16", 0.2), ("mnn", "fp32", 1e-3), ("mnn", "int8", 2.0)],
)
def test_labels_stay(baked: Path, tmp_path: Path, target: str, weights: Any, largest: float) -> None:
    pytest.importorskip({"openvino": "openvino", "mnn": "MNN"}[target])
    path = tmp_path / ("a.xml" if target == "openvino" else "a.mnn")
    report = convert(baked, path, to=target, weights=weights)
    assert report.labels_agreement >= (0.9999 if weights == "fp32" else 0.97)
    assert report.max_abs is not None
    assert report.max_abs < largest
    assert sorted(file.name for file in tmp_path.iterdir()) == sorted(report.files)
    assert (
        json.loads((tmp_path / report.files[-1]).read_text())["labels_agreement"] == report.labels_agreement
    )
    if weights != "fp32":
        assert report.bytes < 0.6 * baked.stat().st_size


class Liar:
    """A converter that reports success and swaps two classes in a part of the image."""

    NAME, SUFFIXES, WEIGHTS = "Liar", (".lie",), ("fp32",)

    def __init__(self, share: float) -> None:
        self.share = share

    def version(self) -> str:
        return "1.0"

    def convert(self, source: Path, target: Path, _weights: str, _chip: str | None) -> None:
        target.write_bytes(source.read_bytes())

    def open(self, target: Path, _: Any, threads: int) -> Run:
        honest = onnxruntime_run(BakedFile.read(target), threads)

        def run(image: NDArray[Any]) -> NDArray[Any]:
            maps = honest(image)
            rows = round(self.share * maps.shape[2])
            maps[:, :, :rows] = np.roll(maps[:, :, :rows], 1, axis=1)
            return maps

        return run


class Swapper(Liar):
    """A converter that swaps the first two classes, and rounds the second one up."""

    def open(self, target: Path, _: Any, threads: int) -> Run:
        honest = onnxruntime_run(BakedFile.read(target), threads)

        def run(image: NDArray[Any]) -> NDArray[Any]:
            maps = honest(image)[:, [1, 0, 2]]
            maps[:, 1] += np.spacing(maps[:, 1])
            return maps

        return run


@pytest.mark.parametrize(
    ("classes", "right"), [(["roof", "tree", "grass"], True), (["sky", "grass", "tree"], False)]
)
def test_either_label_of_a_tie_is_right(tmp_path: Path, classes: list[str], right: bool) -> None:
    """The demo's text model has no words for a roof or a tree."""
    segmenter = Segmenter("demo", classes=classes, backend="onnxruntime", short_side=224, threads=1)
    bake(segmenter, tmp_path / "a.onnx", BakeOptions(size=(224, 224), result="logits"))
    if right:
        report = convert(tmp_path / "a.onnx", tmp_path / "a.lie", to="lie", converter=Swapper(0))
        assert report.labels_agreement == 1
    else:
        with pytest.raises(BackendError, match="of ONNX Runtime's labels"):
            convert(tmp_path / "a.onnx", tmp_path / "a.lie", to="lie", converter=Swapper(0))


@pytest.mark.parametrize("share", [0.01, 1.0])
def test_a_wrong_result_writes_nothing(
    baked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, share: float
) -> None:
    monkeypatch.setattr(convert_module, "converter_of", lambda _: Liar(share))
    with pytest.raises(BackendError, match=r"Liar 1\.0 gives \d+\.\d+% of ONNX Runtime's labels"):
        convert(baked, tmp_path / "a.lie", to="liar")
    assert not list(tmp_path.iterdir())


def test_values_that_are_no_numbers_are_wrong(
    baked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    silent = Liar(0)
    broken = SimpleNamespace(
        NAME="Broken",
        SUFFIXES=(".lie",),
        WEIGHTS=("fp32",),
        version=silent.version,
        convert=silent.convert,
        open=lambda *_: lambda _image: np.full((1, 4, 224, 224), np.nan, np.float32),
    )
    monkeypatch.setattr(convert_module, "converter_of", lambda _: broken)
    with pytest.raises(BackendError, match=r"gives 0\.00%"):
        convert(baked, tmp_path / "a.lie", to="broken")
    assert not list(tmp_path.iterdir())


def test_wrong_requests_are_told(baked: Path, tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    with pytest.raises(
        OptionError, match="no converter to 'openvin'; known: openvino, mnn, rknn; did you mean 'openvino'"
    ):
        convert(baked, tmp_path / "a.xml", to="openvin")
    with pytest.raises(OptionError, match="OpenVINO keeps weights as fp32, fp16; 'int8' was asked for"):
        convert(baked, tmp_path / "a.xml", to="openvino", weights="int8")
    with pytest.raises(OptionError, match=r"OpenVINO's files end in \.xml; got a\.bin"):
        convert(baked, tmp_path / "a.bin", to="openvino")
    foreign = tmp_path / "b.onnx"
    onnx.save(helper.make_model(helper.make_graph([], "none", [], [])), foreign)
    with pytest.raises(BackendError, match=r"b\.onnx is no file that `scclip bake` wrote"):
        convert(foreign, tmp_path / "a.xml", to="openvino")
    (tmp_path / "a.bin").write_text("mine")
    with pytest.raises(OutputError, match=r"a\.bin exists; pass --force"):
        convert(baked, tmp_path / "a.xml", to="openvino")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.bin", "b.onnx"]


def test_mnn_refuses_quantised_files(tmp_path: Path) -> None:
    pytest.importorskip("MNN")
    segmenter = Segmenter(
        "demo", classes=["sky", "sand"], backend="onnxruntime", precision="int8", short_side=224, threads=1
    )
    bake(segmenter, tmp_path / "a.onnx", BakeOptions(size=(224, 224)))
    with pytest.raises(BackendError, match="MNN takes no quantised file"):
        convert(tmp_path / "a.onnx", tmp_path / "a.mnn", to="mnn")


def scattering(axis: int) -> onnx.ModelProto:
    """Two rows of x (1, 4, 3) replaced, along an axis, as the encoders do it."""
    graph = helper.make_graph(
        [
            helper.make_node("Mul", ["x", "one"], ["data"]),
            helper.make_node("Expand", ["places", "shape"], ["i"]),
            helper.make_node("ScatterElements", ["data", "i", "u"], ["y"], axis=axis, name="scatter"),
        ],
        "scatter",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4, 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4, 3])],
        [
            numpy_helper.from_array(np.float32(1), "one"),
            numpy_helper.from_array(np.array([[[3], [1]]], np.int64), "places"),
            numpy_helper.from_array(np.array([1, 2, 3], np.int64), "shape"),
            numpy_helper.from_array(np.arange(10, 16, dtype=np.float32).reshape(1, 2, 3), "u"),
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_scatter_of_rows_is_a_product() -> None:
    model, x = scattering(1), np.arange(12, dtype=np.float32).reshape(1, 4, 3)
    before = ReferenceEvaluator(model).run(None, {"x": x})[0]
    assert np.array_equal(before[0, 3], [10, 11, 12])
    assert scatter_as_product(model) == 1
    onnx.checker.check_model(model, full_check=True)
    assert "ScatterElements" not in {node.op_type for node in model.graph.node}
    np.testing.assert_array_equal(ReferenceEvaluator(model).run(None, {"x": x})[0], before)


def test_scatter_of_another_form_is_refused() -> None:
    with pytest.raises(BackendError, match="'scatter' does not put whole rows along axis 1"):
        scatter_as_product(scattering(2))


def test_scatters_axis_comes_first_and_nothing_else_changes() -> None:
    node = helper.make_node("ScatterElements", ["x", "i", "u"], ["y"], reduction="none", axis=1)
    node.attribute.sort(key=lambda item: item.name, reverse=True)
    graph = helper.make_graph(
        [node],
        "scatter",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, 4])],
        [
            numpy_helper.from_array(np.array([[3, 0], [1, 2]], np.int64), "i"),
            numpy_helper.from_array(np.array([[10, 20], [30, 40]], np.float32), "u"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    x = np.arange(8, dtype=np.float32).reshape(2, 4)
    before = ReferenceEvaluator(model).run(None, {"x": x})[0]
    assert scatter_axis_first(model) == 1
    assert [item.name for item in model.graph.node[0].attribute] == ["axis", "reduction"]
    np.testing.assert_array_equal(ReferenceEvaluator(model).run(None, {"x": x})[0], before)
