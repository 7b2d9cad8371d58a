"""Matrix products as ONNX models, serialised by hand: the runtime does not depend on the `onnx` package.

Only what one product needs of the protobuf format is here: varints, length-delimited fields, and the field
numbers of onnx.proto3 (ModelProto, GraphProto, NodeProto, AttributeProto, TensorProto, ValueInfoProto). A test
reads the result with the real package and its checker.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

IR_VERSION = 8
OPSET = 17
"""Old enough for every ONNX Runtime since 1.12; nothing here needs a newer one."""
_FLOAT, _UINT8, _INT8 = 1, 2, 3
_ELEMENT = {"float32": _FLOAT, "uint8": _UINT8, "int8": _INT8}
_DELIMITED, _INT_ATTRIBUTE = 2, 2
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
    inner, outer = weights.shape
    return _model(
        nodes=[_node("MatMul", ["x", "w"], "y")],
        initializers=[_tensor("w", weights)],
        inputs=[_value("x", "float32", ("rows", inner))],
        outputs=[_value("y", "float32", ("rows", outer))],
    )


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
    inner, outer = weights.shape
    quantise = [_node("QuantizeLinear", ["x", "x_scale", "x_zero"], "q")] if float_input else []
    return _model(
        nodes=[
            *quantise,
            _node("DequantizeLinear", ["q" if float_input else "x", "x_scale", "x_zero"], "a"),
            _node("DequantizeLinear", ["w", "w_scale"], "b", axis=1),
            _node("MatMul", ["a", "b"], "y"),
        ],
        initializers=[
            _tensor("w", weights),
            _tensor("w_scale", scales),
            _tensor("x_scale", np.float32(1 / QUANTISED_ZERO)),
            _tensor("x_zero", np.uint8(QUANTISED_ZERO)),
        ],
        inputs=[_value("x", "float32" if float_input else "uint8", ("rows", inner))],
        outputs=[_value("y", "float32", ("rows", outer))],
    )


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _int(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _bytes(field: int, value: bytes | str) -> bytes:
    content = value.encode() if isinstance(value, str) else value
    return _varint(field << 3 | _DELIMITED) + _varint(len(content)) + content


def _model(
    *,
    nodes: Iterable[bytes],
    initializers: Iterable[bytes],
    inputs: Iterable[bytes],
    outputs: Iterable[bytes],
) -> bytes:
    graph = b"".join(_bytes(1, node) for node in nodes) + _bytes(2, "product")
    for field, items in ((5, initializers), (11, inputs), (12, outputs)):
        graph += b"".join(_bytes(field, item) for item in items)
    opset = _bytes(1, "") + _int(2, OPSET)
    return _int(1, IR_VERSION) + _bytes(7, graph) + _bytes(8, opset)


def _node(kind: str, inputs: Iterable[str], output: str, **attributes: int) -> bytes:
    node = b"".join(_bytes(1, name) for name in inputs) + _bytes(2, output) + _bytes(4, kind)
    for name, value in attributes.items():
        node += _bytes(5, _bytes(1, name) + _int(3, value) + _int(20, _INT_ATTRIBUTE))
    return node


def _tensor(name: str, array: NDArray[np.generic] | np.generic) -> bytes:
    array = np.asarray(array)
    dims = b"".join(_int(1, length) for length in array.shape)
    little_endian = array.astype(array.dtype.newbyteorder("<"), copy=False)
    return dims + _int(2, _ELEMENT[array.dtype.name]) + _bytes(8, name) + _bytes(9, little_endian.tobytes())


def _value(name: str, dtype: str, shape: Iterable[str | int]) -> bytes:
    dims = b"".join(
        _bytes(1, _bytes(2, length) if isinstance(length, str) else _int(1, length)) for length in shape
    )
    tensor = _int(1, _ELEMENT[dtype]) + _bytes(2, dims)
    return _bytes(1, name) + _bytes(2, _bytes(1, tensor))
