"""A baked graph as a torch module, for engines that read torch programs.

Only the forms that a baked float32 file of opset 17 to 23 has are known; another operator is refused by name.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from scclip_rt.baking.library import load_onnx
from scclip_rt.errors import BackendError


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """One operator of a graph.

    Attributes:
        kind: ONNX's name of it.
        inputs: tensors' names; empty for one that is left out.
        outputs: the same.
        attributes: by their names.
        constants: of the inputs that are known now, the values.
    """

    kind: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: dict[str, Any]
    constants: dict[str, NDArray[Any]]

    def has(self, place: int) -> bool:
        """Whether that input is given."""
        return place < len(self.inputs) and bool(self.inputs[place])

    def integers(self, place: int, name: str = "") -> list[int] | None:
        """What an input, or in older opsets an attribute, holds: axes, shapes, places."""
        if name in self.attributes:
            return [int(item) for item in self.attributes[name]]
        if not self.has(place):
            return None
        return [int(item) for item in np.atleast_1d(self._known(place))]

    def number(self, place: int) -> float | None:
        """The single number of an input."""
        return float(self._known(place).reshape(())) if self.has(place) else None

    def _known(self, place: int) -> NDArray[Any]:
        try:
            return self.constants[self.inputs[place]]
        except KeyError:
            raise BackendError(f"{self.kind} {self.outputs[0]!r} reads a computed shape") from None


class BakedModule(nn.Module):
    """`forward(image)` gives what the graph's only output gives.

    Args:
        path: a file that `scclip bake` wrote with a fixed batch and an fp32 encoder, weights inside.

    Raises:
        BackendError: an open batch, or an operator that is not known here.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        onnx = load_onnx()
        graph = onnx.load(str(path)).graph
        image = graph.input[0].type.tensor_type
        lengths = [dim.dim_value for dim in image.shape.dim]
        if 0 in lengths:
            raise BackendError("this format has fixed shapes: bake with --batch 1")
        unknown = sorted({node.op_type for node in graph.node} - _OPERATORS.keys())
        if unknown:
            raise BackendError(
                f"no torch form here for {', '.join(unknown)}; bake an fp32 encoder, and keep weights small with "
                "--weights"
            )
        self.shape = tuple(lengths)
        self.dtype = torch.uint8 if image.elem_type == onnx.TensorProto.UINT8 else torch.float32
        self._image, self._result = graph.input[0].name, graph.output[0].name
        values = {item.name: onnx.numpy_helper.to_array(item) for item in graph.initializer}
        self._buffer: dict[str, str] = {}
        for index, (name, value) in enumerate(values.items()):
            self._buffer[name] = f"constant_{index}"
            self.register_buffer(self._buffer[name], torch.from_numpy(value.copy()))
        self._nodes = [
            Node(
                kind=node.op_type,
                inputs=tuple(node.input),
                outputs=tuple(node.output),
                attributes={item.name: onnx.helper.get_attribute_value(item) for item in node.attribute},
                constants={name: values[name] for name in node.input if name in values},
            )
            for node in graph.node
        ]
        self.eval()

    def example(self) -> Tensor:
        """An image batch of the right shape and dtype, grey."""
        return torch.full(self.shape, 0.5).to(self.dtype)

    def forward(self, image: Tensor) -> Tensor:
        """Run the graph.

        Args:
            image: as the baked file has it.

        Returns:
            The result, as the baked file has it.
        """
        found = {self._image: image}
        for node in self._nodes:
            given = [
                found[name] if name in found else getattr(self, self._buffer[name]) if name else None
                for name in node.inputs
            ]
            results = _OPERATORS[node.kind](node, *given)
            several = results if isinstance(results, tuple) else (results,)
            found |= dict(zip(node.outputs, several, strict=False))
        return found[self._result]


def _clip(node: Node, value: Tensor, *_: Tensor | None) -> Tensor:
    return value.clamp(node.number(1), node.number(2))


def _slice(node: Node, value: Tensor, *_: Tensor | None) -> Tensor:
    starts, stops = node.integers(1) or [], node.integers(2) or []
    axes, steps = node.integers(3) or range(len(starts)), node.integers(4) or [1] * len(starts)
    for axis, start, stop, step in zip(axes, starts, stops, steps, strict=True):
        value = torch.ops.aten.slice.Tensor(value, axis, start, min(stop, value.shape[axis]), step)
    return value


def _unsqueeze(node: Node, value: Tensor, *_: Tensor | None) -> Tensor:
    axes = node.integers(1) or []
    rank = value.ndim + len(axes)
    for axis in sorted(axis % rank for axis in axes):
        value = value.unsqueeze(axis)
    return value


def _squeeze(node: Node, value: Tensor, *_: Tensor | None) -> Tensor:
    for axis in sorted((axis % value.ndim for axis in node.integers(1) or []), reverse=True):
        value = value.squeeze(axis)
    return value


def _reshape(node: Node, value: Tensor, *_: Tensor | None) -> Tensor:
    shape = node.integers(1) or []
    if not node.attributes.get("allowzero", 0):
        shape = [value.shape[place] if length == 0 else length for place, length in enumerate(shape)]
    return value.reshape(shape)


def _expand(node: Node, value: Tensor, *_: Tensor | None) -> Tensor:
    return value.expand(torch.broadcast_shapes(tuple(node.integers(1) or ()), value.shape))


def _gemm(node: Node, left: Tensor, right: Tensor, bias: Tensor | None = None) -> Tensor:
    attributes = node.attributes
    if attributes.get("transA", 0) or {attributes.get("alpha", 1.0), attributes.get("beta", 1.0)} != {1.0}:
        raise BackendError(f"Gemm {node.outputs[0]!r} has factors or a transposed input")
    return F.linear(left, right if attributes.get("transB", 0) else right.T, bias)


def _layer_norm(node: Node, value: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    return F.layer_norm(value, weight.shape, weight, bias, node.attributes.get("epsilon", 1e-5))


def _reduction(
    operation: Callable[[Tensor, list[int], bool], Tensor],
) -> Callable[..., Tensor]:
    def run(node: Node, value: Tensor, *_: Tensor | None) -> Tensor:
        axes = node.integers(1, "axes") or range(value.ndim)
        return operation(value, list(axes), bool(node.attributes.get("keepdims", 1)))

    return run


def _top_k(node: Node, value: Tensor, *_: Tensor | None) -> tuple[Tensor, Tensor]:
    attributes, (count,) = node.attributes, node.integers(1) or [0]
    largest, ordered = bool(attributes.get("largest", 1)), bool(attributes.get("sorted", 1))
    found = torch.topk(value, count, dim=attributes.get("axis", -1), largest=largest, sorted=ordered)
    return found.values, found.indices


def _gather(node: Node, value: Tensor, indices: Tensor) -> Tensor:
    axis = node.attributes.get("axis", 0)
    if indices.ndim == 0:
        return value.select(axis, (node.integers(1) or [0])[0])
    if indices.ndim == 1:
        return value.index_select(axis, indices)
    if axis != 0 or value.ndim != 2:
        raise BackendError(f"Gather {node.outputs[0]!r} looks up along axis {axis}")
    return F.embedding(indices, value)


def _scatter(node: Node, value: Tensor, indices: Tensor, updates: Tensor) -> Tensor:
    if node.attributes.get("reduction", b"none") != b"none":
        raise BackendError(f"ScatterElements {node.outputs[0]!r} has a reduction")
    return value.scatter(node.attributes.get("axis", 0), indices, updates)


def _cast(node: Node, value: Tensor) -> Tensor:
    kind = load_onnx().helper.tensor_dtype_to_np_dtype(node.attributes["to"])
    return value.to(getattr(torch, np.dtype(kind).name))


def _pad(node: Node, value: Tensor, *_: Tensor | None) -> Tensor:
    if node.attributes.get("mode", b"constant") != b"constant":
        raise BackendError(f"Pad {node.outputs[0]!r} repeats pixels")
    widths = node.integers(1) or []
    axes = node.integers(3) or range(value.ndim)
    before, after = [0] * value.ndim, [0] * value.ndim
    for place, axis in enumerate(axes):
        before[axis], after[axis] = widths[place], widths[place + len(axes)]
    pairs = [pair for ends in zip(reversed(before), reversed(after), strict=True) for pair in ends]
    return F.pad(value, pairs, value=node.number(2) or 0.0)


def _split(node: Node, value: Tensor, *_: Tensor | None) -> tuple[Tensor, ...]:
    axis = node.attributes.get("axis", 0)
    lengths = node.integers(1) or [value.shape[axis] // len(node.outputs)] * len(node.outputs)
    return value.split(lengths, axis)


def _extreme(operation: Callable[[Tensor, Tensor], Tensor]) -> Callable[..., Tensor]:
    def run(_: Node, first: Tensor, *rest: Tensor) -> Tensor:
        for value in rest:
            first = operation(first, value)
        return first

    return run


def _plain(operation: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """An operator that has no attributes and the same inputs in torch."""
    return lambda _node, *values: operation(*values)


def _arg_max(node: Node, value: Tensor) -> Tensor:
    return value.argmax(node.attributes.get("axis", 0), keepdim=bool(node.attributes.get("keepdims", 1)))


_OPERATORS: dict[str, Callable[..., Any]] = {
    "Abs": _plain(torch.abs),
    "Add": _plain(torch.add),
    "And": _plain(torch.logical_and),
    "ArgMax": _arg_max,
    "Cast": _cast,
    "Clip": _clip,
    "Concat": lambda node, *values: torch.cat(values, node.attributes["axis"]),
    "Div": _plain(torch.div),
    "Equal": _plain(torch.eq),
    "Erf": _plain(torch.erf),
    "Exp": _plain(torch.exp),
    "Expand": _expand,
    "Floor": _plain(torch.floor),
    "Gather": _gather,
    "GatherElements": lambda node, value, indices: value.gather(node.attributes.get("axis", 0), indices),
    "Gelu": lambda node, value: F.gelu(
        value, approximate=node.attributes.get("approximate", b"none").decode()
    ),
    "Gemm": _gemm,
    "Greater": _plain(torch.gt),
    "GreaterOrEqual": _plain(torch.ge),
    "Identity": _plain(lambda value: value),
    "LayerNormalization": _layer_norm,
    "Less": _plain(torch.lt),
    "LessOrEqual": _plain(torch.le),
    "Log": _plain(torch.log),
    "MatMul": _plain(torch.matmul),
    "Max": _extreme(torch.maximum),
    "Min": _extreme(torch.minimum),
    "Mul": _plain(torch.mul),
    "Neg": _plain(torch.neg),
    "Not": _plain(torch.logical_not),
    "Or": _plain(torch.logical_or),
    "Pad": _pad,
    "Pow": _plain(torch.pow),
    "Reciprocal": _plain(torch.reciprocal),
    "ReduceL2": _reduction(lambda value, axes, keep: (value * value).sum(axes, keepdim=keep).sqrt()),
    "ReduceMax": _reduction(lambda value, axes, keep: value.amax(axes, keepdim=keep)),
    "ReduceMean": _reduction(lambda value, axes, keep: value.mean(axes, keepdim=keep)),
    "ReduceMin": _reduction(lambda value, axes, keep: value.amin(axes, keepdim=keep)),
    "ReduceSum": _reduction(lambda value, axes, keep: value.sum(axes, keepdim=keep)),
    "Reshape": _reshape,
    "ScatterElements": _scatter,
    "Sigmoid": _plain(torch.sigmoid),
    "Slice": _slice,
    "Softmax": lambda node, value: value.softmax(node.attributes.get("axis", -1)),
    "Split": _split,
    "Sqrt": _plain(torch.sqrt),
    "Squeeze": _squeeze,
    "Sub": _plain(torch.sub),
    "Tanh": _plain(torch.tanh),
    "TopK": _top_k,
    "Transpose": lambda node, value: value.permute(node.attributes["perm"]),
    "Unsqueeze": _unsqueeze,
    "Where": _plain(torch.where),
}
"""ONNX's name → torch. Each takes its node and its inputs."""
