"""Other ways to int8, for benchmarks/cpu/int8.py: libraries' own quantisers, and a scale per token."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from scclip_export.quantize.layers import find_layers
from scclip_export.quantize.weights import quantize_weight

Write = Callable[[Path, NDArray[np.uint8], Path], Path]


@dataclass(frozen=True, slots=True)
class Rival:
    """A quantiser, and the runtime that its file is for."""

    write: Write
    runtime: str = "onnxruntime"


def _products(source: Path) -> tuple[onnx.ModelProto, list[str]]:
    """The graph and the names of the nodes that the exporter's int8 quantises."""
    model = onnx.load(str(source))
    return model, [model.graph.node[p.node].name for layer in find_layers(model) for p in layer.products]


class _Reader:
    """Calibration windows, one at a time, in the form that onnxruntime.quantization wants."""

    def __init__(self, windows: NDArray[np.uint8], embed: int) -> None:
        self.windows, self.text = windows, np.eye(1, embed, dtype=np.float32)
        self.rewind()

    def rewind(self) -> None:
        self.left: Iterator[NDArray[np.uint8]] = iter(self.windows)

    def get_next(self) -> dict[str, Any] | None:
        window = next(self.left, None)
        return None if window is None else {"windows": window[None], "text": self.text}

    def __iter__(self) -> "_Reader":
        return self

    def __next__(self) -> dict[str, Any]:
        feeds = self.get_next()
        if feeds is None:
            raise StopIteration
        return feeds


def _ort_static(calibration: str) -> Write:
    def write(source: Path, windows: NDArray[np.uint8], folder: Path) -> Path:
        from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static

        model, names = _products(source)
        path = folder / "ort-static.onnx"
        quantize_static(
            str(source),
            str(path),
            _Reader(windows, model.graph.input[1].type.tensor_type.shape.dim[1].dim_value),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            reduce_range=True,  # its own answer to saturation: 7 bits
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            nodes_to_quantize=names,
            # Else it looks at every tensor, and the infinities of masked values end its histograms.
            op_types_to_quantize=sorted({node.op_type for node in model.graph.node if node.name in names}),
            calibrate_method=CalibrationMethod[calibration],
            extra_options={"DedicatedQDQPair": True, "QuantizeBias": False},
        )
        return path

    return write


def _ort_dynamic(source: Path, _: NDArray[np.uint8], folder: Path) -> Path:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    path, plain = folder / "ort-dynamic.onnx", folder / "ort-dynamic-source.onnx"
    model, names = _products(source)
    _gemm_to_matmul(model.graph, set(names))
    data = plain.with_name(f"{plain.name}.data")
    data.unlink(missing_ok=True)  # onnx would append
    onnx.save(model, str(plain), save_as_external_data=True, location=data.name)
    quantize_dynamic(
        str(plain),
        str(path),
        nodes_to_quantize=names,
        per_channel=True,
        reduce_range=True,
        weight_type=QuantType.QInt8,
    )
    return path


def _gemm_to_matmul(graph: onnx.GraphProto, names: set[str]) -> None:
    """Write the named Gemm nodes as MatMul and Add: ONNX Runtime quantises no Gemm dynamically."""
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    turned: set[str] = set()
    nodes = []
    for node in graph.node:
        if node.op_type != "Gemm" or node.name not in names:
            nodes.append(node)
            continue
        if any(a.name == "transB" and a.i for a in node.attribute) and node.input[1] not in turned:
            weight = tensors[node.input[1]]
            weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight).T.copy(), weight.name))
            turned.add(weight.name)
        product = f"{node.output[0]}.product" if len(node.input) > 2 else node.output[0]
        nodes.append(helper.make_node("MatMul", node.input[:2], [product], node.name))
        if len(node.input) > 2:
            nodes.append(helper.make_node("Add", [product, node.input[2]], node.output, f"{node.name}.bias"))
    del graph.node[:]
    graph.node.extend(nodes)
    del graph.value_info[:]  # holds the weights' old shapes


def _per_token(source: Path, _: NDArray[np.uint8], folder: Path) -> Path:
    """Symmetric int8 with max|x| / 127 of every token as its scale, in plain ONNX operators."""
    model, _names = _products(source)
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    nodes, added, dropped = list(model.graph.node), [], set()
    for source_name, part in ((layer.source, p) for layer in find_layers(model) for p in layer.products):
        name, output = part.name, model.graph.node[part.node].output[0]
        array = numpy_helper.to_array(tensors[part.weight])
        weight, scale = quantize_weight(array.T if part.gemm else array)
        added += [numpy_helper.from_array(weight, f"{name}.w"), numpy_helper.from_array(scale, f"{name}.ws")]
        dropped.add(part.weight)
        own_bias = part.bias if part.gemm else None
        steps = [
            ("Abs", [source_name], f"{name}.abs", {}),
            ("ReduceMax", [f"{name}.abs", "token.axis"], f"{name}.max", {}),
            ("Mul", [f"{name}.max", "token.step"], f"{name}.xs", {}),
            ("Div", [source_name, f"{name}.xs"], f"{name}.div", {}),
            ("Round", [f"{name}.div"], f"{name}.round", {}),
            ("Cast", [f"{name}.round"], f"{name}.xq", {"to": TensorProto.INT8}),
            ("MatMulInteger", [f"{name}.xq", f"{name}.w"], f"{name}.sum", {}),
            ("Cast", [f"{name}.sum"], f"{name}.float", {"to": TensorProto.FLOAT}),
            ("Mul", [f"{name}.float", f"{name}.xs"], f"{name}.token", {}),
            ("Mul", [f"{name}.token", f"{name}.ws"], f"{name}.scaled" if own_bias else output, {}),
            *([("Add", [f"{name}.scaled", own_bias], output, {})] if own_bias else []),
        ]
        made = [helper.make_node(op, ins, [out], f"{out}.node", **more) for op, ins, out, more in steps]
        nodes[part.node] = made
    flat = [node for item in nodes for node in (item if isinstance(item, list) else [item])]
    added += [
        numpy_helper.from_array(np.array([-1]), "token.axis"),
        numpy_helper.from_array(np.float32(1 / 127), "token.step"),
    ]
    kept = [tensor for tensor in model.graph.initializer if tensor.name not in dropped]
    graph = helper.make_graph(flat, "per-token", model.graph.input, model.graph.output, kept + added)
    path = folder / "per-token.onnx"
    onnx.save(
        helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version), str(path)
    )
    return path


def _nncf(smooth: bool) -> Write:
    def write(source: Path, windows: NDArray[np.uint8], folder: Path) -> Path:
        import nncf
        import openvino
        from nncf.quantization.advanced_parameters import AdvancedQuantizationParameters, OverflowFix

        model, names = _products(source)
        text = np.eye(1, model.graph.input[1].type.tensor_type.shape.dim[1].dim_value, dtype=np.float32)
        converted = openvino.convert_model(str(source))
        products = [n.name for n in model.graph.node if n.op_type in ("MatMul", "Gemm")]
        # OpenVINO cuts a Gemm in two; the product is the one with the longer name.
        others = [f"{n}{end}" for n in products if n not in names for end in ("", "/WithoutBiases")]
        known = {op.get_friendly_name() for op in converted.get_ops()}
        made = nncf.quantize(
            converted,
            nncf.Dataset([window[None] for window in windows], lambda w: {"windows": w, "text": text}),
            subset_size=len(windows),
            model_type=nncf.ModelType.TRANSFORMER if smooth else None,
            ignored_scope=nncf.IgnoredScope(names=[n for n in others if n in known]),
            # Half of the range for every weight: its own answer to saturation.
            advanced_parameters=AdvancedQuantizationParameters(overflow_fix=OverflowFix.ENABLE),
        )
        path = folder / "nncf.xml"
        openvino.save_model(made, str(path), compress_to_fp16=False)
        return path

    return write


RIVALS: Mapping[str, Rival] = {
    "ORT static, minmax": Rival(_ort_static("MinMax")),
    "ORT static, percentile": Rival(_ort_static("Percentile")),
    "ORT static, entropy": Rival(_ort_static("Entropy")),
    "ORT dynamic (per batch)": Rival(_ort_dynamic),
    "per token": Rival(_per_token),
    "NNCF (OpenVINO)": Rival(_nncf(smooth=True), "openvino"),
}
