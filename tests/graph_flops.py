"""Operations of an ONNX graph's matrix products, from its own shapes."""

from pathlib import Path

import numpy as np
import onnx
from onnx import shape_inference


def matmul_flops(path: Path) -> int:
    """Operations of all matrix products of one window and one query."""
    model = onnx.load_model(path, load_external_data=False)
    for value in model.graph.input:
        value.type.tensor_type.shape.dim[0].dim_value = 1  # one window, one query
    del model.graph.value_info[:]
    for value in model.graph.output:
        for dim in value.type.tensor_type.shape.dim:
            dim.Clear()
    graph = shape_inference.infer_shapes(model, data_prop=True).graph
    shapes = {tensor.name: list(tensor.dims) for tensor in graph.initializer}
    for value in [*graph.input, *graph.value_info, *graph.output]:
        shapes[value.name] = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
    nodes = [node for node in graph.node if node.op_type in ("MatMul", "Gemm")]
    assert not {node.op_type for node in graph.node} & {"Conv", "Einsum", "Attention"}
    assert all(0 not in shapes[name] for node in nodes for name in node.input[:2])
    return sum(2 * int(np.prod(shapes[n.input[0]])) * shapes[n.output[0]][-1] for n in nodes)
