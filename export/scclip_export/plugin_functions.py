"""What each plug-in node computes, as a function in the ONNX file itself: any runtime can run it, and parity does.

The bodies are traced from the plain torch operations of `scclip_kernels`.
"""

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import onnx
import torch
from onnx import TensorProto, helper
from torch import Tensor, nn

from scclip_export.errors import ExportError
from scclip_kernels import (
    affinity,
    aggregate,
    calibrated_attention,
    neighbor_weights,
    outlier_indices,
    resolve,
    similarity_attention,
)
from scclip_kernels.plugin_table import NAMESPACE, PLUGINS

_SMALLEST_DISTANCE = 1e-30  # as in scclip_kernels.anomaly


def k_distance(features: Tensor, mean: Tensor, *, neighbors: int, **_: Any) -> tuple[Tensor, Tensor]:
    """(B, N, D) and its mean (B, D), float32 → distance of the k-th neighbour (B, N), neighbours (B, N, k) int32."""
    centered = features - mean.unsqueeze(1)
    norms = centered.square().sum(dim=-1)
    gram = centered @ centered.transpose(1, 2)
    distances = (norms.unsqueeze(2) + norms.unsqueeze(1) - 2.0 * gram).clamp_min(_SMALLEST_DISTANCE)
    index = torch.arange(features.shape[1])
    distances = torch.where(index.unsqueeze(0) == index.unsqueeze(1), math.inf, distances)
    nearest = torch.topk(distances, neighbors, dim=-1, largest=False, sorted=True)
    return nearest.values[..., -1], nearest.indices.int()


def anomaly_score(k_distance: Tensor, neighbors: Tensor, **_: Any) -> tuple[Tensor]:
    """(B, N) float32 and (B, N, k) int32 → scores (B, N) float32."""
    patches, count = neighbors.shape[1:]
    flat = neighbors.long().view(-1, patches * count)
    density = torch.gather(k_distance.reciprocal(), 1, flat).view(-1, patches, count)
    return (k_distance * density.mean(dim=-1),)


def resolution(
    patches: Tensor, guide: Tensor, scores: Tensor, *, columns: int, outliers: int, **_: Any
) -> tuple[Tensor, Tensor]:
    """Two (B, N, D) and scores (B, N), float32 → the two with outliers replaced."""
    index = outlier_indices(scores, outliers)
    weights = neighbor_weights(index, patches.shape[1] // columns, columns)
    return resolve(patches, index, weights), resolve(guide, index, weights)


def aggregation(
    features: Tensor, guide: Tensor, inverse_norm: Tensor, *, floor: float, **_: Any
) -> tuple[Tensor]:
    """(B, N, D), what similarities are made from (B, N, D) and (B, N) float32 → (B, N, D)."""
    return (aggregate(features, affinity(_similarity(guide, inverse_norm), floor)),)


def attention(
    key: Tensor, value: Tensor, guide: Tensor, inverse_norm: Tensor, mean: Tensor, *, heads: int, **_: Any
) -> tuple[Tensor]:
    """Two (2, B, N, D), the similarities' factors, their mean (B,) → (B, N, D)."""
    del mean  # the plain form takes it from the similarities; the kernel has none to take it from
    weights = similarity_attention(_similarity(guide, inverse_norm))
    return (calibrated_attention(key, value, weights, heads),)


def _similarity(guide: Tensor, inverse_norm: Tensor) -> Tensor:
    unit = guide * inverse_norm.unsqueeze(-1)
    return unit @ unit.transpose(1, 2)


REFERENCES: Mapping[str, Callable[..., tuple[Tensor, ...]]] = {
    "k_distance": k_distance,
    "anomaly_score": anomaly_score,
    "resolution": resolution,
    "aggregate": aggregation,
    "calibrated_attention": attention,
}


class _References(nn.Module):
    """Several references, each with its attributes fixed, side by side: one trace costs as much as another."""

    def __init__(self, attributes: Mapping[str, Mapping[str, Any]]) -> None:
        super().__init__()
        self.attributes = {name: dict(values) for name, values in attributes.items()}

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        outputs: list[Tensor] = []
        start = 0
        for name, values in self.attributes.items():
            end = start + len(PLUGINS[name].inputs)
            outputs += REFERENCES[name](*inputs[start:end], **values)
            start = end
        return tuple(outputs)


def add_functions(path: Path, *, patches: int, narrow: torch.dtype) -> None:
    """Give an encoder with plug-in nodes the functions that say what they compute, in place.

    Args:
        path: the .onnx file.
        patches: N of its fixed grid.
        narrow: dtype of the narrow tensors.

    Raises:
        ExportError: two nodes of one name differ in their attributes, so one function can't stand for both.
    """
    model = onnx.load(str(path), load_external_data=False)
    opset = next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    attributes: dict[str, dict[str, Any]] = {}
    for node in model.graph.node:
        if node.domain == NAMESPACE:
            own = {item.name: helper.get_attribute_value(item) for item in node.attribute}
            if attributes.setdefault(node.op_type, own) != own:
                raise ExportError(f"{path.name}: two {node.op_type} nodes differ: {own}")
    traced = _traced(attributes, patches=patches, narrow=narrow, opset=opset, path=path)
    model.functions.extend(_function(name, list(values), traced) for name, values in attributes.items())
    onnx.save(model, str(path))


def _traced(
    attributes: Mapping[str, Mapping[str, Any]],
    *,
    patches: int,
    narrow: torch.dtype,
    opset: int,
    path: Path,
) -> onnx.ModelProto:
    """The references of all plug-ins in one graph; its inputs and outputs are named NAME.TENSOR."""
    from scclip_export.graph import trace_function

    examples: list[Tensor] = []
    axes: list[int] = []
    for name, values in attributes.items():
        examples += _examples(name, values, patches, narrow)
        axes += [1 if tensor in ("key", "value") else 0 for tensor in PLUGINS[name].inputs]
    return trace_function(
        _References(attributes),
        tuple(examples),
        axes,
        opset=opset,
        input_names=[f"{name}.{tensor}" for name in attributes for tensor in PLUGINS[name].inputs],
        output_names=[f"{name}.{tensor}" for name in attributes for tensor in _outputs(name)],
        name=f"{path.name}: its plug-ins",
    )


def _outputs(name: str) -> list[str]:
    return [output.name for output in PLUGINS[name].outputs if output.name != "scratch"]


def _examples(name: str, attributes: Mapping[str, Any], patches: int, narrow: torch.dtype) -> list[Tensor]:
    plugin, batch = PLUGINS[name], 3
    dtypes = {"wide": torch.float32, "narrow": narrow, "int": torch.int32}
    width, neighbors = attributes.get("width", 1), attributes.get("neighbors", 1)
    shapes = {
        "mean": (batch, width) if name == "k_distance" else (batch,),
        "neighbors": (batch, patches, neighbors),
        "key": (2, batch, patches, width),
        "value": (2, batch, patches, width),
        **dict.fromkeys(("features", "patches", "guide"), (batch, patches, width)),
    }
    return [
        torch.zeros(shapes.get(tensor, (batch, patches)), dtype=dtypes[kind])
        for tensor, kind in plugin.inputs.items()
    ]


def _function(name: str, attributes: list[str], traced: onnx.ModelProto) -> onnx.FunctionProto:
    """One plug-in's part of a traced graph; its constants become nodes, as functions have no initializers."""
    graph = traced.graph
    outputs = [f"{name}.{tensor}" for tensor in _outputs(name)]
    needed = set(outputs)
    nodes: list[onnx.NodeProto] = []
    for node in reversed(graph.node):
        if needed & set(node.output):
            needed |= set(node.input)
            nodes.insert(0, node)
    constants = []
    for tensor in graph.initializer:
        if tensor.name in needed:
            value = TensorProto()
            value.CopyFrom(tensor)
            constants.append(helper.make_node("Constant", [], [tensor.name], value=value))
    return helper.make_function(
        NAMESPACE,
        name,
        [f"{name}.{tensor}" for tensor in PLUGINS[name].inputs],
        outputs,
        [*constants, *nodes],
        [entry for entry in traced.opset_import if entry.domain in ("", "ai.onnx")],
        attributes=attributes,
    )
