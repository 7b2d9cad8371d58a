"""TensorRT's Python interface on the fake CUDA driver: an engine is a name of an ONNX file, ONNX Runtime runs it.

As strict as the real thing where the runtime could go wrong: user-managed scratch memory has to be given and large
enough, shapes have to lie in the profile, addresses have to be set, the first run after a change of shape may not be
captured, and a captured run is tied to its context.
"""

# ruff: noqa: ARG002 (the arguments are TensorRT's)
import enum
import json
from types import SimpleNamespace
from typing import Any

import numpy as np

from stand_ins.cuda import FakeDriver

WORKSPACE = 4096


class _Severity(enum.IntEnum):
    INTERNAL_ERROR = 0
    ERROR = 1
    WARNING = 2


class _Logger:
    Severity = _Severity

    def __init__(self) -> None:
        pass


class _DataType(enum.Enum):
    FLOAT = 0
    HALF = 1
    UINT8 = 5


class _Strategy(enum.Enum):
    STATIC = 0
    ON_PROFILE_CHANGE = 1
    USER_MANAGED = 2


def engine_bytes(
    onnx: Any, *, batch: tuple[int, int, int], queries: tuple[int, int, int], **changes: Any
) -> bytes:
    """A serialised engine: `changes` may be `dtypes`, to lie about tensors."""
    return json.dumps({"onnx": str(onnx), "batch": batch, "queries": queries, **changes}).encode()


class FakeContext:
    def __init__(self, engine: "FakeEngine") -> None:
        self.engine, self.shapes, self.addresses = engine, {}, {}
        self.memory = 0
        self.changed = True

    def set_device_memory(self, memory: int, size: int) -> None:
        if size < WORKSPACE:
            raise ValueError("too little device memory")
        self.memory = memory

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        low, _, high = self.engine.get_tensor_profile_shape(name, 0)
        if not all(a <= n <= b for a, n, b in zip(low, shape, high, strict=True)):
            self.engine.log(f"{name}: {shape} is outside the profile")
            return False
        self.shapes[name], self.changed = tuple(shape), True
        return True

    def set_tensor_address(self, name: str, memory: int) -> bool:
        if memory % 256:  # NvInferRuntime.h: "The pointer must have at least 256-byte alignment"
            self.engine.log(f"the address of {name} is not aligned")
            return False
        self.addresses[name] = int(memory)
        return True

    def execute_async_v3(self, stream: int) -> bool:
        fake = self.engine.driver
        if not self.memory or set(self.addresses) != {"windows", "text", "features", "logits"}:
            self.engine.log("addresses or memory are missing")
            return False
        capturing = fake._streams[int(stream)].capturing is not None
        if capturing and self.changed:
            self.engine.log("the first run after a change of shape can't be captured")
            return False
        self.changed = False
        shapes, addresses = dict(self.shapes), dict(self.addresses)

        def work() -> None:
            if capturing and (shapes, addresses) != (self.shapes, self.addresses):
                raise AssertionError("a captured context was changed")
            feeds = {
                "windows": fake.view(addresses["windows"], shapes["windows"], np.uint8),
                "text": fake.view(addresses["text"], shapes["text"], np.float32),
            }
            for name, value in self.engine.run({key: array.copy() for key, array in feeds.items()}).items():
                fake.view(addresses[name], value.shape, np.float32)[...] = value

        fake.queue(int(stream), work)
        return True


class FakeEngine:
    device_memory_size_v2 = WORKSPACE

    def __init__(self, driver: FakeDriver, logger: Any, document: dict[str, Any]) -> None:
        from scclip_rt.backends.onnxruntime.session import load_onnxruntime

        self.driver, self._logger, self._document = driver, logger, document
        self._session = load_onnxruntime().InferenceSession(
            document["onnx"], providers=["CPUExecutionProvider"]
        )
        self._inputs = {value.name: value.shape for value in self._session.get_inputs()}
        self._names = [*self._inputs, *(value.name for value in self._session.get_outputs())]
        self.num_io_tensors = len(self._names)

    def log(self, message: str) -> None:
        self._logger.log(_Severity.ERROR, message)

    def run(self, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        outputs = ["features", "logits"]
        return dict(zip(outputs, self._session.run(outputs, feeds), strict=True))

    def get_tensor_name(self, index: int) -> str:
        return self._names[index]

    def get_tensor_dtype(self, name: str) -> _DataType:
        kinds = {"windows": "UINT8", **self._document.get("dtypes", {})}
        return _DataType[kinds.get(name, "FLOAT")]

    def get_tensor_shape(self, name: str) -> tuple[Any, ...]:
        return tuple(self._inputs[name])

    def get_tensor_profile_shape(self, name: str, profile: int) -> list[tuple[int, ...]]:
        lengths = self._document["batch" if name == "windows" else "queries"]
        rest = [length if isinstance(length, int) else 0 for length in self._inputs[name][1:]]
        return [(length, *rest) for length in lengths]

    def get_engine_stat(self, statistic: Any) -> int:
        return 1000

    def create_execution_context(self, strategy: Any) -> FakeContext | None:
        return FakeContext(self) if strategy is _Strategy.USER_MANAGED else None


def make_module(driver: FakeDriver, version: str = "10.14.1.48") -> Any:
    """A stand-in for the module `tensorrt`."""

    class Runtime:
        def __init__(self, logger: Any) -> None:
            self._logger = logger

        def deserialize_cuda_engine(self, content: bytes) -> FakeEngine | None:
            try:
                return FakeEngine(driver, self._logger, json.loads(content))
            except ValueError:
                self._logger.log(_Severity.ERROR, "the magic tag   is wrong")
                return None

    return SimpleNamespace(
        __version__=version,
        ILogger=_Logger,
        Runtime=Runtime,
        DataType=_DataType,
        ExecutionContextAllocationStrategy=_Strategy,
        EngineStat=SimpleNamespace(TOTAL_WEIGHTS_SIZE=object()),
    )
