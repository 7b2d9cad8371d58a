"""Products as ONNX graphs, their rates, and the operations of an encoder."""

import numpy as np
import onnx
import pytest

from graph_flops import matmul_flops
from scclip_rt.backends.onnxruntime.session import load_onnxruntime
from scclip_rt.bench.flops import Product, block_products, count_flops
from scclip_rt.bench.limit import GemmLimit, LimitRequest
from scclip_rt.bench.onnx_graph import float_product, quantised_product
from scclip_rt.bundle.bundle import Bundle

PRODUCTS = (
    Product(name="first", rows=40, inner=48, outer=80),
    Product(name="second", rows=40, inner=80, outer=48),
)


def outputs(model: bytes, x: np.ndarray) -> np.ndarray:
    onnx.checker.check_model(onnx.load_model_from_string(model), full_check=True)
    session = load_onnxruntime().InferenceSession(model, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"x": x})[0])


def test_a_serialised_product_multiplies() -> None:
    rng = np.random.default_rng(0)
    weights, x = rng.standard_normal((300, 7), np.float32), rng.standard_normal((5, 300), np.float32)
    np.testing.assert_allclose(outputs(float_product(weights), x), x @ weights, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("float_input", [False, True])
def test_a_quantised_product_multiplies(float_input: bool) -> None:
    rng = np.random.default_rng(0)
    weights = rng.integers(-60, 61, (20, 7)).astype(np.int8)  # small: AVX2 sums pairs in 16 bits
    scales = rng.uniform(0.01, 0.02, 7).astype(np.float32)
    x = rng.integers(0, 256, (5, 20)).astype(np.uint8)
    values = (x.astype(np.float32) - 128) / 128
    model = quantised_product(weights, scales, float_input=float_input)
    np.testing.assert_allclose(
        outputs(model, values if float_input else x), values @ (weights * scales), rtol=1e-4, atol=1e-5
    )


def test_the_limit_times_every_product_in_every_precision() -> None:
    limit = GemmLimit(LimitRequest(library="onnxruntime", threads=1, products=PRODUCTS))
    seconds = limit.seconds()
    assert {"fp32", "int8"} <= set(seconds)
    assert all(len(each) == 2 and min(each) > 0 for each in seconds.values())


def test_the_limit_of_openvino() -> None:
    openvino = pytest.importorskip("openvino")
    capabilities = openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    seconds = GemmLimit(LimitRequest(library="openvino", threads=1, products=PRODUCTS)).seconds()
    assert ("bf16" in seconds) == ("BF16" in capabilities)
    assert {"fp32", "int8"} <= set(seconds)


def test_counted_operations_are_the_graph_s() -> None:
    bundle = Bundle.open("demo")
    counted = count_flops(bundle, patches=196).total
    assert counted == pytest.approx(matmul_flops(bundle.path / "encoder.fp32.onnx"), rel=2e-3)


def test_a_block_s_products_have_the_model_s_widths() -> None:
    shapes = [(p.inner, p.outer) for p in block_products(Bundle.open("demo"), 197)]
    assert shapes == [(192, 576), (192, 192), (192, 768), (768, 192)]
    assert Product(name="x", rows=2, inner=3, outer=5).flops == 60
