"""The package `onnx`, which only this room needs."""

import importlib
from types import ModuleType

from scclip_rt.errors import optional_module


def load_onnx() -> ModuleType:
    """The module `onnx` with the parts that baking uses.

    Raises:
        BackendError: it is not installed.
    """
    onnx = optional_module("onnx", "baking needs onnx", "bake")
    for part in ("checker", "defs", "helper", "numpy_helper", "shape_inference"):
        importlib.import_module(f"onnx.{part}")
    return onnx
