"""Float8 encoders: the float16 graph with e4m3 QuantizeLinear and DequantizeLinear around the big matrix products.

An e4m3 number has three bits of mantissa and 15 binades, so where a tensor lies among them matters little, and what
int8 needs (rescaled channels, tuned ranges, a scale per output channel) gains nothing (docs/precision.md has the
figures). What matters is what a builder makes of the scales. TensorRT-RTX 1.7.1 multiplies one scale of the input and
one of the weight in float32 inside the product (cuBLAS's alpha). Of a scale per output channel, or of several weights
that it joins to one product, it makes a factor of about 1e-6 in float16, behind sums in float16 that are as much
larger: they overflow. So there is one scale per input and one for all weights that share the input, each a power of
two: exact in float16, in any order.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from scclip_export.errors import ExportError
from scclip_export.quantize.layers import Layer, Product, find_layers, joint_weight
from scclip_export.quantize.observe import Observed, observe, shares_of_work, window_runs
from scclip_export.quantize.options import Progress
from scclip_export.quantize.plan import worst_layers
from scclip_export.quantize.rewrite import save_graph
from scclip_export.quantize.tune import output_error

E4M3 = ml_dtypes.float8_e4m3fn
E4M3_MAX = 448.0
MIN_OPSET = 19  # of ONNX's float8 types
# What an input may exceed the largest value seen in calibration by: of 15 binades one is to spare.
HEADROOM = 2.0
# A layer that is off by more stays float16, the worst first, up to this share of the multiplications: as in int8.
_ERROR_LIMIT, _FLOAT_SHARE = 0.05, 0.10
_LEAST_SCALE = 2.0**-24  # of float16
_ROWS = 384


@dataclass(frozen=True, slots=True, kw_only=True)
class Fp8Layer:
    """One layer of the plan: x · W ≈ (x_q · W_q) · input_scale · weight_scale.

    Attributes:
        input_scale, weight_scale: powers of two that float16 holds.
        error: relative error of the output on sampled tokens (`tune.output_error`).
        cost: share of all products' multiplications, 0..1.
        keep_float: whether it stays float16.
    """

    input_scale: float
    weight_scale: float
    error: float
    cost: float
    keep_float: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Fp8Plan:
    """Every layer of an encoder, by name, and what it was calibrated on."""

    layers: Mapping[str, Fp8Layer]
    windows: int
    images: str

    def to_json(self) -> dict[str, object]:
        """Return `quantization` of bundle.json."""
        errors = [layer.error for layer in self.layers.values() if not layer.keep_float]
        return {
            "method": "float8_e4m3fn, largest value",
            "calibration_images": self.images,
            "calibration_windows": self.windows,
            "fp8_layers": len(errors),
            "float_layers": [name for name, layer in self.layers.items() if layer.keep_float],
            "worst_output_error": max(errors, default=0.0),
        }


def plan_fp8(source: Path, windows: NDArray[np.uint8], *, images: str, progress: Progress) -> Fp8Plan:
    """Calibrate: see how large the input of every product becomes.

    Args:
        source: the float32 window encoder, as `graph.onnx_from_encoder` writes it.
        windows: uint8 (W, H, W, 3), W ≥ 1.
        images: where the windows are from, for bundle.json.
        progress: is told of the one long step.

    Raises:
        ExportError: the graph has no product to quantise, or one sees a value that is not finite.
    """
    model = onnx.load(str(source))
    layers = find_layers(model)
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    arrays = {p.weight: numpy_helper.to_array(tensors[p.weight]) for layer in layers for p in layer.products}
    progress(f"calibrating {len(layers)} products on {len(windows)} windows of {images}")
    seen = observe(source, layers, window_runs(source, windows))
    return Fp8Plan(layers=_plan_layers(layers, arrays, seen), windows=len(windows), images=images)


def _plan_layers(
    layers: Sequence[Layer], arrays: dict[str, NDArray[np.float32]], seen: Mapping[str, Observed]
) -> dict[str, Fp8Layer]:
    cost = shares_of_work(layers, seen)
    planned = {
        layer.name: _plan_layer(
            layer.name, seen[layer.name], joint_weight(layer, arrays), cost=cost[layer.name]
        )
        for layer in layers
    }
    wide = worst_layers(
        {name: (layer.error, layer.cost) for name, layer in planned.items()},
        limit=_ERROR_LIMIT,
        share=_FLOAT_SHARE,
    )
    return {name: replace(layer, keep_float=name in wide) for name, layer in planned.items()}


def _plan_layer(name: str, observed: Observed, weight: NDArray[np.float32], *, cost: float) -> Fp8Layer:
    largest = float(np.maximum(-observed.low, observed.high).max())
    if not np.isfinite(largest):
        raise ExportError(
            f"the input of {name} is not finite on a calibration window, in float32: the weights are damaged"
        )
    input_scale = power_of_two_scale(HEADROOM * largest)
    weight_scale = power_of_two_scale(float(np.abs(weight).max()))
    rows = observed.rows[:_ROWS]
    got = rounded(rows, input_scale) @ rounded(weight, weight_scale)
    return Fp8Layer(
        input_scale=input_scale,
        weight_scale=weight_scale,
        error=output_error(rows @ weight, got),
        cost=cost,
    )


def power_of_two_scale(largest: float) -> float:
    """Return the least power of two, at least 2⁻²⁴, by which a value of size `largest` becomes at most 448."""
    return max(_LEAST_SCALE, 2.0 ** float(np.ceil(np.log2(max(largest, 1e-30) / E4M3_MAX))))


def to_e4m3(x: NDArray[np.float32], scale: float) -> NDArray[np.generic]:
    """Round as QuantizeLinear does: to the nearest, ties to even, values beyond 448 · scale held there."""
    return np.clip(x.astype(np.float32) / np.float32(scale), -E4M3_MAX, E4M3_MAX).astype(E4M3)


def rounded(x: NDArray[np.float32], scale: float) -> NDArray[np.float32]:
    """Round as QuantizeLinear and DequantizeLinear together do: float32, any shape."""
    return to_e4m3(x, scale).astype(np.float32) * np.float32(scale)


def write_fp8(source: Path, plan: Fp8Plan, target: Path) -> None:
    """Quantise a float16 encoder by a plan.

    The input of every layer that does not stay float16 goes through QuantizeLinear and DequantizeLinear, its weights
    are stored as e4m3 and come out of a DequantizeLinear; the product itself, its bias and all else stay as they are.

    Args:
        source: the float16 encoder of any grid, of the model that the plan was made on.
        plan: from `plan_fp8`.
        target: the .onnx file; weights go to `target` + ".data".

    Raises:
        ExportError: the opset is older than ONNX's float8, or the graph has other products than the plan.
    """
    model = onnx.load(str(source))
    opset = next(int(entry.version) for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    if opset < MIN_OPSET:
        raise ExportError(f"{target.name} needs --opset {MIN_OPSET} or later, which has float8; got {opset}")
    layers = find_layers(model)
    if {layer.name for layer in layers} != set(plan.layers):
        raise ExportError(f"{source.name} has other products than the float32 encoder; export it again")
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    replaced: dict[int, list[NodeProto]] = {}
    added: list[TensorProto] = []
    for layer in layers:
        planned = plan.layers[layer.name]
        if planned.keep_float:
            continue
        added += _constants(layer, planned, tensors)
        before = _round_input(layer)
        for part in layer.products:
            replaced[part.node] = [*before, *_fp8_product(layer, part, model)]
            before = []
    nodes = [node for index, old in enumerate(model.graph.node) for node in replaced.get(index, [old])]
    used = {name for node in nodes for name in node.input}
    kept = [tensor for tensor in model.graph.initializer if tensor.name in used]
    save_graph(model, nodes, kept + added, target)


def _constants(layer: Layer, planned: Fp8Layer, tensors: Mapping[str, TensorProto]) -> list[TensorProto]:
    dtype = helper.tensor_dtype_to_np_dtype(tensors[layer.products[0].weight].data_type)
    made = [
        numpy_helper.from_array(np.array(planned.input_scale, dtype), f"{layer.name}.input_scale"),
        numpy_helper.from_array(np.array(planned.weight_scale, dtype), f"{layer.name}.weight_scale"),
        numpy_helper.from_array(np.array(0.0, E4M3), f"{layer.name}.zero_point"),
    ]
    for part in layer.products:
        weight = numpy_helper.to_array(tensors[part.weight])
        rounded_weight = to_e4m3(weight.astype(np.float32), planned.weight_scale)
        made.append(numpy_helper.from_array(rounded_weight, f"{part.name}.weight_e4m3"))
    return made


def _round_input(layer: Layer) -> list[NodeProto]:
    name = layer.name
    scale, zero, levels = f"{name}.input_scale", f"{name}.zero_point", f"{name}.input_e4m3"
    return [
        helper.make_node("QuantizeLinear", [layer.source, scale, zero], [levels], f"{name}.quantize"),
        helper.make_node("DequantizeLinear", [levels, scale, zero], [f"{name}.input"], f"{name}.dequantize"),
    ]


def _fp8_product(layer: Layer, part: Product, model: ModelProto) -> list[NodeProto]:
    """The product as it was, of the rounded input and the weight's e4m3 form."""
    weight = f"{part.name}.weight_rounded"
    node = NodeProto()
    node.CopyFrom(model.graph.node[part.node])
    node.input[0], node.input[1] = f"{layer.name}.input", weight
    scale, zero = f"{layer.name}.weight_scale", f"{layer.name}.zero_point"
    stored = helper.make_node(
        "DequantizeLinear",
        [f"{part.name}.weight_e4m3", scale, zero],
        [weight],
        f"{part.name}.dequantize_weight",
    )
    return [stored, node]
