"""Write the int8 graph: QuantizeLinear and DequantizeLinear around products, rescaling folded into what is before."""

import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from scclip_export.quantize.layers import Layer, Product, find_layers, joint_weight
from scclip_export.quantize.plan import Plan, scaled_weight, value_producer
from scclip_export.quantize.tune import Quantized

Arrays = dict[str, NDArray[np.float32]]
_EXTERNAL_FROM = 1024  # bytes


def write_int8(source: Path, plan: Plan, target: Path) -> None:
    """Quantise a float32 encoder by a plan.

    The input of every layer that does not stay float goes through QuantizeLinear (one uint8 scale: a constant, so no
    window depends on another) and DequantizeLinear, its weights come out of a DequantizeLinear of int8 (a scale per
    output channel), and the product takes both. ONNX Runtime and OpenVINO turn that into integer products. Rescaling
    goes into LayerNorm's gain and bias and into the value rows of earlier weights: exact in float.

    Args:
        source: the encoder of any grid, float32, with external weights.
        plan: made on the window encoder of the same model.
        target: the .onnx file; weights go to `target` + ".data".
    """
    model = onnx.load(str(source))
    layers = find_layers(model)
    arrays = rescale(model, layers, plan)
    replaced: dict[int, list[NodeProto]] = {}
    added: list[TensorProto] = []
    dropped: set[str] = set()
    for layer in layers:
        if plan.layers[layer.name].keep_float:
            continue
        quantized = plan.layers[layer.name].quantized
        added += constants(layer, quantized, arrays)
        before = quantize_input(layer)
        for part, shift in zip(layer.products, layer.split(quantized.shift), strict=True):
            output = model.graph.node[part.node].output[0]
            replaced[part.node] = [*before, *int8_product(layer, part, output)]
            if not part.gemm and part.bias is not None:  # the Add that follows brings it
                arrays[part.bias] = arrays[part.bias] + shift
            before = []
            dropped |= {part.weight, *([part.bias] if part.gemm and part.bias else [])}
    nodes = [node for index, old in enumerate(model.graph.node) for node in replaced.get(index, [old])]
    used = {name for node in nodes for name in node.input}
    kept = [t for t in model.graph.initializer if t.name not in dropped or t.name in used]
    added = [tensor for tensor in added if tensor.name in used]
    save_graph(model, nodes, [_changed(tensor, arrays) for tensor in kept] + added, target)


def rescale(model: ModelProto, layers: list[Layer], plan: Plan) -> Arrays:
    """Fold the plan's factors: return the weights and biases of all products, and changed norms, by name."""
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    by_name = {layer.name: layer for layer in layers}
    arrays: Arrays = {}
    for name in {n for layer in layers for p in layer.products for n in (p.weight, p.bias) if n} | {
        n for layer in layers for n in layer.norm or ()
    }:
        arrays[name] = numpy_helper.to_array(tensors[name]).copy()
    for layer in layers:
        joint = scaled_weight(layer.name, joint_weight(layer, arrays), plan.factors)
        for part, weight in zip(layer.products, layer.split(joint), strict=True):
            arrays[part.weight] = np.ascontiguousarray(weight.T if part.gemm else weight)
    for layer in layers:
        factors, producer = plan.factors[layer.name], value_producer(layer.name)
        if factors is None:
            continue
        if layer.norm is not None:
            for name in layer.norm:
                arrays[name] = arrays[name] / factors
        elif producer is not None and (bias := by_name[producer].products[-1].bias) is not None:
            arrays[bias][-len(factors) :] /= factors
    return arrays


def constants(layer: Layer, quantized: Quantized, arrays: Arrays) -> list[TensorProto]:
    """The initializers of a layer in int8."""
    made = [
        numpy_helper.from_array(np.array(quantized.scale, np.float32), f"{layer.name}.input_scale"),
        numpy_helper.from_array(np.array(quantized.zero_point, np.uint8), f"{layer.name}.input_zero_point"),
    ]
    shares = (layer.split(a) for a in (quantized.weight, quantized.weight_scale, quantized.shift))
    for part, weight, scale, shift in zip(layer.products, *shares, strict=True):
        bias = shift if part.bias is None else shift + arrays[part.bias]
        # In units of the sums of products, as integer Gemms take it.
        unit = (scale * np.float32(quantized.scale)).astype(np.float32)
        whole = np.clip(np.rint(bias.astype(np.float64) / unit), -(2.0**31), 2.0**31 - 1)
        made += [
            numpy_helper.from_array(np.ascontiguousarray(weight), f"{part.name}.weight_int8"),
            numpy_helper.from_array(np.ascontiguousarray(scale), f"{part.name}.weight_scale"),
            numpy_helper.from_array(whole.astype(np.int32), f"{part.name}.bias_int32"),
            numpy_helper.from_array(unit, f"{part.name}.bias_scale"),
            # QGemm wants them, though they are the default.
            numpy_helper.from_array(np.zeros(len(scale), np.int8), f"{part.name}.weight_zero_point"),
            numpy_helper.from_array(np.zeros(len(scale), np.int32), f"{part.name}.bias_zero_point"),
        ]
    return made


def quantize_input(layer: Layer) -> list[NodeProto]:
    """The nodes that round a layer's input: they make `NAME.input`."""
    name = layer.name
    scale, levels = [f"{name}.input_scale", f"{name}.input_zero_point"], f"{name}.input_uint8"
    return [
        helper.make_node("QuantizeLinear", [layer.source, *scale], [levels], f"{name}.quantize"),
        helper.make_node("DequantizeLinear", [levels, *scale], [f"{name}.input"], f"{name}.dequantize"),
    ]


def int8_product(layer: Layer, product: Product, output: str) -> list[NodeProto]:
    """The nodes of one product, from `quantize_input`'s result to `output`, in the form that the float product has.

    ONNX Runtime 1.32 makes a QGemm of a Gemm with an int32 bias, and a MatMulIntegerToFloat of a MatMul. A MatMul and
    an Add of matrices would stay float: it joins them to a Gemm first, whose bias is no integer then.
    """
    name = product.name
    weight, bias = f"{name}.weight_rounded", f"{name}.bias_rounded"
    nodes = [
        helper.make_node(
            "DequantizeLinear",
            [f"{name}.weight_{part}" for part in ("int8", "scale", "zero_point")],
            [weight],
            f"{name}.dequantize_weight",
            axis=1,
        )
    ]
    if not product.gemm:
        return [*nodes, helper.make_node("MatMul", [f"{layer.name}.input", weight], [output], name)]
    return [
        *nodes,
        helper.make_node(
            "DequantizeLinear",
            [f"{name}.bias_{part}" for part in ("int32", "scale", "zero_point")],
            [bias],
            f"{name}.dequantize_bias",
            axis=0,
        ),
        helper.make_node("Gemm", [f"{layer.name}.input", weight, bias], [output], name),
    ]


def _changed(tensor: TensorProto, arrays: Mapping[str, NDArray[np.float32]]) -> TensorProto:
    if tensor.name not in arrays:
        return tensor
    return numpy_helper.from_array(arrays[tensor.name].astype(np.float32), tensor.name)


def save_graph(model: ModelProto, nodes: list[NodeProto], tensors: list[TensorProto], target: Path) -> None:
    """Write `model` with other nodes and initializers; weights go to `target` + ".data"."""
    graph = helper.make_graph(
        nodes, model.graph.name, list(model.graph.input), list(model.graph.output), tensors
    )
    written = helper.make_model(
        graph,
        opset_imports=list(model.opset_import),
        ir_version=model.ir_version,
        producer_name=model.producer_name,
    )
    data = target.with_name(f"{target.name}.data")
    data.unlink(missing_ok=True)  # onnx appends
    onnx.save(
        written, str(target), save_as_external_data=True, location=data.name, size_threshold=_EXTERNAL_FROM
    )
    shutil.copymode(target, data)  # onnx 1.23 keeps weights from everyone but the owner
