"""An fp16 engine with fp32 matrix products is an error: read from the network, and from the inspector's JSON."""

from typing import Any

import pytest

from scclip_export.engines.precisions import (
    check_engine,
    check_network,
    engine_precisions,
    logged_layers,
    network_precisions,
)
from scclip_export.errors import ExportError
from stand_ins.tensorrt import DataType, Network, encoder_layers, gemm, linear, linear_fp8, product


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


@pytest.mark.parametrize(
    ("tactic", "dtype"),
    [
        ("sm80_xmma_gemm_f16f16_f16f16_f16_nn_n_tilesize32x32x64_stage6_warpsize2x2x1_tensor16x8x16", "HALF"),
        ("sm80_xmma_gemm_bf16bf16_bf16f32_f32_tn_n_tilesize64x64x64", "BF16"),
        ("sm80_xmma_gemm_f32f32_f32f32_f32_nn_n_simt_tilesize64x64x8", "FLOAT"),
        ("sm80_xmma_gemm_f32f32_tf32f32_f32_nn_n_tilesize64x64x8", "TF32"),
        ("ampere_h16816gemm_128x128_ldg8_stages_32x5_tn", "HALF"),
        ("ampere_bf16_s16816gemm_bf16_128x128_ldg8_f2f_stages_32x5_tn", "BF16"),
        ("ampere_sgemm_128x64_tn", "FLOAT"),
        ("sm89_xmma_gemm_e4m3bf16_e4m3f32_f32_tn_n_tilesize64x64x64", "FP8"),
        ("cutlass_80_tensorop_f16_s16816gemm_f16_128x64_64x4_nn_align8", "HALF"),
        ("_gemm_mha_v2_0x0123456789abcdef", "FLOAT"),  # says nothing: the input's
    ],
)
def test_a_products_precision_is_what_its_kernel_multiplies(tactic: str, dtype: str) -> None:
    """TensorRT does the cast before a product in the product: its input is wide, the product is not."""
    tensor = {"Name": "x", "Format/Datatype": "Row major linear FP32"}
    document = {"Layers": [{"Name": "p", "LayerType": "gemm", "Inputs": [tensor], "TacticName": tactic}]}
    assert engine_precisions(document) == {"products": {dtype: 1}}


def test_tf32_in_an_engine_is_refused() -> None:
    document = {"Layers": [gemm("Float", tactic="sm80_xmma_gemm_f32f32_tf32f32_f32_tn_n")]}
    with pytest.raises(ExportError, match="1 products in TF32"):
        check_engine(engine_precisions(document), network(DataType.FLOAT), "fp32", "encoder.fp32.onnx")


def fp8_network(*others: Any) -> Any:
    layers = [*linear_fp8("fc", 96, 384), *linear_fp8("proj", 384, 96), *others]
    return network_precisions(Network(0, layers))


def test_a_product_of_two_float8_operands_is_one() -> None:
    found = fp8_network(product("attention", DataType.HALF), *linear("last", DataType.HALF, 96, 16))
    assert found.layers == {"MATRIX_MULTIPLY": {"FP8": 2, "HALF": 2}}
    assert dict(found.weights) == {"FP8": 2 * 96 * 384, "HALF": 96 * 16}
    check_network(found, "fp8", "encoder.fp8.onnx")
    with pytest.raises(ExportError, match="claims fp16, but 98% of the weights"):
        check_network(found, "fp16", "encoder.fp16.onnx")


def test_a_product_of_one_float8_operand_is_none() -> None:
    """Float8 weights behind a DequantizeLinear alone: the product is float16's."""
    layers = linear_fp8("fc", 96, 384)
    layers[-1].inputs[0] = layers[2].inputs[0]
    found = network_precisions(Network(0, layers))
    assert found.layers == {"MATRIX_MULTIPLY": {"HALF": 1}}
    with pytest.raises(ExportError, match="claims fp8, but 100% of the weights"):
        check_network(found, "fp8", "encoder.fp8.onnx")


def test_a_network_with_a_third_of_its_weights_in_float16_is_not_fp8() -> None:
    with pytest.raises(ExportError, match=r"claims fp8, but 33% of the weights .*: wide \(HALF\)"):
        check_network(fp8_network(*linear("wide", DataType.HALF, 96, 384)), "fp8", "encoder.fp8.onnx")


@pytest.mark.parametrize("version", [10, 11])
def test_float8_products_of_an_engine_are_counted(version: int) -> None:
    document = {"Layers": [gemm("FP8", version=version), gemm("Half", version=version)]}
    assert engine_precisions(document) == {"products": {"FP8": 1, "HALF": 1}}


@pytest.mark.parametrize(
    "products",
    [{"HALF": 3}, {"FP8": 1, "HALF": 2}, {"FP8": 2, "FLOAT": 1}],
    ids=["none", "one", "wider still"],
)
def test_an_fp8_engine_without_its_fp8_products_is_refused(products: dict[str, int]) -> None:
    network = fp8_network(product("attention", DataType.HALF))
    check_engine({"products": {"FP8": 2, "HALF": 1}}, network, "fp8", "encoder.fp8.onnx")
    with pytest.raises(ExportError, match="in fp8: the library has widened them"):
        check_engine({"products": products}, network, "fp8", "encoder.fp8.onnx")


def test_the_layers_that_a_builder_logs_are_read() -> None:
    """As TensorRT-RTX 1.7.1 prints them, shortened."""
    tensor = "{{ Name: {0}, Dimensions: [-1,192], StrideOrder: [1,0], Datatype: {1}, Format: (Linear) x }}"
    line = (
        "Name: {0}, LayerType: {1}, Inputs: [{2}], Constants: [ {3}], Outputs: [ {3}], TacticName: {4}, StreamId: 0, "
        "Metadata: [ONNX Layer: a]"
    )
    weights = tensor.format("w", "FP8")
    lines = [
        line.format("shapes", "shape_call", "", "", ""),
        line.format("c+b+a_myl0_4", "gemm", f" {tensor.format('x', 'FP8')}", weights, "__myelin_CASK_STUB"),
        line.format(
            "_gemm_mha_v2_myl0_8", "kgen", f" {tensor.format('q', 'Half')}", "", "_gemm_mha_v2_0xfc91"
        ),
        line.format("similarity", "gemm", f" {tensor.format('s', 'Float')}", "", "__myelin_CASK_STUB"),
        line.format("__myl_MulAdd", "kgen", f" {tensor.format('y', 'Half')}", weights, "__myl_MulAdd_0x3d3d"),
    ]
    found = logged_layers("Layers: " + " ".join(lines))
    assert [layer["Name"] for layer in found["Layers"]][1:3] == ["c+b+a_myl0_4", "_gemm_mha_v2_myl0_8"]
    assert engine_precisions(found) == {"products": {"FLOAT": 1, "FP8": 1, "HALF": 1}}
    assert engine_precisions(logged_layers("")) == {}
