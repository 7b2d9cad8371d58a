"""Int8 weights: close to the float ones, and safe where 16-bit sums saturate."""

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from scclip_export.quantize.weights import PAIR_LIMIT, quantize_weight
from scclip_rt.backends.onnxruntime.session import load_onnxruntime

RNG = np.random.default_rng(0)
WEIGHTS = {
    "normal": RNG.standard_normal((192, 64), dtype=np.float32),
    "odd K": RNG.standard_normal((51, 17), dtype=np.float32),
    "all equal": np.full((64, 8), 0.3, np.float32),
    "large neighbours": np.where(np.arange(64)[:, None] < 2, 5.0, RNG.standard_normal((64, 8))).astype(
        np.float32
    ),
    "opposite neighbours": np.where(np.arange(64)[:, None] % 2, -1.0, 1.0).repeat(8, 1).astype(np.float32),
    "a dead channel": np.concatenate([np.zeros((64, 1)), RNG.standard_normal((64, 3))], 1).astype(np.float32),
    "halves that round up": np.full((64, 4), 64.5 / 129, np.float32),
}


def pair_sums(weight: np.ndarray) -> int:
    """The largest sum of two neighbours of one sign, in plain Python."""
    worst = 0
    for column in weight.T.astype(int).tolist():
        column = column + [0] * (len(column) % 2)
        for first, second in zip(column[0::2], column[1::2], strict=True):
            worst = max(worst, max(first, 0) + max(second, 0), max(-first, 0) + max(-second, 0))
    return worst


@pytest.mark.parametrize("name", WEIGHTS)
def test_no_pair_of_neighbours_sums_beyond_16_bits(name: str) -> None:
    weight = WEIGHTS[name]
    rounded, scale = quantize_weight(weight)
    assert pair_sums(rounded) <= PAIR_LIMIT
    assert 255 * PAIR_LIMIT < 2**15 <= 255 * (PAIR_LIMIT + 1)
    assert rounded.dtype == np.int8
    assert scale.shape == (weight.shape[1],)
    # Half a level, or one and a half where a pair had to give one back.
    assert np.all(np.abs(rounded * scale - weight) <= 1.5 * scale + 1e-6)
    assert (
        np.mean(np.abs(rounded * scale - weight) <= 0.5001 * scale) > 0.99 or name == "halves that round up"
    )


def test_resolution_is_better_than_that_of_seven_bits() -> None:
    weight = RNG.standard_normal((768, 256), dtype=np.float32)
    _, scale = quantize_weight(weight)
    seven_bits = np.abs(weight).max(axis=0) / 63
    assert np.median(scale / seven_bits) < 0.75


def product_model(weight: np.ndarray) -> bytes:
    """Y = dequantize(quantize(x)) · dequantize(w), all scales 1."""
    rows, columns = weight.shape
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "one", "zero"], ["levels"]),
        helper.make_node("DequantizeLinear", ["levels", "one", "zero"], ["input"]),
        helper.make_node("DequantizeLinear", ["w", "ones"], ["weight"], axis=1),
        helper.make_node("MatMul", ["input", "weight"], ["y"]),
    ]
    tensors = [
        numpy_helper.from_array(np.float32(1), "one"),
        numpy_helper.from_array(np.uint8(0), "zero"),
        numpy_helper.from_array(np.ones(columns, np.float32), "ones"),
        numpy_helper.from_array(weight.astype(np.int8), "w"),
    ]
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["rows", length])
        for name, length in (("x", rows), ("y", columns))
    ]
    graph = helper.make_graph(nodes, "product", ends[:1], ends[1:], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    return bytes(model.SerializeToString())


def on_onnxruntime(model: bytes, x: np.ndarray) -> np.ndarray:
    ort = load_onnxruntime()
    return ort.InferenceSession(model, providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]


def on_openvino(model: bytes, x: np.ndarray) -> np.ndarray:
    openvino = pytest.importorskip("openvino")
    core = openvino.Core()
    compiled = core.compile_model(core.read_model(model), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return next(iter(compiled(x).values()))


@pytest.mark.parametrize("run", [on_onnxruntime, on_openvino])
@pytest.mark.parametrize("rows", [1, 5, 197])
@pytest.mark.parametrize("depth", [50, 192, 768])
def test_the_brightest_activations_multiply_exactly(run, rows: int, depth: int) -> None:
    """Every level 255 against rows of one sign: naive int8 weights (all 127) give half the sum on AVX2."""
    positive = np.abs(RNG.standard_normal((depth, 64))).astype(np.float32)
    rounded, _ = quantize_weight(np.concatenate([positive, -positive], axis=1))
    x = np.full((rows, depth), 255, np.float32)
    exact = x.astype(np.int64) @ rounded.astype(np.int64)
    np.testing.assert_array_equal(run(product_model(rounded), x), exact.astype(np.float32))


def added_in_16_bits(x: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """What AVX2's vpmaddubsw gives: neighbouring products are added in 16 bits, saturated, then in 32."""
    products = (x.astype(np.int64)[:, :, None] * weight).reshape(len(x), -1, 2, weight.shape[1])
    return products.sum(axis=2).clip(-(1 << 15), (1 << 15) - 1).sum(axis=1)


def test_saturation_takes_half_of_the_sum_unless_weights_are_rounded_for_it() -> None:
    """By emulation, so on every processor; the library's own result is the saturated one, or the exact with VNNI."""
    x, usual = np.full((5, 192), 255, np.float32), np.full((192, 64), 127)
    exact, saturated = x.astype(np.int64) @ usual, added_in_16_bits(x, usual)
    assert np.abs(saturated - exact).max() > 0.4 * exact.max()
    found = on_onnxruntime(product_model(usual), x)
    assert np.array_equal(found, exact) or np.array_equal(found, saturated)
    rounded, _ = quantize_weight(np.abs(RNG.standard_normal((192, 64))).astype(np.float32))
    np.testing.assert_array_equal(added_in_16_bits(x, rounded), x.astype(np.int64) @ rounded.astype(np.int64))
