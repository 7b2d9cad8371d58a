"""Every name and signature that the TensorRT builder uses, in the real bindings.

The bindings are a wheel; the libraries behind them are not (they come from NVIDIA's own index and want a GPU). With
empty libraries of the same names the module loads: nothing can be called, but everything can be looked at.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import fake_tensorrt

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
def bindings(empty_libraries: Path) -> dict:
    run = subprocess.run(
        [sys.executable, "-c", _SCRIPT, json.dumps([list(_CALLS), _ATTRIBUTES])],
        capture_output=True,
        text=True,
        env=os.environ | {"LD_LIBRARY_PATH": str(empty_libraries)},
        timeout=60,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


def test_every_attribute_is_there(bindings: dict) -> None:
    assert bindings["missing"] == []


@pytest.mark.parametrize("name", list(_CALLS))
def test_every_call_has_the_parameters_we_pass(name: str, bindings: dict) -> None:
    signatures = bindings["docs"][name]
    for parameter in _CALLS[name]:
        assert f"{parameter}: " in signatures, signatures
    if not _CALLS[name]:
        assert "(self: " in signatures
        assert "," not in signatures.partition(" ->")[0]
