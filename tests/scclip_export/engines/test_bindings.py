"""Every name and signature that the TensorRT builder and the runtime use, in the real bindings.

The bindings are a wheel; the libraries behind them are not (they come from NVIDIA's own index and want a GPU). With
empty libraries of the same names the module loads: nothing can be called, but everything can be looked at.
"""

import functools
import json
from collections.abc import Callable

import pytest

from stand_ins import tensorrt as fake_tensorrt

pytestmark = pytest.mark.tensorrt

# What libraries.py, build.py, monitor.py and precisions.py call → the parameters they pass by name or position.
_CALLS = {
    "Builder.create_network": ["flags"],
    "Builder.create_builder_config": [],
    "Builder.create_optimization_profile": [],
    "Builder.build_serialized_network": ["network", "config"],
    "OnnxParser.parse_from_file": ["model"],
    "OnnxParser.get_error": ["index"],
    "ParserError.desc": [],
    "IBuilderConfig.clear_flag": ["flag"],
    "IBuilderConfig.set_flag": ["flag"],
    "IBuilderConfig.get_flag": ["flag"],
    "IBuilderConfig.set_memory_pool_limit": ["pool", "pool_size"],
    "IBuilderConfig.add_optimization_profile": ["profile"],
    "IBuilderConfig.create_timing_cache": ["serialized_timing_cache"],
    "IBuilderConfig.set_timing_cache": ["cache", "ignore_mismatch"],
    "IBuilderConfig.get_timing_cache": [],
    "ITimingCache.serialize": [],
    "IOptimizationProfile.set_shape": ["input", "min", "opt", "max"],
    "INetworkDefinition.get_layer": ["index"],
    "INetworkDefinition.get_input": ["index"],
    "ILayer.get_input": ["index"],
    "ILayer.get_output": ["index"],
    "Runtime.deserialize_cuda_engine": ["serialized_engine"],
    "ICudaEngine.create_engine_inspector": [],
    "EngineInspector.get_engine_information": ["format"],
}
_ATTRIBUTES = (
    "__version__",
    "ILogger.log",
    "ILogger.Severity.INTERNAL_ERROR",
    "ILogger.Severity.INFO",
    "IProgressMonitor",
    "IBuilderConfig.progress_monitor",
    "IBuilderConfig.builder_optimization_level",
    "IBuilderConfig.hardware_compatibility_level",
    "IBuilderConfig.profiling_verbosity",
    "OnnxParser.num_errors",
    "INetworkDefinition.num_layers",
    "INetworkDefinition.num_inputs",
    "ILayer.num_inputs",
    "ILayer.num_outputs",
    "ILayer.type",
    "ILayer.name",
    "ITensor.dtype",
    "ITensor.name",
    "ITensor.shape",
    "IConvolutionLayer.kernel_size_nd",
    "IConvolutionLayer.num_output_maps",
    "Runtime.engine_host_code_allowed",
    "ProfilingVerbosity.DETAILED",
    "LayerInformationFormat.JSON",
    "NetworkDefinitionCreationFlag.STRONGLY_TYPED",
    "LayerType.SQUEEZE",
    "LayerType.UNSQUEEZE",
    "LayerType.TOPK",
    "LayerType.EINSUM",
    # The stand-in that the life-cycle tests run against must not offer what the real module does not.
    *(
        f"{kind}.{member}"
        for kind in ("BuilderFlag", "MemoryPoolType", "HardwareCompatibilityLevel", "LayerType", "DataType")
        for member in getattr(fake_tensorrt, kind).__members__
    ),
)

# The same of scclip_rt/backends/tensorrt.py, for both libraries.
_RUNTIME_CALLS = {
    "Runtime.deserialize_cuda_engine": ["serialized_engine"],
    "ICudaEngine.get_tensor_name": ["index"],
    "ICudaEngine.get_tensor_dtype": ["name"],
    "ICudaEngine.get_tensor_shape": ["name"],
    "ICudaEngine.get_tensor_profile_shape": ["name", "profile_index"],
    "ICudaEngine.get_engine_stat": ["stat"],
    "ICudaEngine.create_execution_context": ["strategy"],
    "IExecutionContext.set_device_memory": ["memory", "size"],
    "IExecutionContext.set_input_shape": ["name", "shape"],
    "IExecutionContext.set_tensor_address": ["name", "memory"],
    "IExecutionContext.execute_async_v3": ["stream_handle"],
}
_RUNTIME_ATTRIBUTES = (
    "__version__",
    "ILogger.log",
    "ILogger.Severity.ERROR",
    "ICudaEngine.num_io_tensors",
    "ICudaEngine.device_memory_size_v2",
    "EngineStat.TOTAL_WEIGHTS_SIZE",
    "ExecutionContextAllocationStrategy.USER_MANAGED",
    "DataType.UINT8",
    "DataType.FLOAT",
)
# What TensorRT-RTX has besides.
_RTX_CALLS = {
    "ICudaEngine.create_runtime_config": [],
    "ICudaEngine.create_execution_context": ["strategy", "runtime_config"],
    "IExecutionContext.is_stream_capturable": ["stream"],
    "IRuntimeConfig.set_execution_context_allocation_strategy": ["strategy"],
    "IRuntimeConfig.create_runtime_cache": [],
    "IRuntimeConfig.set_runtime_cache": ["cache"],
    "IRuntimeCache.deserialize": ["blob"],
    "IRuntimeCache.serialize": [],
}
_RTX_ATTRIBUTES = (
    "IRuntimeConfig.dynamic_shapes_kernel_specialization_strategy",
    "DynamicShapesKernelSpecializationStrategy.EAGER",
    "IHostMemory.__enter__",
)

_SCRIPT = """
import functools, json, sys
import tensorrt_bindings as trt
def find(name):
    return functools.reduce(getattr, name.split("."), trt)
calls, attributes = json.loads(sys.argv[1])
docs = {}
for name in calls:
    docs[name] = find(name).__doc__ or ""
missing = []
for name in attributes:
    try:
        find(name)
    except AttributeError:
        missing.append(name)
print(json.dumps({"docs": docs, "missing": missing, "version": trt.__version__}))
"""


@pytest.fixture(scope="module")
def bindings(with_bindings: Callable[..., str]) -> dict:
    asked = [[*_CALLS, *_RUNTIME_CALLS], [*_ATTRIBUTES, *_RUNTIME_ATTRIBUTES]]
    return json.loads(with_bindings("-c", _SCRIPT, json.dumps(asked)))


def test_every_attribute_is_there(bindings: dict) -> None:
    assert bindings["missing"] == []


@pytest.mark.parametrize("name", list(_CALLS | _RUNTIME_CALLS))
def test_every_call_has_the_parameters_we_pass(name: str, bindings: dict) -> None:
    _check_signature(bindings["docs"][name], {**_CALLS, **_RUNTIME_CALLS}[name])


def test_tensorrt_rtx_has_what_the_runtime_calls() -> None:
    """The real module: it loads without a GPU."""
    trt = pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx-cu13 is not installed (extra dev)")

    def find(name: str) -> object:
        return functools.reduce(getattr, name.split("."), trt)

    for name, parameters in (_RUNTIME_CALLS | _RTX_CALLS).items():
        _check_signature(find(name).__doc__ or "", parameters)
    for name in (*_RUNTIME_ATTRIBUTES, *_RTX_ATTRIBUTES):
        find(name)


def _check_signature(signatures: str, parameters: list[str]) -> None:
    for parameter in parameters:
        assert f"{parameter}: " in signatures, signatures
    if not parameters:
        assert "(self: " in signatures
        assert "," not in signatures.partition(" ->")[0]
