"""Lowering a model's opset: older runtimes refuse files of newer ones.

`onnx.version_converter` has no way down for several of these operators, so each change of form is a pass here. What a
pass does not cover is found from onnx's own tables and refused by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from scclip_rt.baking.library import load_onnx
from scclip_rt.baking.nodes import Nodes
from scclip_rt.errors import OptionError

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

Constants = Mapping[str, NDArray[Any]]


def opset_of(model: ModelProto) -> int:
    """The version of the default domain."""
    return next(int(entry.version) for entry in model.opset_import if entry.domain in ("", "ai.onnx"))


def lower_opset(model: ModelProto, opset: int) -> None:
    """Write a model in the forms of an older opset, in place.

    Raises:
        OptionError: it is newer than the model's own, or an operator has no such form here; says which.
    """
    onnx = load_onnx()
    current = opset_of(model)
    if opset > current:
        raise OptionError(
            f"the encoder has opset {current}, and {opset} was asked for; ask for {current} or less",
            field="opset",
        )
    small = {item.name: item for item in model.graph.initializer if len(item.dims) <= 1}
    constants = {
        name: onnx.numpy_helper.to_array(item) for name, item in small.items() if not item.external_data
    }
    nodes: list[NodeProto] = []
    for node in model.graph.node:
        replacement = [node]
        if opset < 18 and node.op_type.startswith("Reduce"):
            axes_as_attribute(node, constants)
        if opset < 18 and node.op_type == "Split":
            parts_uncounted(node)
        if opset < 20 and node.op_type == "Gelu":
            replacement = gelu_written_out(node, model)
        for part in replacement:
            _check_form(part, current, opset)
        nodes += replacement
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    for entry in model.opset_import:
        if entry.domain in ("", "ai.onnx"):
            entry.version = opset


def axes_as_attribute(node: NodeProto, constants: Constants) -> None:
    """Before opset 18 a reduction's axes are an attribute (ReduceSum's are an input since 13)."""
    onnx = load_onnx()
    if node.op_type == "ReduceSum" or len(node.input) < 2:
        return
    axes = constants.get(node.input[1])
    if axes is None:
        raise OptionError(f"{node.op_type} {node.name!r} has computed axes, which opset 17 doesn't know")
    kept = [item for item in node.attribute if item.name not in ("noop_with_empty_axes", "axes")]
    del node.attribute[:]
    node.attribute.extend([*kept, onnx.helper.make_attribute("axes", [int(axis) for axis in axes])])
    del node.input[1:]


def parts_uncounted(node: NodeProto) -> None:
    """Before opset 18 Split has no `num_outputs`: it counts its outputs, and refuses to run where parts differ."""
    kept = [item for item in node.attribute if item.name != "num_outputs"]
    del node.attribute[:]
    node.attribute.extend(kept)


def gelu_written_out(node: NodeProto, model: ModelProto) -> list[NodeProto]:
    """Gelu (opset 20) as x/2 · (1 + erf(x / √2)), or its tanh form."""
    onnx = load_onnx()
    form = {item.name: onnx.helper.get_attribute_value(item) for item in node.attribute}
    nodes, value = Nodes(f"{node.output[0]}/"), node.input[0]
    if form.get("approximate", b"none") == b"tanh":
        cubed = nodes("Mul", nodes("Mul", value, value), value)
        inner = nodes("Add", value, nodes("Mul", cubed, nodes.floats(0.044715)))
        bent = nodes("Tanh", nodes("Mul", inner, nodes.floats(np.sqrt(2 / np.pi))))
    else:
        bent = nodes("Erf", nodes("Mul", value, nodes.floats(np.sqrt(0.5))))
    half = nodes("Mul", value, nodes.floats(0.5))
    nodes("Mul", half, nodes("Add", bent, nodes.floats(1)), output=node.output[0])
    model.graph.initializer.extend(nodes.constants)
    return nodes.nodes


def _check_form(node: NodeProto, current: int, opset: int) -> None:
    """Drop attributes that are new and say nothing; refuse what the older opset can't say."""
    onnx = load_onnx()
    if node.domain not in ("", "ai.onnx"):
        raise OptionError(f"{node.domain}.{node.op_type} is no operator of ONNX; take another precision")
    try:
        old = onnx.defs.get_schema(node.op_type, opset)
    except onnx.defs.SchemaError as error:
        raise OptionError(
            f"{node.op_type} is not in opset {opset}; ask for a newer one (--opset)", field="opset"
        ) from error
    new = onnx.defs.get_schema(node.op_type, current)
    kept = []
    for item in node.attribute:
        if item.name in old.attributes:
            kept.append(item)
            continue
        default = new.attributes[item.name].default_value if item.name in new.attributes else None
        if default is None or onnx.helper.get_attribute_value(item) != _value(default):
            raise OptionError(
                f"{node.op_type} has {item.name!r}, which opset {opset} doesn't know; ask for a newer one (--opset)",
                field="opset",
            )
    if len(kept) != len(node.attribute):
        del node.attribute[:]
        node.attribute.extend(kept)
    variadic = old.inputs and old.inputs[-1].option == onnx.defs.OpSchema.FormalParameterOption.Variadic
    if not variadic and any(node.input[len(old.inputs) :]):
        raise OptionError(
            f"{node.op_type} has {len(node.input)} inputs, and {len(old.inputs)} in opset {opset}; ask for a newer one "
            "(--opset)",
            field="opset",
        )


def _value(attribute: Any) -> Any:
    return load_onnx().helper.get_attribute_value(attribute)
