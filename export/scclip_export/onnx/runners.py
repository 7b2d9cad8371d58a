"""Run a written encoder on this machine's CPU to measure parity, also in types that ONNX Runtime has no kernels for.

Every runner also returns the outliers (the indices of the graph's second TopK, -1 where a detector found fewer), which
only a `--debug-outputs` export has among its outputs.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper
from onnx.inliner import inline_local_functions

from scclip_rt.backends.onnxruntime.session import cpu_session

# uint8 windows (B, H, W, 3) and float32 text (Q, E) to `features`, `logits` and, from SC-CLIP and SFP, sorted outliers
# (B, m).
Runner = Callable[[NDArray[np.uint8], NDArray[np.float32]], list[NDArray[Any]]]

# Operators that move values or choose among them: their results need no rounding.
_MOVES = frozenset(
    {
        "Concat",
        "Expand",
        "Flatten",
        "Gather",
        "GatherElements",
        "Identity",
        "Pad",
        "Reshape",
        "ScatterElements",
    }
    | {"Slice", "Split", "Squeeze", "Transpose", "Unsqueeze", "Where"}
)


def onnx_runner(path: Path) -> Runner:
    """Return a function that runs a float32 or int8 encoder as the runtime does."""
    return _runner(path, onnx.load(str(path), load_external_data=False), "ORT_ENABLE_ALL")


def float16_runner(path: Path) -> Runner:
    """Return a function that runs a float16 encoder.

    Not at the default level, where ONNX Runtime 1.32 crashes on float16 graphs (NchwcTransformer, its issue 28392).
    """
    return _runner(path, onnx.load(str(path), load_external_data=False), "ORT_ENABLE_EXTENDED")


def rounding_runner(path: Path) -> Runner:
    """Return a function that runs an encoder in any narrow float type, also bfloat16, which has no kernels on the CPU.

    Every narrow tensor becomes float32, and every operator that computes on it is followed by a rounding to the
    narrow type: what a GPU does that sums products in float32.
    """
    model = inline_local_functions(onnx.load(str(path), load_external_data=False))
    round_results(model)
    # Optimised, the pairs of casts that round would be taken for idle.
    return _runner(path, model, "ORT_DISABLE_ALL")


# The same, and for each window what the graph's comparisons were decided on: similarities before the last block, these
# minus their mean, and similarities after it, each (B, N, N).
DecisionRunner = Callable[
    [NDArray[np.uint8], NDArray[np.float32]], tuple[list[NDArray[Any]], list[NDArray[Any]]]
]


def decision_runner(path: Path) -> DecisionRunner | None:
    """Return a function that also tells what a float32 encoder's comparisons are about; None if it has none."""
    model = onnx.load(str(path), load_external_data=False)
    if model.functions:
        model = inline_local_functions(model)
    compared = _compared(model)
    if compared is None:
        return None
    for name in dict.fromkeys(compared):
        model.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
    session, names = _session(path, model, "ORT_ENABLE_ALL")

    def run(
        windows: NDArray[np.uint8], text: NDArray[np.float32]
    ) -> tuple[list[NDArray[Any]], list[NDArray[Any]]]:
        outputs = session.run([*names, *compared], {"windows": windows, "text": text})
        return _sorted(outputs[: len(names)]), outputs[len(names) :]

    return run


def _compared(model: onnx.ModelProto) -> list[str] | None:
    """What the graph compares: similarities before, their distance from the mean, similarities after."""
    made_by = {name: node.op_type for node in model.graph.node for name in node.output}
    inputs = [node.input[0] for node in model.graph.node if node.op_type == "GreaterOrEqual"]
    similarities = list(dict.fromkeys(name for name in inputs if made_by.get(name) == "MatMul"))
    distances = [name for name in inputs if made_by.get(name) in ("Mul", "Sub")]
    if not similarities or len(similarities) > 2 or len(distances) != 1:
        return None
    return [similarities[0], distances[0], similarities[-1]]


def round_results(model: onnx.ModelProto) -> None:
    """Replace narrow arithmetic by float32 arithmetic with rounded results, in place; see `rounding_runner`."""
    graph, narrow = model.graph, (TensorProto.FLOAT16, TensorProto.BFLOAT16)
    types = {tensor.name: tensor.data_type for tensor in graph.initializer if tensor.data_type in narrow}
    nodes = []
    for tensor in graph.initializer:
        if tensor.name in types:
            wide, tensor.name = tensor.name, f"{tensor.name}_narrow"
            nodes.append(helper.make_node("Cast", [tensor.name], [wide], to=TensorProto.FLOAT))
    for node in graph.node:
        to = next((attribute.i for attribute in node.attribute if attribute.name == "to"), None)
        if node.op_type == "Cast":
            dtype = to if to in narrow else None
        else:
            dtype = next((types[name] for name in node.input if name in types), None)
        nodes.append(node)
        if dtype is None:
            continue
        types |= dict.fromkeys(node.output, dtype)
        if node.op_type in _MOVES:
            continue
        for i, name in enumerate(node.output):
            if node.op_type == "Cast":
                node.output[i] = f"{name}_rounded"
            else:
                node.output[i] = f"{name}_wide"
                nodes.append(helper.make_node("Cast", [f"{name}_wide"], [f"{name}_rounded"], to=dtype))
            nodes.append(helper.make_node("Cast", [f"{name}_rounded"], [name], to=TensorProto.FLOAT))
    del graph.node[:]
    del graph.value_info[:]
    graph.node.extend(nodes)


def _runner(path: Path, model: onnx.ModelProto, level: str) -> Runner:
    if model.functions:
        model = inline_local_functions(model)
    session, names = _session(path, model, level)

    def run(windows: NDArray[np.uint8], text: NDArray[np.float32]) -> list[NDArray[Any]]:
        return _sorted(session.run(names, {"windows": windows, "text": text}))

    return run


def _session(path: Path, model: onnx.ModelProto, level: str) -> tuple[Any, list[str]]:
    """A session of a model with its weights beside `path`, and its outputs for `_sorted`."""
    names = ["features", "logits"]
    found = _outliers(model)
    if found is not None:
        for name, dtype in zip(found, (TensorProto.FLOAT, TensorProto.INT64), strict=True):
            model.graph.output.append(helper.make_tensor_value_info(name, dtype, None))
        names += found
    return cpu_session(model.SerializeToString(), level=level, weights=path.parent), names


def _sorted(outputs: list[NDArray[Any]]) -> list[NDArray[Any]]:
    """Features, logits and, of scores and indices, the outliers in ascending order: a score of 0 is none."""
    if len(outputs) == 2:
        return outputs
    features, logits, scores, indices = outputs
    return [features, logits, np.sort(np.where(scores > 0.0, indices, -1), axis=-1)]


def _outliers(model: onnx.ModelProto) -> list[str] | None:
    """The outputs of the TopK that takes the largest scores, these and indices; None without anomaly detection."""
    for node in model.graph.node:
        largest = next((attribute.i for attribute in node.attribute if attribute.name == "largest"), 1)
        if node.op_type == "TopK" and largest:
            return list(node.output)
    return None
