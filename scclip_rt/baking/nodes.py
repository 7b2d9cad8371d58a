"""Writing ONNX nodes one after the other, with names that no encoder has."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from scclip_rt.baking.library import load_onnx

if TYPE_CHECKING:
    from onnx import NodeProto, TensorProto


class Nodes:
    """A growing list of nodes and constants, in the forms of opset 18 and later.

    Args:
        prefix: before every name that is made here.
    """

    def __init__(self, prefix: str = "bake/") -> None:
        self._onnx = load_onnx()
        self._prefix = prefix
        self.nodes: list[NodeProto] = []
        self.constants: list[TensorProto] = []

    def __call__(self, operator: str, *inputs: str, output: str | None = None, **attributes: Any) -> str:
        """Add a node with one output; return the output's name."""
        name = output or f"{self._prefix}{operator.lower()}_{len(self.nodes)}"
        self.nodes.append(
            self._onnx.helper.make_node(operator, list(inputs), [name], name=name, **attributes)
        )
        return name

    def constant(self, value: NDArray[Any], name: str | None = None) -> str:
        """Add a constant; return its name."""
        label = name or f"{self._prefix}constant_{len(self.constants)}"
        self.constants.append(self._onnx.numpy_helper.from_array(np.ascontiguousarray(value), label))
        return label

    def floats(self, value: ArrayLike) -> str:
        """A float32 constant."""
        return self.constant(np.asarray(value, np.float32))

    def integers(self, value: ArrayLike) -> str:
        """An int64 constant, of one axis at least: shapes, axes, indices."""
        return self.constant(np.atleast_1d(np.asarray(value, np.int64)))

    def reshape(self, value: str, shape: Sequence[int]) -> str:
        """`value` in another shape; -1 for one length that follows."""
        return self("Reshape", value, self.integers(shape))

    def transpose(self, value: str, order: Sequence[int]) -> str:
        """`value` with its axes in another order."""
        return self("Transpose", value, perm=list(order))

    def slice(self, value: str, start: int, stop: int, axis: int) -> str:
        """`value[start:stop]` along an axis."""
        return self("Slice", value, self.integers(start), self.integers(stop), self.integers(axis))

    def reduce(self, operator: str, value: str, axes: Sequence[int], *, keep: bool = True) -> str:
        """ReduceMax and its like over some axes."""
        return self(operator, value, self.integers(axes), keepdims=int(keep))

    def cast(self, value: str, dtype: Any) -> str:
        """`value` in a numpy dtype."""
        return self("Cast", value, to=self._onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))
