"""The baked graph: pixels, windows, the bundle's encoder, its text as a constant, and the decode."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from scclip_rt.baking.library import load_onnx
from scclip_rt.baking.maps import Maps
from scclip_rt.baking.nodes import Nodes
from scclip_rt.baking.opset import lower_opset
from scclip_rt.baking.options import BakeOptions
from scclip_rt.baking.pixels import windows_of
from scclip_rt.decode.plan import DecodePlan, label_type
from scclip_rt.decode.settings import DecodeSettings
from scclip_rt.image.geometry import Tiling

if TYPE_CHECKING:
    from onnx import ModelProto, ValueInfoProto

IMAGE = "image"
_TEXT, _CELLS = "bake/text", "bake/cells"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Ingredients:
    """What a baked graph is made of.

    Attributes:
        size: (height, width) of the image.
        tiling: how it is resized and cut.
        plan: how the windows' logits become maps of `size`.
        settings: classes, scale and thresholds.
        text: (Q, E) float32.
        class_row: whether the encoder gives a class row before the patches (CLIP Surgery).
        class_weights: whether queries are weighted by it.
    """

    size: tuple[int, int]
    tiling: Tiling
    plan: DecodePlan
    settings: DecodeSettings
    text: NDArray[np.float32]
    class_row: bool
    class_weights: bool


def baked_model(encoder: ModelProto, parts: Ingredients, options: BakeOptions) -> ModelProto:
    """Join an encoder with what comes before and after it.

    Args:
        encoder: a bundle's, with its weights; it is changed.
        parts: the rest.
        options: the form of the file.

    Returns:
        The model: `image` in, one tensor called `options.result` out.
    """
    onnx = load_onnx()
    before, after = Nodes("bake/pixels/"), Nodes("bake/maps/")
    windows = windows_of(before, IMAGE, pixels=options.pixels, size=parts.size, tiling=parts.tiling)
    scaled = parts.settings.maps == "cosine" and not parts.class_weights
    text = parts.text * np.float32(parts.settings.logit_scale) if scaled else parts.text
    _feed_windows(encoder, windows)
    _feed_text(encoder, text)
    _rename(encoder, {"logits": _CELLS})  # the name may be the result's
    cells = _CELLS
    if parts.class_row:
        rows, columns = parts.plan.grid
        cells = after.slice(cells, 1, rows * columns + 1, 1)
    if parts.class_weights:
        cells = _weighted(after, cells, parts)
    maps = Maps(plan=parts.plan, settings=parts.settings, scaled=scaled)
    result = maps.result(after, cells, options.result)
    after("Identity", result, output=options.result)
    graph = onnx.helper.make_graph(
        [*before.nodes, *encoder.graph.node, *after.nodes],
        "scclip",
        [_image(parts.size, options)],
        [_result(parts, options)],
        initializer=[*encoder.graph.initializer, *before.constants, *after.constants],
    )
    model: ModelProto = onnx.helper.make_model(
        graph, opset_imports=list(encoder.opset_import), ir_version=options.ir, producer_name="scclip-rt"
    )
    lower_opset(model, options.opset)
    _remove_unused(model)
    return model


def _feed_windows(encoder: ModelProto, windows: str) -> None:
    """Let the encoder read float windows: its own cast from bytes goes where it made float32."""
    float32 = load_onnx().TensorProto.FLOAT
    idle = {}
    for node in list(encoder.graph.node):
        if node.op_type == "Cast" and node.input[0] == "windows" and node.attribute[0].i == float32:
            idle[node.output[0]] = windows
            encoder.graph.node.remove(node)
    _rename_inputs(encoder, {"windows": windows, **idle})


def _feed_text(encoder: ModelProto, text: NDArray[np.float32]) -> None:
    """Make the queries a constant, turned already where the encoder turns them."""
    onnx = load_onnx()
    for node in list(encoder.graph.node):
        if node.op_type == "Transpose" and node.input[0] == "text":
            turned = onnx.numpy_helper.from_array(np.ascontiguousarray(text.T), node.output[0])
            encoder.graph.initializer.append(turned)
            encoder.graph.node.remove(node)
    if any("text" in node.input for node in encoder.graph.node):
        encoder.graph.initializer.append(onnx.numpy_helper.from_array(text, _TEXT))
        _rename_inputs(encoder, {"text": _TEXT})


def _weighted(nodes: Nodes, cells: str, parts: Ingredients) -> str:
    """Patches' logits times their query's weight (docs/bundle.md, "Class weights")."""
    (down, across), (rows, columns) = parts.plan.windows, parts.plan.grid
    windows, queries = down * across, len(parts.text)
    tokens = nodes.slice("features", 0, 1, 1)
    tokens = nodes.reshape(tokens, (-1, windows, parts.text.shape[1]))
    mean = nodes.reduce("ReduceMean", tokens, (1,), keep=False)
    squares = nodes.reduce("ReduceSum", nodes("Mul", mean, mean), (1,))
    length = nodes("Max", nodes("Sqrt", squares), nodes.floats(1e-12))
    scores = nodes("MatMul", nodes("Div", mean, length), nodes.floats(2 * parts.text.T))
    # The softmax's mean over Q queries is 1 / Q.
    weights = nodes("Mul", nodes("Softmax", scores, axis=1), nodes.floats(queries))
    by_image = nodes.reshape(cells, (-1, windows, rows * columns, queries))
    weighted = nodes("Mul", by_image, nodes.reshape(weights, (-1, 1, 1, queries)))
    return nodes.reshape(weighted, (-1, rows * columns, queries))


def _rename(model: ModelProto, names: dict[str, str]) -> None:
    """Give tensors other names, wherever they are written or read."""
    for node in model.graph.node:
        node.output[:] = [names.get(name, name) for name in node.output]
    _rename_inputs(model, names)


def _rename_inputs(model: ModelProto, names: dict[str, str]) -> None:
    for node in model.graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]


def _image(size: tuple[int, int], options: BakeOptions) -> ValueInfoProto:
    onnx = load_onnx()
    batch = options.batch or "batch"
    info: ValueInfoProto = (
        onnx.helper.make_tensor_value_info(IMAGE, onnx.TensorProto.UINT8, [batch, *size, 3])
        if options.channels_last
        else onnx.helper.make_tensor_value_info(IMAGE, onnx.TensorProto.FLOAT, [batch, 3, *size])
    )
    return info


def _result(parts: Ingredients, options: BakeOptions) -> ValueInfoProto:
    onnx = load_onnx()
    batch, number = options.batch or "batch", parts.settings.num_classes
    labels = options.result == "labels"
    dtype = np.dtype(label_type(number)[0] if labels else np.float32)
    info: ValueInfoProto = onnx.helper.make_tensor_value_info(
        options.result,
        onnx.helper.np_dtype_to_tensor_dtype(dtype),
        [batch, *(() if labels else (number,)), *parts.size],
    )
    return info


def _remove_unused(model: ModelProto) -> None:
    """Drop nodes and constants that nothing leads to: the encoder's other outputs."""
    wanted = {output.name for output in model.graph.output}
    kept = []
    for node in reversed(model.graph.node):
        if wanted.intersection(node.output):
            kept.append(node)
            wanted.update(node.input)
    constants = [item for item in model.graph.initializer if item.name in wanted]
    del model.graph.node[:], model.graph.initializer[:]
    model.graph.node.extend(reversed(kept))
    model.graph.initializer.extend(constants)
