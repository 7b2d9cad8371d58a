"""Matrix products as ONNX models, for the rates of libraries (extra `bench`: the runtime itself has no `onnx`)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from scclip_rt.errors import OptionError, install

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

IR_VERSION = 8
OPSET = 17
"""Old enough for every ONNX Runtime since 1.12; nothing here needs a newer one."""
QUANTISED_ZERO = 128
"""Zero point of the quantised activations, uint8; weights are symmetric int8."""


def float_product(weights: NDArray[np.float32]) -> bytes:
    """A model of y = x · W.

    Args:
        weights: W, (K, N) float32; stored in the model, so that a library may rearrange it once, as it does with a
            network's own weights.

    Returns:
        A serialised ModelProto: `x` float32 (rows, K) → `y` float32 (rows, N).
    """
    helper = _onnx().helper
    return _model([helper.make_node("MatMul", ["x", "w"], ["y"])], {"w": weights}, np.float32)


def quantised_product(
    weights: NDArray[np.int8], scales: NDArray[np.float32], *, float_input: bool = False
) -> bytes:
    """A model of y = dequantised x · dequantised W, the form that libraries turn into one int8 product.

    Args:
        weights: W, (K, N) int8, zero point 0.
        scales: one for each column of W, (N,) float32.
        float_input: quantise x in the model. OpenVINO takes integer arithmetic only for what it sees being quantised.

    Returns:
        A serialised ModelProto: `x` uint8 (float32 with `float_input`) (rows, K), scale 1/128 and zero point 128 →
        `y` float32 (rows, N).
    """
    node = _onnx().helper.make_node
    nodes = [
        node("DequantizeLinear", ["q" if float_input else "x", "x_scale", "x_zero"], ["a"]),
        node("DequantizeLinear", ["w", "w_scale"], ["b"], axis=1),
        node("MatMul", ["a", "b"], ["y"]),
    ]
    if float_input:
        nodes.insert(0, node("QuantizeLinear", ["x", "x_scale", "x_zero"], ["q"]))
    constants: dict[str, NDArray[Any]] = {
        "w": weights,
        "w_scale": scales,
        "x_scale": np.asarray(1 / QUANTISED_ZERO, np.float32),
        "x_zero": np.asarray(QUANTISED_ZERO, np.uint8),
    }
    return _model(nodes, constants, np.float32 if float_input else np.uint8)


def _onnx() -> Any:
    try:
        import onnx
    except ImportError as error:
        raise OptionError(
            "the machine's limit is measured on ONNX models that the package onnx makes; "
            f"{install('bench')}, or leave the limit out with --no-limit"
        ) from error
    return onnx


def _model(nodes: list[NodeProto], constants: dict[str, NDArray[Any]], x: type[np.generic]) -> bytes:
    onnx = _onnx()
    helper = onnx.helper
    inner, outer = constants["w"].shape
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "product",
        [value("x", helper.np_dtype_to_tensor_dtype(np.dtype(x)), ("rows", inner))],
        [value("y", onnx.TensorProto.FLOAT, ("rows", outer))],
        [onnx.numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    opsets = [helper.make_opsetid("", OPSET)]
    model: ModelProto = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION)
    serialised: bytes = model.SerializeToString()
    return serialised
