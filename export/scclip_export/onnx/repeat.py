"""Trace one transformer block of many: the others are the same operators on other weights.

Tracing takes most of an export's time, and grows with the number of operators. While a module is traced here, its first
block stands between two marks, and each block of the same form is one node that names it. Afterwards the nodes between
the marks are repeated for every such node, with that block's weights. What comes out is, node by node, what tracing
every block gives.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import onnx_ir as ir
import torch
from torch import Tensor, nn

from scclip_export.model.blocks import Block

_DOMAIN = "scclip.trace"
_Key = tuple[Any, ...]


@contextlib.contextmanager
def one_block_for_all(module: nn.Module) -> Iterator[None]:
    """While inside, `module.blocks` are traced as marks and references, which `repeat_blocks` resolves.

    Args:
        module: its `blocks`, where it has some, are called one after the other; what is no plain `Block`, or is not
            called by `forward`, is traced as it is.
    """
    blocks = {
        f"blocks.{index}": block
        for index, block in enumerate(getattr(module, "blocks", ()))
        if type(block) is Block
    }
    first: dict[_Key, str] = {}
    for name, block in blocks.items():
        block.forward = _stand_in(name, block, block.forward, first)  # type: ignore[method-assign]
        block.resume = _stand_in(name, block, block.resume, first)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for block in blocks.values():
            del block.forward, block.resume


def _stand_in(name: str, block: Block, method: Callable[..., Any], first: dict[_Key, str]) -> Any:
    """What is called in a method's place: the block between marks for the first of its form, else one node."""
    form = (method.__name__, *_form(block))

    def run(x: Tensor, length: int, mask: Tensor | None = None, *past: Tensor) -> Any:
        source = first.setdefault((*form, mask is None), name)
        inputs = (x, *past)
        if source != name:
            made = _node("Repeat", inputs, _shapes(inputs, length), block=name, source=source)
        else:
            entered = _node("Enter", inputs, [value.shape for value in inputs], block=name)
            result = method(entered[0], length, mask, *entered[1:])
            left = result if past else (result,)
            made = _node("Leave", left, [value.shape for value in left], block=name)
        return tuple(made) if past else made[0]

    return run


def _shapes(inputs: tuple[Tensor, ...], length: int) -> list[Any]:
    """Of a block's results: the tokens, and where it is resumed the keys and values of those alone."""
    return [
        inputs[0].shape,
        *((batch, heads, length, width) for batch, heads, _, width in (x.shape for x in inputs[1:])),
    ]


def _form(block: Block) -> _Key:
    """What two blocks must have in common to be the same operators: everything but the numbers of their weights."""
    tensors = [(name, tuple(x.shape), x.dtype) for name, x in block.state_dict().items()]
    settings = (block.num_heads, block.policy, block.attend, block.ln_1.eps, block.ln_2.eps)
    return (*tensors, *settings, repr(block.activation), type(block.ln_1), type(block.ln_2))


def _node(kind: str, inputs: Sequence[Tensor], shapes: Sequence[Any], **attributes: Any) -> Sequence[Tensor]:
    return torch.onnx.ops.symbolic_multi_out(
        f"{_DOMAIN}::{kind}",
        inputs,
        attributes,
        dtypes=[value.dtype for value in inputs],
        shapes=shapes,
        version=1,
    )


def repeat_blocks(model: ir.Model, weights: nn.Module) -> None:
    """Put the operators of the marked block in every reference's place, in place.

    Args:
        model: traced inside `one_block_for_all`, not optimised yet.
        weights: the module that was traced.
    """
    marks = {
        (node.op_type, node.attributes["block"].as_string()): node
        for node in model.graph
        if node.domain == _DOMAIN
    }
    regions = {
        name: _between(node, marks["Leave", name], name)
        for (kind, name), node in marks.items()
        if kind == "Enter"
    }
    tensors = dict(weights.named_parameters()) | dict(weights.named_buffers())
    for (kind, name), node in marks.items():
        if kind != "Repeat":
            continue
        source = node.attributes["source"].as_string()
        values: dict[Any, ir.Value | None] = dict(
            zip(marks["Enter", source].outputs, node.inputs, strict=True)
        )
        copies = [_copy(model, old, values, (source, name), tensors) for old in regions[source]]
        model.graph.insert_before(node, copies)
        _replace(node.outputs, [values[value] for value in marks["Leave", source].inputs])
    for node in marks.values():
        if node.op_type != "Repeat":
            _replace(node.outputs, node.inputs)
        model.graph.remove(node, safe=True)


def _replace(values: Sequence[ir.Value], by: Sequence[ir.Value | None]) -> None:
    for value, other in zip(values, by, strict=True):
        assert other is not None
        if value.is_graph_output():  # outputs keep their names
            value.name, other.name = f"{value.name}.mark", value.name
        ir.convenience.replace_all_uses_with(value, other, replace_graph_outputs=True)


def _between(enter: ir.Node, leave: ir.Node, name: str) -> list[ir.Node]:
    """The nodes that the block's results come from, in order: those that its inputs or its weights reach.

    The others (lengths, the mask) are the same for every block.
    """
    inside: dict[ir.Node, bool] = {enter: True}

    def is_inside(value: ir.Value | None) -> bool:
        if value is None:
            return False
        node = value.producer()
        if node is None:
            return str(value.name).startswith(f"{name}.")
        return inside[node]

    found = []
    assert enter.graph is not None
    for node in enter.graph:  # torch.onnx writes graphs in topological order
        if node is leave:
            break
        if node is not enter:
            inside[node] = any(map(is_inside, node.inputs))
            if inside[node]:
                found.append(node)
    needed, kept = set(leave.inputs), []
    for node in reversed(found):
        if needed.intersection(node.outputs):
            needed.update(node.inputs)
            kept.append(node)
    return kept[::-1]


def _copy(
    model: ir.Model,
    node: ir.Node,
    values: dict[Any, ir.Value | None],
    names: tuple[str, str],
    tensors: dict[str, Tensor],
) -> ir.Node:
    """A node of the marked block for another block; `values` maps what was copied so far, and is added to."""
    for value in node.inputs:
        if value is not None and value not in values and str(value.name).startswith(f"{names[0]}."):
            values[value] = _weight(model, value, str(value.name).replace(*names, 1), tensors)
    outputs = [
        ir.Value(name=f"{names[1]}.{old.name}", type=old.type, shape=old.shape) for old in node.outputs
    ]
    copy = ir.Node(
        node.domain,
        node.op_type,
        [values.get(value, value) for value in node.inputs],
        list(node.attributes.values()),
        overload=node.overload,
        outputs=outputs,
        version=node.version,
        name=f"{names[1]}.{node.name}",
    )
    values.update(zip(node.outputs, outputs, strict=True))
    return copy


def _weight(model: ir.Model, like: ir.Value, name: str, tensors: dict[str, Tensor]) -> ir.Value:
    """The initializer of another block's weight."""
    if name in model.graph.initializers:
        return model.graph.initializers[name]
    tensor = ir.tensor_adapters.TorchTensor(tensors[name], name=name)
    value = ir.Value(name=name, type=like.type, shape=like.shape, const_value=tensor)
    model.graph.register_initializer(value)
    return value
