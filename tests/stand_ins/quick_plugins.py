"""Run in a process of its own: takes our plug-ins through NVIDIA's `tensorrt.plugin` as TensorRT's C++ side does.

The real Python of the bindings registers, describes and asks for kernels; behind it are empty libraries, so the
registry and the expressions of shapes are stand-ins. Prints what TensorRT would be told, as JSON.
"""

import importlib
import json
import operator
import sys
from typing import Any

import numpy as np
import tensorrt_bindings as trt

OPERATIONS = {
    "SUM": operator.add,
    "SUB": operator.sub,
    "PROD": operator.mul,
    "FLOOR_DIV": operator.floordiv,
    "CEIL_DIV": lambda a, b: -(-a // b),
}


class Expression:
    """IDimensionExpr: a number and how it came about."""

    def __init__(self, value: int, text: str) -> None:
        self.value, self.text = value, text

    def is_constant(self) -> bool:
        return self.text.isdecimal()

    def get_constant_value(self) -> int:
        return self.value


class ExpressionBuilder:
    """IExprBuilder."""

    def constant(self, value: int) -> Expression:
        return Expression(value, str(value))

    def operation(self, op: Any, first: Expression, second: Expression) -> Expression:
        value = OPERATIONS[op.name](first.value, second.value)
        return Expression(value, f"{op.name}({first.text},{second.text})")


class Expressions(list):
    """DimsExprs."""

    def __init__(self, length: int) -> None:
        super().__init__([None] * length)


class Symbol:
    """SymExprImpl, which wants a capsule from C++."""

    def __init__(self, expression: Any) -> None:
        self.expr, self.kind = expression._expr, type(expression).__name__


class Registry:
    """IPluginRegistry."""

    def __init__(self) -> None:
        self.creators: dict[tuple[str, str, str], Any] = {}

    def register_creator(self, creator: Any, namespace: str) -> bool:
        self.creators[creator.name, creator.plugin_version, namespace] = creator
        return True

    def get_creator(self, name: str, version: str, namespace: str) -> Any:
        return self.creators[name, version, namespace]


class Parameters:
    """IKernelLaunchParams."""


class Integers(dict):
    """ISymExprs."""


def field(name: str, value: float) -> Any:
    """As the ONNX parser makes it: integers of 32 bits, floats of 32 bits."""
    if isinstance(value, int):
        return trt.PluginField(name, np.array([value], np.int32), trt.PluginFieldType.INT32)
    return trt.PluginField(name, np.array([value], np.float32), trt.PluginFieldType.FLOAT32)


def described(dtype: Any, dims: list[int]) -> Any:
    tensor = trt.PluginTensorDesc()
    tensor.type, tensor.format, tensor.dims = dtype, trt.TensorFormat.LINEAR, dims
    dynamic = trt.DynamicPluginTensorDesc()
    dynamic.desc, dynamic.min, dynamic.opt, dynamic.max = tensor, dims, dims, dims
    return dynamic


def drive(
    registry: Registry, name: str, shapes: list[list[Any]], dtypes: list[str], attributes: dict
) -> dict:
    """One plug-in layer from the parser to the engine's kernel."""
    creator = registry.get_creator(name, "1", "scclip")
    given = {item.name: attributes[item.name] for item in creator.field_names}
    fields = trt.PluginFieldCollection([field(key, value) for key, value in given.items()])
    request = trt.QuickPluginCreationRequest.UNKNOWN
    plugin = creator.create_plugin(name, "scclip", fields, trt.TensorRTPhase.BUILD, request)
    types = [getattr(trt.DataType, dtype) for dtype in dtypes]
    outputs = plugin.get_output_data_types(types, [len(shape) for shape in shapes])
    inputs = [[Expression(value, text) for text, value in shape] for shape in shapes]
    expressions = plugin.get_output_shapes(inputs, [], ExpressionBuilder())
    both = [
        described(dtype, [item.value for item in shape])
        for dtype, shape in zip([*types, *outputs], [*inputs, *expressions], strict=True)
    ]
    plugin.configure_plugin(both[: len(types)], both[len(types) :])
    plugin.set_tactic(0)
    launch, integers = Parameters(), Integers()
    plugin.get_launch_params(inputs, both, len(types), launch, integers, ExpressionBuilder())
    entry, ptx = plugin.get_kernel(
        [item.desc for item in both[: len(types)]], [item.desc for item in both[len(types) :]]
    )
    return {
        "outputs": [dtype.name for dtype in outputs],
        "shapes": [[item.text for item in shape] for shape in expressions],
        "launch": {key: [item.expr.text, item.expr.value] for key, item in vars(launch).items()},
        "integers": [[item.expr.text, item.kind] for item in integers.values()],
        "count": integers.nbSymExprs,
        "entry": entry,
        "ptx": ptx.decode(),
    }


def main() -> None:
    registry = Registry()
    trt.get_plugin_registry = lambda: registry
    trt.IDimensionExpr, trt.DimsExprs = Expression, Expressions
    sys.modules["tensorrt"] = trt
    importlib.import_module("tensorrt.plugin._tensor").SymExprImpl = Symbol
    from scclip_export.engines.plugins.build import PluginHost

    asked = json.loads(sys.argv[1])
    host = PluginHost(trt=trt, trtp=importlib.import_module("tensorrt.plugin"))
    host.register()
    host.compile([(item["name"], item["attributes"]) for item in asked], "fp16", 89)
    found = []
    for item in asked:
        try:
            found.append(drive(registry, **item))
        except Exception as error:  # what pybind11 would swallow
            found.append({"error": str(error), "kept": str(host.failure)})
    print(json.dumps(found))


if __name__ == "__main__":
    main()
