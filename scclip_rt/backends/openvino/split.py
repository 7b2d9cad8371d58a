"""An encoder cut in three for OpenVINO's bf16, so that the anomaly stage computes in float32 (METHOD §2).

Under the inference precision bf16 the CPU plugin narrows every node it can. bf16 has 8 bits of mantissa, and the
distances ‖a‖² + ‖b‖² − 2ab cancel. The plugin knows a mark against that (`DisablePrecisionConversion`), but its own
passes drop it where they rewrite a node: in 2026.4 the product, the subtraction and the reciprocal came out narrow
all the same. So the stage becomes a model of its own, compiled in float32, and the compiled model is read back.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

_NARROW = frozenset({"bf16", "f16", "i8", "u8", "i4", "u4"})
_LAYOUT = frozenset({"Transpose", "Reshape", "Convert"})


@dataclass(frozen=True, slots=True)
class Split:
    """Three `openvino.Model`s that together are the encoder; a part takes tensors by the name another gives them.

    Attributes:
        trunk: windows to the residual stream, and whatever else doesn't depend on the outliers.
        stage: the residual stream to the outliers' indices.
        tail: all of these, and text, to features and logits.
    """

    trunk: Any
    stage: Any
    tail: Any


def split_encoder(model: Any) -> Split | None:
    """Cut an `openvino.Model` around its anomaly stage; None if it has none. The model is used up.

    The stage is found by its form: selections (TopK) over values made from the product of a tensor with its own
    transpose, and all between them and the residual stream, from which that tensor is centred.
    """
    nodes = model.get_ordered_ops()
    selections = [node for node in nodes if node.get_type_name() == "TopK"]
    product = next(
        (found for node in selections for found in [_self_product(node)] if found is not None), None
    )
    if product is None:
        return None
    stream = _residual_stream(_through_layout(product.input_value(0)))
    if stream is None:
        return None
    above = _reach(selections, _producers)
    stage = (above & _reach(_consumers(stream), _consumers)) | {product.get_name()}
    text = [node for node in model.get_parameters() if "text" in node.output(0).get_names()]
    tail = _reach([*(node for node in nodes if node.get_name() in stage), *text], _consumers) - stage
    return _cut(model, nodes, stage, tail)


def narrow_nodes(compiled: Any) -> list[str]:
    """Float nodes of an `openvino.CompiledModel` that run narrower than float32, from its runtime model.

    Returns:
        A line for each: name, kind and precision. Integers (indices, masks) don't count.
    """
    found = []
    for node in compiled.get_runtime_model().get_ordered_ops():
        info = {key: _text(value) for key, value in node.get_rt_info().items()}
        kind, precision = info["layerType"], info["runtimePrecision"]
        # A comparison or a masked choice reports the type of its mask (u8); what it gives is in outputPrecisions.
        outputs = set(info["outputPrecisions"].split(","))
        if kind not in ("Const", "Input") and (precision in ("bf16", "f16") or outputs & (_NARROW - {"u8"})):
            found.append(f"{node.get_friendly_name()} ({kind}): {precision}")
    return found


def _text(value: Any) -> str:
    return str(value.astype(str) if hasattr(value, "astype") else value)


def _producers(node: Any) -> list[Any]:
    return [value.get_node() for value in node.input_values()]


def _consumers(node: Any) -> list[Any]:
    return [target.get_node() for value in node.outputs() for target in value.get_target_inputs()]


def _reach(start: Iterable[Any], step: Any) -> set[str]:
    """Unique names of `start` and all that `step` leads to."""
    seen: set[str] = set()
    pending = list(start)
    while pending:
        node = pending.pop()
        if node.get_name() not in seen:
            seen.add(node.get_name())
            pending += step(node)
    return seen


def _self_product(selection: Any) -> Any | None:
    """The nearest product above a selection, if it multiplies a tensor with its own transpose."""
    pending, seen = [selection], set()
    while pending:
        node = pending.pop(0)
        if node.get_name() in seen:
            continue
        seen.add(node.get_name())
        if node.get_type_name() == "MatMul":
            left, right = (_through_layout(value) for value in node.input_values())
            return node if left.get_name() == right.get_name() else None
        pending += _producers(node)
    return None


def _through_layout(value: Any) -> Any:
    node = value.get_node()
    while node.get_type_name() in _LAYOUT:
        node = node.input_value(0).get_node()
    return node


def _residual_stream(centred: Any) -> Any | None:
    """The operand of a subtraction of the mean that the mean is made from."""
    for node in _producers(centred):
        others = [other for other in _producers(centred) if other.get_name() != node.get_name()]
        if any(node.get_name() in _reach([other], _producers) for other in others):
            return node
    return None


def _cut(model: Any, nodes: list[Any], stage: set[str], tail: set[str]) -> Split:
    """Put results and parameters where values cross from one part to another, and make the three models."""
    from openvino import Model

    parts: dict[str, _Part] = {name: _Part() for name in ("trunk", "stage", "tail")}

    def part(node: Any) -> str:
        name = node.get_name()
        return "stage" if name in stage else "tail" if name in tail else "trunk"

    for parameter in model.get_parameters():
        parts[part(parameter)].parameters.append(parameter)
    for result in model.get_results():
        parts[part(result)].results.append(result)
    # What is made from constants alone is shared: every part has its own view of it. Handed over as a tensor, weights
    # and axes would be no constants to the plugin, which then computes norms without its kernels.
    computed = _reach(model.get_parameters(), _consumers)
    for node in nodes:
        if node.get_name() in computed and node.get_type_name() != "Result":
            for value in node.outputs():
                _cross(value, part, parts)
    models = {name: Model(made.results, made.parameters, name) for name, made in parts.items()}
    return Split(**models)


@dataclass(slots=True)
class _Part:
    parameters: list[Any] = field(default_factory=list)
    results: list[Any] = field(default_factory=list)


def _cross(value: Any, part: Callable[[Any], str], parts: dict[str, _Part]) -> None:
    """Where a value is used in other parts, put a parameter there and a result here, of one name."""
    from openvino import opset13

    here, name = part(value.get_node()), f"{value.get_node().get_name()}.{value.get_index()}"
    entries: dict[str, Any] = {}
    for target in value.get_target_inputs():
        there = part(target.get_node())
        if there == here:
            continue
        if there not in entries:
            entry = opset13.parameter(value.get_partial_shape(), value.get_element_type())
            entry.output(0).get_tensor().set_names({name})
            parts[there].parameters.append(entry)
            entries[there] = entry
        target.replace_source_output(entries[there].output(0))
    if entries:
        result = opset13.result(value)
        value.get_tensor().add_names({name})
        parts[here].results.append(result)
