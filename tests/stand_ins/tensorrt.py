"""A stand-in for the `tensorrt` module: its names and calls (checked against the real bindings), no GPU, no engine.

The network it "parses" is made of layers that a test gives; what a builder was told stands in `Builder.last`.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from types import SimpleNamespace
from typing import Any


class DataType(IntEnum):
    FLOAT = 0
    HALF = 1
    UINT8 = 5
    FP8 = 6
    BF16 = 7


class LayerType(IntEnum):
    CONVOLUTION = 0
    SHUFFLE = 1
    CONSTANT = 2
    MATRIX_MULTIPLY = 3
    SOFTMAX = 4
    NORMALIZATION = 5
    ELEMENTWISE = 6
    CAST = 7
    PLUGIN_V3 = 8
    QUANTIZE = 9
    DEQUANTIZE = 10


BuilderFlag = IntEnum("BuilderFlag", ["TF32", "VERSION_COMPATIBLE"])
MemoryPoolType = IntEnum("MemoryPoolType", ["WORKSPACE"])
ProfilingVerbosity = IntEnum("ProfilingVerbosity", ["LAYER_NAMES_ONLY", "DETAILED"])
LayerInformationFormat = IntEnum("LayerInformationFormat", ["ONELINE", "JSON"])
HardwareCompatibilityLevel = IntEnum(
    "HardwareCompatibilityLevel", ["NONE", "AMPERE_PLUS", "SAME_COMPUTE_CAPABILITY"]
)


class NetworkDefinitionCreationFlag(IntEnum):
    STRONGLY_TYPED = 1  # as in TensorRT 10; a test of 11 must not look at it


class ILogger:
    class Severity(IntEnum):
        INTERNAL_ERROR = 0
        ERROR = 1
        WARNING = 2
        INFO = 3
        VERBOSE = 4


class IProgressMonitor:
    pass


@dataclass
class Tensor:
    name: str
    dtype: DataType
    shape: tuple[int, ...]


@dataclass
class Layer:
    name: str
    type: LayerType
    inputs: list[Tensor]
    outputs: list[Tensor]

    @property
    def num_inputs(self) -> int:
        return len(self.inputs)

    @property
    def num_outputs(self) -> int:
        return len(self.outputs)

    def get_input(self, index: int) -> Tensor:
        return self.inputs[index]

    def get_output(self, index: int) -> Tensor:
        return self.outputs[index]


def linear(name: str, dtype: DataType, rows: int, columns: int) -> list[Layer]:
    """A product with constant weights, broadcast as the ONNX parser does it."""
    weight = Tensor(f"{name}.weight", dtype, (rows, columns))
    broadcast = Tensor(f"{name}.broadcast", dtype, (1, rows, columns))
    given, result = Tensor(f"{name}.in", dtype, (-1, 7, rows)), Tensor(f"{name}.out", dtype, (-1, 7, columns))
    return [
        Layer(f"{name}.constant", LayerType.CONSTANT, [], [weight]),
        Layer(f"{name}.shuffle", LayerType.SHUFFLE, [weight], [broadcast]),
        Layer(name, LayerType.MATRIX_MULTIPLY, [given, broadcast], [result]),
    ]


def linear_fp8(name: str, rows: int, columns: int) -> list[Layer]:
    """The same with float8 operands in a float16 network."""
    narrow, wide = DataType.FP8, DataType.HALF
    stored, weight = (
        Tensor(f"{name}.e4m3", narrow, (columns, rows)),
        Tensor(f"{name}.weight", wide, (columns, rows)),
    )
    given, levels = Tensor(f"{name}.in", wide, (-1, rows)), Tensor(f"{name}.levels", narrow, (-1, rows))
    rounded = Tensor(f"{name}.rounded", wide, (-1, rows))
    return [
        Layer(f"{name}.constant", LayerType.CONSTANT, [], [stored]),
        Layer(f"{name}.stored", LayerType.DEQUANTIZE, [stored], [weight]),
        Layer(f"{name}.quantize", LayerType.QUANTIZE, [given], [levels]),
        Layer(f"{name}.dequantize", LayerType.DEQUANTIZE, [levels], [rounded]),
        Layer(
            name, LayerType.MATRIX_MULTIPLY, [rounded, weight], [Tensor(f"{name}.out", wide, (-1, columns))]
        ),
    ]


def product(name: str, dtype: DataType) -> Layer:
    """A product of two activations, such as similarities."""
    a, b, c = (Tensor(f"{name}.{part}", dtype, (-1, 7, 7)) for part in "abc")
    return Layer(name, LayerType.MATRIX_MULTIPLY, [a, b], [c])


def encoder_layers(trunk: DataType) -> list[Layer]:
    """A trunk of two linear layers, fp32 similarities, and a small fp32 projection."""
    return [
        *linear("fc", trunk, 96, 384),
        *linear("proj", trunk, 384, 96),
        product("similarities", DataType.FLOAT),
        *linear("projection", DataType.FLOAT, 96, 16),
    ]


def gemm(dtype: str, *, version: int = 11, tactic: str = "_gemm_mha_v2_0x0123") -> dict[str, Any]:
    """A layer as the inspector of TensorRT 10 or 11 describes it, by a kernel whose name says no dtype."""
    formats = {
        "Half": "Row major linear FP16 format",
        "Float": "Row major linear FP32 format",
        "FP8": "Row major linear FP8 format",
    }
    tensor: dict[str, Any] = {"Name": "x", "Dimensions": [6, 197, 768]}
    tensor |= (
        {"DataType": dtype, "Format": "kLINEAR"} if version == 11 else {"Format/Datatype": formats[dtype]}
    )
    return {"Name": "fc", "LayerType": "gemm", "Inputs": [tensor], "Outputs": [], "TacticName": tactic}


@dataclass
class Network:
    flags: int
    layers: list[Layer] = field(default_factory=list)
    inputs: list[str] = field(default_factory=lambda: ["windows", "text"])

    @property
    def num_layers(self) -> int:
        return len(self.layers)

    @property
    def num_inputs(self) -> int:
        return len(self.inputs)

    def get_layer(self, index: int) -> Layer:
        return self.layers[index]

    def get_input(self, index: int) -> Tensor:
        return Tensor(self.inputs[index], DataType.FLOAT, ())


class Config:
    def __init__(self, fake: "FakeTensorrt") -> None:
        self.fake, self.flags, self.pools = fake, {BuilderFlag.TF32}, {}
        self.profiles: list[Profile] = []
        self.cache: TimingCache | None = None
        self.progress_monitor: Any = None

    def set_flag(self, flag: BuilderFlag) -> None:
        self.flags.add(flag)

    def clear_flag(self, flag: BuilderFlag) -> None:
        if not self.fake.stubborn:
            self.flags.discard(flag)

    def get_flag(self, flag: BuilderFlag) -> bool:
        return flag in self.flags

    def set_memory_pool_limit(self, pool: MemoryPoolType, pool_size: int) -> None:
        self.pools[pool] = pool_size

    def add_optimization_profile(self, profile: "Profile") -> int:
        self.profiles.append(profile)
        return len(self.profiles) - 1

    def create_timing_cache(self, serialized_timing_cache: bytes) -> "TimingCache":
        return TimingCache(serialized_timing_cache)

    def set_timing_cache(self, cache: "TimingCache", ignore_mismatch: bool) -> bool:
        self.cache = cache
        return ignore_mismatch or not cache.content.startswith(b"foreign")

    def get_timing_cache(self) -> "TimingCache | None":
        return self.cache


@dataclass
class TimingCache:
    content: bytes

    def serialize(self) -> bytes:
        return self.content + b"+"


@dataclass
class Profile:
    shapes: dict[str, tuple[Sequence[int], ...]] = field(default_factory=dict)

    def set_shape(self, input: str, min: Sequence[int], opt: Sequence[int], max: Sequence[int]) -> None:  # noqa: A002
        self.shapes[input] = (tuple(min), tuple(opt), tuple(max))


class FakeTensorrt:
    """The module; attributes say how it behaves."""

    def __init__(self, layers: list[Layer], version: str = "10.14.1.48") -> None:
        self.__version__ = version
        self.layers = layers
        self.plan: bytes | None = b"a plan"
        self.loads = True
        self.stubborn = False
        self.parse_errors: list[str] = []
        self.build_error = ""
        self.inspector: dict[str, Any] = {"Layers": []}
        self.built: list[tuple[Network, Config]] = []
        self.host_code: list[bool] = []
        self.during_build: Any = None
        self.during_parse: Any = None
        for name, value in globals().items():
            if isinstance(value, type) and name not in ("FakeTensorrt",):
                setattr(self, name, value)

    def Builder(self, logger: Any) -> Any:  # noqa: N802
        fake = self

        class Builder:
            def create_network(self, flags: int = 0) -> Network:
                return Network(flags)

            def create_builder_config(self) -> Config:
                return Config(fake)

            def create_optimization_profile(self) -> Profile:
                return Profile()

            def build_serialized_network(self, network: Network, config: Config) -> bytes | None:
                fake.built.append((network, config))
                if fake.during_build is not None:
                    fake.during_build(config)
                if fake.build_error:
                    logger.log(ILogger.Severity.ERROR, fake.build_error)
                    return None
                return fake.plan

        return Builder()

    def OnnxParser(self, network: Network, logger: Any) -> Any:  # noqa: N802
        fake = self

        class Parser:
            num_errors = len(fake.parse_errors)

            def parse_from_file(self, model: str) -> bool:
                logger.log(ILogger.Severity.WARNING, "a warning")
                logger.log(ILogger.Severity.WARNING, "a warning")
                logger.log(ILogger.Severity.VERBOSE, "chatter")
                assert model.endswith(".onnx")
                if fake.during_parse is not None:
                    fake.during_parse(model)
                network.layers = fake.layers
                return not fake.parse_errors

            def get_error(self, index: int) -> Any:
                return SimpleNamespace(desc=lambda: fake.parse_errors[index])

        return Parser()

    def Runtime(self, _logger: Any) -> Any:  # noqa: N802
        fake = self

        class Runtime:
            engine_host_code_allowed = False

            def deserialize_cuda_engine(self, _plan: bytes) -> Any:
                fake.host_code.append(self.engine_host_code_allowed)
                if not fake.loads:
                    return None
                inspector = SimpleNamespace(get_engine_information=lambda _format: json.dumps(fake.inspector))
                return SimpleNamespace(create_engine_inspector=lambda: inspector)

        return Runtime()
