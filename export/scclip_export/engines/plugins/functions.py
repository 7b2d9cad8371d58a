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
    aggregate,
    merge_heads,
    neighbor_weights,
    outlier_indices,
    repair,
    scaled_attention,
    similarity_attention,
    similarity_weights,
    split_heads,
)
from scclip_kernels.plugins.table import NAMESPACE, PLUGINS

_SMALLEST_DISTANCE = 1e-30  # as in scclip_kernels.anomaly


def halves(features: Tensor, **_: Any) -> tuple[Tensor, Tensor, Tensor]:
    """(B, N, D) float32 → rows over powers of two, in halves (B, N, 2, D) float16; the powers; squared norms."""
    square = features.square().sum(dim=-1)
    exponent = torch.floor(torch.log2(square.sqrt().clamp_min(1e-18)))
    scale = torch.pow(2.0, exponent - 11.0)
    rows = features / scale.unsqueeze(-1)
    high = rows.half()
    return torch.stack([high, (rows - high.float()).half()], dim=2), scale, square


def k_distance(
    pair: Tensor, scale: Tensor, square: Tensor, *, neighbors: int, **_: Any
) -> tuple[Tensor, Tensor]:
    """Halves of centred rows → distance of the k-th neighbour (B, N), neighbours (B, N, k) int32."""
    centered = _rows(pair, scale)
    gram = centered @ centered.transpose(1, 2)
    distances = (square.unsqueeze(2) + square.unsqueeze(1) - 2.0 * gram).clamp_min(_SMALLEST_DISTANCE)
    index = torch.arange(square.shape[1])
    distances = torch.where(index.unsqueeze(0) == index.unsqueeze(1), math.inf, distances)
    nearest = torch.topk(distances, neighbors, dim=-1, largest=False, sorted=True)
    return nearest.values[..., -1], nearest.indices.int()


def anomaly_score(k_distance: Tensor, neighbors: Tensor, **_: Any) -> tuple[Tensor]:
    """(B, N) float32 and (B, N, k) int32 → scores (B, N) float32."""
    patches, count = neighbors.shape[1:]
    flat = neighbors.long().view(-1, patches * count)
    density = torch.gather(k_distance.reciprocal(), 1, flat).view(-1, patches, count)
    return (k_distance * density.mean(dim=-1),)


def outlier_repair(
    patches: Tensor, guide: Tensor, scores: Tensor, *, columns: int, outliers: int, **_: Any
) -> tuple[Tensor, Tensor]:
    """Two (B, N, D) and scores (B, N), float32 → the two with outliers replaced."""
    index = outlier_indices(scores, outliers)
    weights = neighbor_weights(index, patches.shape[1], columns)
    return repair(patches, index, weights), repair(guide, index, weights)


def aggregation(
    features: Tensor, pair: Tensor, scale: Tensor, square: Tensor, *, floor: float, **_: Any
) -> tuple[Tensor]:
    """(B, N, D) and the halves that similarities are made from → (B, N, D)."""
    return (aggregate(features, similarity_weights(_similarity(pair, scale, square), floor)),)


def attend_by_key(key: Tensor, value: Tensor, *, heads: int, **_: Any) -> tuple[Tensor, Tensor]:
    """Two (2, B, N, D) → half of both passes' attention by key, summed, and the sum of values, (B, N, D)."""
    patches, width = key.shape[2:]
    keys, values = (split_heads(x.view(-1, patches, width), heads) for x in (key, value))
    attended = merge_heads(scaled_attention(keys * keys.shape[-1] ** -0.5, keys, values))
    # Not value.sum(dim=0): torch.onnx (2.14) loses the cast back from the float32 that it sums float16 in.
    return 0.5 * attended.view(2, -1, patches, width).sum(dim=0), value[0] + value[1]


def attend_by_similarity(
    value: Tensor, pair: Tensor, scale: Tensor, square: Tensor, mean: Tensor, by_key: Tensor, **_: Any
) -> tuple[Tensor]:
    """(B, N, D), halves, the mean similarity (B,) and attention by key (B, N, D) → (B, N, D)."""
    del mean  # the plain form takes it from the similarities; the kernel has none to take it from
    weights = similarity_attention(_similarity(pair, scale, square))
    return (0.5 * (weights.to(value.dtype) @ value) + by_key,)


def _rows(pair: Tensor, scale: Tensor) -> Tensor:
    """Halves back to rows: float32, or float64 where they were made that for an oracle."""
    wide = pair.to(scale.dtype)
    return (wide[:, :, 0] + wide[:, :, 1]) * scale.unsqueeze(-1)


def _similarity(pair: Tensor, scale: Tensor, square: Tensor) -> Tensor:
    unit = _rows(pair, scale / square.sqrt().clamp_min(1e-12))
    return unit @ unit.transpose(1, 2)


REFERENCES: Mapping[str, Callable[..., tuple[Tensor, ...]]] = {
    "halves": halves,
    "k_distance": k_distance,
    "anomaly_score": anomaly_score,
    "outlier_repair": outlier_repair,
    "aggregate": aggregation,
    "attend_by_key": attend_by_key,
    "attend_by_similarity": attend_by_similarity,
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
    from scclip_export.onnx.trace import trace_function

    examples: list[Tensor] = []
    axes: list[int] = []
    for name, values in attributes.items():
        examples += _examples(name, values, patches, narrow)
        axes += [PLUGINS[name].axes[0]] * len(PLUGINS[name].inputs)
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
    dtypes = {"wide": torch.float32, "half": torch.float16, "narrow": narrow, "int": torch.int32}
    width, neighbors = attributes.get("width", 1), attributes.get("neighbors", 1)
    tokens = (batch, patches, width)
    shapes = {
        "mean": (batch,),
        "neighbors": (batch, patches, neighbors),
        "pair": (batch, patches, 2, width),
        "key": (2, *tokens),
        "value": (2, *tokens) if name == "attend_by_key" else tokens,
        **dict.fromkeys(("features", "patches", "guide", "by_key"), tokens),
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
