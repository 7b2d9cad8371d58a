"""Each pass that lowers the opset changes one form and no number."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from scclip_rt.baking.opset import lower_opset
from scclip_rt.errors import OptionError


def model(
    *nodes: onnx.NodeProto, constants: dict[str, np.ndarray] | None = None, opset: int = 20
) -> onnx.ModelProto:
    graph = helper.make_graph(
        list(nodes),
        "test",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 5])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows", "columns"])],
        [numpy_helper.from_array(value, name) for name, value in (constants or {}).items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def values(graph: onnx.ModelProto) -> np.ndarray:
    x = np.linspace(-3, 3, 10, dtype=np.float32).reshape(2, 5)
    return np.asarray(ReferenceEvaluator(graph).run(None, {"x": x})[0])


@pytest.mark.parametrize("operator", ["ReduceMax", "ReduceMean", "ReduceL2", "ReduceMin"])
def test_axes_become_an_attribute(operator: str) -> None:
    node = helper.make_node(operator, ["x", "axes"], ["y"], keepdims=1, noop_with_empty_axes=0)
    graph = model(node, constants={"axes": np.array([1], np.int64)})
    before = values(graph)
    lower_opset(graph, 17)
    (lowered,) = graph.graph.node
    assert list(lowered.input) == ["x"]
    onnx.checker.check_model(graph)
    np.testing.assert_array_equal(values(graph), before)


@pytest.mark.parametrize("form", ["none", "tanh"])
def test_gelu_is_written_out(form: str) -> None:
    graph = model(helper.make_node("Gelu", ["x"], ["y"], approximate=form))
    before = values(graph)
    lower_opset(graph, 17)
    assert "Gelu" not in {node.op_type for node in graph.graph.node}
    onnx.checker.check_model(graph)
    np.testing.assert_allclose(values(graph), before, atol=1e-6)


def test_split_counts_its_outputs() -> None:
    split = helper.make_node("Split", ["x"], ["a", "y"], axis=0, num_outputs=2)
    graph = model(split)
    before = values(graph)
    lower_opset(graph, 17)
    assert [item.name for item in graph.graph.node[0].attribute] == ["axis"]
    onnx.checker.check_model(graph)
    np.testing.assert_array_equal(values(graph), before)


def test_what_has_no_older_form_is_named() -> None:
    graph = model(
        helper.make_node("RMSNormalization", ["x", "w"], ["y"]),
        constants={"w": np.ones(5, np.float32)},
        opset=23,
    )
    with pytest.raises(OptionError, match="RMSNormalization is not in opset 17"):
        lower_opset(graph, 17)


def test_new_attributes_that_say_something_are_refused() -> None:
    pads = np.array([0, 0, 0, 1], np.int64)
    wrapped = model(helper.make_node("Cast", ["x"], ["y"], to=TensorProto.FLOAT8E4M3FN, saturate=0))
    with pytest.raises(OptionError, match="Cast has 'saturate', which opset 17 doesn't know"):
        lower_opset(wrapped, 17)
    four = model(
        helper.make_node("Pad", ["x", "pads", "", "axes"], ["y"]),
        constants={"pads": pads[:2], "axes": np.array([1], np.int64)},
    )
    with pytest.raises(OptionError, match="Pad has 4 inputs"):
        lower_opset(four, 17)


def test_a_plain_cast_loses_its_new_attribute() -> None:
    graph = model(helper.make_node("Cast", ["x"], ["y"], to=TensorProto.FLOAT, saturate=1))
    lower_opset(graph, 17)
    assert [item.name for item in graph.graph.node[0].attribute] == ["to"]
