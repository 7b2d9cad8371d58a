"""`triton_python_backend_utils` without Triton: tensors, requests, and calls of the repository's own ONNX models.

The names and signatures are those of the Python backend's documentation. Each model is opened as Triton's ONNX Runtime
backend lays it out, and what it is given is held against its config.pbtxt.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import onnxruntime

TYPES = {
    "TYPE_UINT8": np.uint8, "TYPE_FP32": np.float32, "TYPE_INT64": np.int64, "TYPE_UINT16": np.uint16,
    "TYPE_STRING": np.object_,
}  # fmt: skip


class Tensor:
    def __init__(self, name: str, array: np.ndarray) -> None:
        self._name, self._array = name, array

    def name(self) -> str:
        return self._name

    def as_numpy(self) -> np.ndarray:
        return self._array


class TritonError(Exception):
    def message(self) -> str:
        return str(self)


@dataclass
class InferenceResponse:
    output_tensors: Sequence[Tensor] = ()
    error_: TritonError | None = None

    def __init__(self, output_tensors: Sequence[Tensor], error: TritonError | None = None) -> None:
        self.output_tensors, self.error_ = output_tensors, error

    def has_error(self) -> bool:
        return self.error_ is not None

    def error(self) -> TritonError | None:
        return self.error_


@dataclass
class InferenceRequest:
    model_name: str
    requested_output_names: Sequence[str]
    inputs: Sequence[Tensor]
    models: ClassVar[Path]
    calls: ClassVar[list[str]] = field(default=[])  # type: ignore[misc]

    def exec(self) -> InferenceResponse:
        InferenceRequest.calls.append(self.model_name)
        try:
            check(self.models / self.model_name / "config.pbtxt", "input", self.inputs)
            session = session_of(self.models / self.model_name / "1/model.onnx/model.onnx")
            feeds = {tensor.name(): tensor.as_numpy() for tensor in self.inputs}
            arrays = session.run(list(self.requested_output_names), feeds)
        except Exception as error:
            return InferenceResponse([], TritonError(str(error)))
        outputs = [
            Tensor(name, array) for name, array in zip(self.requested_output_names, arrays, strict=True)
        ]
        check(self.models / self.model_name / "config.pbtxt", "output", outputs)
        return InferenceResponse(outputs)


def get_input_tensor_by_name(request: InferenceRequest, name: str) -> Tensor | None:
    return next((tensor for tensor in request.inputs if tensor.name() == name), None)


def get_output_tensor_by_name(response: InferenceResponse, name: str) -> Tensor | None:
    return next((tensor for tensor in response.output_tensors if tensor.name() == name), None)


@cache
def session_of(path: Path) -> Any:
    return onnxruntime.InferenceSession(path)


def declared(config: Path, side: str) -> dict[str, tuple[str, list[int]]]:
    """Name → type and dims of a config's inputs or outputs."""
    text = re.search(rf"^{side} \[.*?\}}\s*\]", config.read_text(), re.S | re.M)
    rows = re.findall(r'name: "(\w+)" data_type: (\w+) dims: \[ ([-\d, ]+) \]', text.group(0))
    return {name: (kind, [int(side) for side in dims.split(",")]) for name, kind, dims in rows}


def check(config: Path, side: str, tensors: Sequence[Tensor]) -> None:
    """What Triton checks: names, types, dims, with the batch in front if there is one."""
    batch = int(re.search(r"max_batch_size: (\d+)", config.read_text()).group(1))
    known = declared(config, side)
    for tensor in tensors:
        kind, dims = known[tensor.name()]
        shape = list(tensor.as_numpy().shape)
        if tensor.as_numpy().dtype != TYPES[kind]:
            raise ValueError(f"{tensor.name()}: {tensor.as_numpy().dtype}, but {kind}")
        if batch:
            if not 1 <= shape[0] <= batch:
                raise ValueError(f"{tensor.name()}: a batch of {shape[0]}; at most {batch}")
            shape = shape[1:]
        if len(shape) != len(dims) or any(
            want not in (-1, have) for have, want in zip(shape, dims, strict=True)
        ):
            raise ValueError(f"{tensor.name()}: {shape}, but {dims}")
