"""An fp16 engine with fp32 matrix products is an error: read from the network, and from the inspector's JSON."""

from typing import Any

import pytest

from fake_tensorrt import DataType, Network, encoder_layers, gemm, linear, product
from scclip_export.engines.precisions import (
    check_engine,
    check_network,
    engine_precisions,
    network_precisions,
)
from scclip_export.errors import ExportError


def network(trunk: DataType) -> Any:
    return network_precisions(Network(0, encoder_layers(trunk)))


def test_layers_and_weights_are_counted_by_dtype() -> None:
    found = network(DataType.HALF)
    assert found.layers == {"MATRIX_MULTIPLY": {"HALF": 2, "FLOAT": 2}}
    assert dict(found.weights) == {"HALF": 2 * 96 * 384, "FLOAT": 96 * 16}
    assert found.products == {"HALF": ["fc", "proj"], "FLOAT": ["projection"]}


@pytest.mark.parametrize(
    ("trunk", "precision"), [(DataType.HALF, "fp16"), (DataType.BF16, "bf16"), (DataType.FLOAT, "fp32")]
)
def test_a_network_of_its_precision_passes(trunk: DataType, precision: str) -> None:
    check_network(network(trunk), precision, "encoder.onnx")


@pytest.mark.parametrize(
    ("trunk", "precision"), [(DataType.FLOAT, "fp16"), (DataType.BF16, "fp16"), (DataType.HALF, "fp32")]
)
def test_a_network_of_another_precision_is_refused(trunk: DataType, precision: str) -> None:
    with pytest.raises(
        ExportError, match=rf"encoder.onnx claims {precision}, but .* of the weights .* no engine"
    ):
        check_network(network(trunk), precision, "encoder.onnx")


def test_one_wide_layer_of_the_trunk_is_named() -> None:
    layers = [*linear("fc", DataType.HALF, 96, 384), *linear("wide", DataType.FLOAT, 384, 96)]
    with pytest.raises(ExportError, match=r"50% of the weights .*: wide \(FLOAT\) \(1 layers\)"):
        check_network(network_precisions(Network(0, layers)), "fp16", "encoder.fp16.onnx")


def test_a_network_without_weights_proves_nothing_and_is_refused() -> None:
    layers = [product("similarities", DataType.HALF)]
    with pytest.raises(ExportError, match="no matrix product with weights"):
        check_network(network_precisions(Network(0, layers)), "fp16", "encoder.fp16.onnx")


@pytest.mark.parametrize("version", [10, 11])
def test_the_inspector_of_both_versions_is_read(version: int) -> None:
    document = {
        "Layers": [
            gemm("Half", version=version),
            gemm("Float", version=version),
            {"Name": "norm", "LayerType": "kgen", "Inputs": [], "TacticName": "__myl_MeanSub"},
            "a layer of which only the name is known",
        ]
    }
    assert engine_precisions(document) == {"products": {"FLOAT": 1, "HALF": 1}}


def test_an_inspector_that_gives_names_only_counts_nothing() -> None:
    assert engine_precisions({"Layers": ["fc", "proj"]}) == {}


def test_an_engine_like_its_network_passes() -> None:
    check_engine({"products": {"HALF": 2, "FLOAT": 2}}, network(DataType.HALF), "fp16", "encoder.fp16.onnx")
    check_engine({}, network(DataType.HALF), "fp16", "encoder.fp16.onnx")
    check_engine({"products": {"FLOAT": 4}}, network(DataType.FLOAT), "fp32", "encoder.fp32.onnx")


@pytest.mark.parametrize("products", [{"FLOAT": 4}, {"FLOAT": 3, "HALF": 1}, {"FLOAT": 2}])
def test_an_engine_that_was_widened_is_refused(products: dict[str, int]) -> None:
    with pytest.raises(ExportError, match="the library has widened them"):
        check_engine({"products": products}, network(DataType.HALF), "fp16", "encoder.fp16.onnx")


def test_tf32_in_an_engine_is_refused() -> None:
    document = {"Layers": [gemm("Float", tactic="sm80_xmma_gemm_f32f32_tf32f32_f32_tn_n")]}
    with pytest.raises(ExportError, match="1 products in TF32"):
        check_engine(engine_precisions(document), network(DataType.FLOAT), "fp32", "encoder.fp32.onnx")
