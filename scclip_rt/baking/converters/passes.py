"""Rewriting a graph into the form that a converter reads rightly: each pass changes one thing and no number."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from scclip_rt.baking.library import load_onnx
from scclip_rt.baking.nodes import Nodes
from scclip_rt.errors import BackendError

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto


def scatter_axis_first(model: ModelProto) -> int:
    """Put the attribute `axis` of ScatterElements before `reduction`.

    MNN 3.6.1 reads the two by their place: in the other order it scatters along another axis, and says nothing.

    Returns:
        How many nodes have both.
    """
    changed = 0
    for node in model.graph.node:
        if node.op_type == "ScatterElements" and len(node.attribute) > 1:
            ordered = sorted(node.attribute, key=lambda item: str(item.name))
            del node.attribute[:]
            node.attribute.extend(ordered)
            changed += 1
    return changed


def scatter_as_product(model: ModelProto) -> int:
    """Write ScatterElements along axis 1, which puts whole rows at indices that differ, as a one-hot product.

    RKNN 2.5 has no ScatterElements on its processor. With the one-hot matrix S (B, rows, m) of the m indices the result
    is data · (1 - Σ S) + S · updates, exact in any float type: every row has one summand.

    Returns:
        How many nodes were written anew.

    Raises:
        BackendError: a ScatterElements of another form.
    """
    onnx = load_onnx()
    shapes = _shapes(model)
    makers = {name: node for node in model.graph.node for name in node.output}
    constants = {item.name: item for item in model.graph.initializer}
    nodes: list[NodeProto] = []
    changed = 0
    for node in model.graph.node:
        if node.op_type != "ScatterElements":
            nodes.append(node)
            continue
        data, indices, updates = node.input
        values = {item.name: onnx.helper.get_attribute_value(item) for item in node.attribute}
        spread, rows = makers.get(indices), shapes.get(data, (None, None))[1]
        fits = (
            spread is not None and spread.op_type == "Expand" and values.get("axis") == 1 and rows is not None
        )
        if not fits or spread is None or rows is None or values.get("reduction", b"none") != b"none":
            raise BackendError(f"ScatterElements {node.name!r} does not put whole rows along axis 1")
        product = Nodes(f"{node.output[0]}/")
        places = product.constant(np.arange(rows, dtype=np.int64)[None, None, :])
        # (B, m, rows) and its sum (B, rows, 1)
        hot = product.cast(product("Equal", spread.input[0], places), np.float32)
        taken = product.transpose(product("ReduceSum", hot, product.integers(1), keepdims=1), (0, 2, 1))
        kept = product("Mul", data, product("Sub", product.floats(1), taken))
        put = product("MatMul", product.transpose(hot, (0, 2, 1)), updates)
        product("Add", kept, put, output=node.output[0])
        nodes += product.nodes
        model.graph.initializer.extend(item for item in product.constants if item.name not in constants)
        changed += 1
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return changed


def _shapes(model: ModelProto) -> dict[str, tuple[int | None, ...]]:
    """Tensor → lengths, None for those that are open."""
    inferred = load_onnx().shape_inference.infer_shapes(model, data_prop=True)
    return {
        info.name: tuple(dim.dim_value or None for dim in info.type.tensor_type.shape.dim)
        for info in inferred.graph.value_info
    }
