"""Clean a freshly traced graph: constants folded, and nothing left that computes nothing.

torch.onnx's own optimiser (`optimize=True`) matches some forty patterns against every node, which takes a third of the
time of a trace (torch 2.14, onnxscript 0.7, twelve blocks). What these graphs need of it is here.
"""

from typing import Any

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common
from onnxscript import optimizer

_Pass = Any  # onnx_ir's passes share no exported base class


def clean(model: ir.Model) -> None:
    """Clean a model in place; its inputs, outputs and results stay as they are."""
    optimizer.fold_constants(model)
    for node in list(model.graph):
        rule = _RULES.get(node.op_type)
        if rule is not None:
            rule(model, node)
    steps: tuple[_Pass, ...] = (
        common.IdentityEliminationPass(),
        common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        common.DeduplicateInitializersPass(),
        common.CommonSubexpressionEliminationPass(),
        common.RemoveUnusedNodesPass(),
        common.RemoveUnusedOpsetsPass(),
    )
    for step in steps:
        step(model)


def _remove_idle_cast(_: ir.Model, node: ir.Node) -> None:
    """Let the users of a Cast to the type it is given read its input."""
    source, result = node.inputs[0], node.outputs[0]
    if source is None or result.is_graph_output():  # outputs keep their names
        return
    if _dtype(source) == ir.DataType(node.attributes["to"].as_int()):
        ir.convenience.replace_all_uses_with(result, source)


def _dtype(value: ir.Value) -> ir.DataType | None:
    """The type of a value; torch.onnx leaves out that of a Softmax with `dtype=`, which is its input's."""
    producer = value.producer()
    if value.dtype is None and producer is not None and producer.op_type == "Softmax":
        before = producer.inputs[0]
        return None if before is None else _dtype(before)
    return value.dtype


def _shorten_reshape(model: ir.Model, node: ir.Node) -> None:
    """Write -1 for a shape's only computed length, and skip a Reshape that feeds this one."""
    shape = node.inputs[1]
    lengths = _lengths(shape) if shape is not None else None
    if shape is None or lengths is None or lengths.count(-1) > 1 or 0 in lengths:
        return
    if shape.const_value is None:
        constant = ir.tensor(np.array(lengths, np.int64), name=f"{node.outputs[0].name}_shape")
        value = ir.Value(
            name=constant.name,
            const_value=constant,
            type=ir.TensorType(ir.DataType.INT64),
            shape=ir.Shape([len(lengths)]),
        )
        model.graph.register_initializer(value)
        node.replace_input_with(1, value)
    before = node.inputs[0].producer() if node.inputs[0] is not None else None
    if before is not None and before.op_type == "Reshape":
        node.replace_input_with(0, before.inputs[0])


def _lengths(shape: ir.Value) -> list[int] | None:
    """The lengths a shape consists of, -1 for each that is computed; None if that can't be told."""
    if shape.const_value is not None:
        return [int(length) for length in shape.const_value.numpy()]
    concat = shape.producer()
    if concat is None or concat.op_type != "Concat":
        return None
    lengths: list[int] = []
    for part in concat.inputs:
        if part is None:
            return None
        # torch.onnx joins shapes from constants and from single lengths.
        lengths += [-1] if part.const_value is None else [int(n) for n in part.const_value.numpy()]
    return lengths


def _merge_transpose(_: ir.Model, node: ir.Node) -> None:
    """Make one Transpose of two in a row."""
    before = node.inputs[0].producer() if node.inputs[0] is not None else None
    if before is None or before.op_type != "Transpose":
        return
    first, second = (list(n.attributes["perm"].as_ints()) for n in (before, node))
    node.replace_input_with(0, before.inputs[0])
    node.attributes["perm"] = ir.AttrInt64s("perm", [first[axis] for axis in second])


_RULES = {"Cast": _remove_idle_cast, "Reshape": _shorten_reshape, "Transpose": _merge_transpose}
