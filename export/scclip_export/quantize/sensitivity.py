"""What each layer costs: features when only it is int8, measured on the graph itself."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper, numpy_helper

from scclip_export.quantize.layers import Layer, Product, find_layers
from scclip_export.quantize.options import Progress
from scclip_export.quantize.plan import Plan
from scclip_export.quantize.rewrite import constants, int8_product, quantize_input, rescale
from scclip_rt.backends.onnxruntime.session import cpu_session

WINDOWS = 4
_ALL = "all int8 layers"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sensitivity:
    """How far unit features move, root mean square over patches: 0 is not at all, √2 to something unrelated.

    Attributes:
        alone: by layer, when only it is int8.
        together: when every layer is that the plan makes int8.
    """

    alone: Mapping[str, float]
    together: float


def measure_sensitivity(
    source: Path,
    plan: Plan,
    windows: NDArray[np.uint8],
    progress: Progress,
    *,
    only: Collection[str] | None = None,
) -> Sensitivity:
    """Run the encoder once per layer, with only that layer in int8; the layers that stay float are tried as well.

    One session serves all: every product is an `If` between its float and its int8 form, whose flag is an input.

    Args:
        source: the float32 encoder that the plan was made on.
        plan: what to try.
        windows: uint8 (W, H, W, 3); the first `WINDOWS` are used.
        progress: is told of the start.
        only: layers to measure by themselves; None: all.
    """
    layers = find_layers(onnx.load(str(source), load_external_data=False))
    session = cpu_session(switchable(source, plan).SerializeToString(), weights=source.parent)
    embed = next(value.shape[1] for value in session.get_inputs() if value.name == "text")
    feeds: dict[str, NDArray[Any]] = {
        "windows": windows[:WINDOWS],
        "text": np.eye(1, embed, dtype=np.float32),
    }

    def features(on: set[str]) -> NDArray[np.float32]:
        flags = {_flag(layer): np.array(layer.name in on) for layer in layers}
        out: NDArray[np.float32] = session.run(["features"], feeds | flags)[0]
        return out

    names = [layer.name for layer in layers if only is None or layer.name in only]
    progress(f"measuring the sensitivity of {len(names)} layers on {len(feeds['windows'])} windows")
    exact = features(set())
    alone = {name: _moved(features({name}), exact) for name in names}
    together = {layer.name for layer in layers} - set(plan.float_layers)
    return Sensitivity(alone=alone, together=_moved(features(together), exact))


def _moved(got: NDArray[np.float32], exact: NDArray[np.float32]) -> float:
    return float(np.sqrt(np.square(got - exact).sum(axis=-1).mean()))


def _flag(layer: Layer) -> str:
    return f"{layer.name}.is_int8"


def switchable(source: Path, plan: Plan) -> ModelProto:
    """Return the encoder with a boolean input `NAME.is_int8` per product; weights are inside."""
    model = onnx.load(str(source))
    layers = find_layers(model)
    arrays = rescale(model, layers, plan)
    graph = model.graph
    for tensor in graph.initializer:
        if tensor.name in arrays:
            tensor.CopyFrom(numpy_helper.from_array(arrays[tensor.name].astype(np.float32), tensor.name))
    for layer in layers:
        graph.initializer.extend(constants(layer, plan.layers[layer.name].quantized, arrays))
        graph.input.append(helper.make_tensor_value_info(_flag(layer), TensorProto.BOOL, []))
    switches = {part.node: _switch(model, layer, part) for layer in layers for part in layer.products}
    for index, switch in switches.items():
        graph.node[index].CopyFrom(switch)
    return model


def _switch(model: ModelProto, layer: Layer, part: Product) -> onnx.NodeProto:
    """An If with the product as it is and in int8; after a MatMul, `tune`'s shift of the bias is left out."""
    wide = onnx.NodeProto()
    wide.CopyFrom(model.graph.node[part.node])
    output = wide.output[0]
    wide.output[0] = f"{part.name}.wide"
    narrow = [*quantize_input(layer), *int8_product(layer, part, f"{part.name}.narrow")]
    branches = {
        key: helper.make_graph(
            nodes,
            f"{part.name}.{key}",
            [],
            [helper.make_tensor_value_info(f"{part.name}.{result}", TensorProto.FLOAT, None)],
        )
        for key, nodes, result in (("then_branch", narrow, "narrow"), ("else_branch", [wide], "wide"))
    }
    return helper.make_node("If", [_flag(layer)], [output], f"{part.name}.switch", **branches)


def sensitivity_table(plan: Plan, measured: Sensitivity | None = None) -> str:
    """Return the layers as a table, the most sensitive first.

    Columns: share of the multiplications, relative error of the layer's own output, how far the features move when only
    it is int8 (where that was measured), and what it became.
    """
    lines = [f"{'layer':<22} {'cost':>6} {'output error':>13} {'features move':>14}  becomes"]
    layers = sorted(
        plan.layers.values(),
        key=lambda layer: -(measured.alone.get(layer.name, 0.0) if measured else layer.quantized.error),
    )
    for layer in layers:
        moved = f"{measured.alone[layer.name]:.4f}" if measured and layer.name in measured.alone else "-"
        became = f"float32 ({layer.keep_float})" if layer.keep_float else "int8"
        lines.append(
            f"{layer.name:<22} {layer.cost:6.1%} {layer.quantized.error:13.4f} {moved:>14}  {became}"
        )
    if measured:
        share = sum(layer.cost for layer in layers if not layer.keep_float)
        lines.append(f"{_ALL:<22} {share:6.1%} {'':>13} {measured.together:14.4f}")
    return "\n".join(lines)
