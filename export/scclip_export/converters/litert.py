"""LiteRT (once TensorFlow Lite): FILE.tflite for Android, iOS and microprocessors."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scclip_export.converters.baked_module import BakedModule
from scclip_rt.baking.converters.base import Run, Tensors, Weights, library, refusals
from scclip_rt.baking.converters.noise import output_to

NAME = "LiteRT"
SUFFIXES = (".tflite",)
WEIGHTS: tuple[Weights, ...] = ("fp32", "fp16", "int8")


def _library() -> Any:
    return library("litert_torch", "litert-torch", "litert", where=", in an environment of its own")


def version() -> str:
    """The converter's version and the runtime's."""
    _library()
    converter, runtime = (importlib.metadata.version(name) for name in ("litert-torch", "ai-edge-litert"))
    return f"{converter}, runtime {runtime}"


def convert(source: Path, target: Path, weights: Weights, chip: str | None) -> None:  # noqa: ARG001 (the protocol's)
    """Write FILE.tflite; see `Converter`."""
    litert, module = _library(), BakedModule(source)
    with refusals(f"LiteRT {version()}", source), output_to():
        litert.convert(module, (module.example(),)).export(str(target))
        if weights != "fp32":
            _narrow(target, weights)


def _narrow(target: Path, weights: Weights) -> None:
    """Keep weights in 8 or 16 bits; arithmetic stays in float32."""
    from ai_edge_quantizer import quantizer, recipe_manager
    from ai_edge_quantizer.algorithm_manager import AlgorithmName
    from ai_edge_quantizer.qtyping import (
        ComputePrecision,
        OpQuantizationConfig,
        QuantGranularity,
        TensorDataType,
        TensorQuantizationConfig,
    )
    from ai_edge_quantizer.qtyping import TFLOperationName as Operation

    half = weights == "fp16"
    config = TensorQuantizationConfig(
        num_bits=16 if half else 8,
        symmetric=True,
        granularity=QuantGranularity.TENSORWISE if half else QuantGranularity.CHANNELWISE,
        dtype=TensorDataType.FLOAT if half else TensorDataType.INT,
    )
    rules = recipe_manager.RecipeManager()
    rules.add_quantization_config(
        regex=".*",
        operation_name=Operation.FULLY_CONNECTED,
        op_config=OpQuantizationConfig(
            weight_tensor_config=config,
            compute_precision=ComputePrecision.FLOAT,
            explicit_dequantize=True,
        ),
        algorithm_key=AlgorithmName.FLOAT_CASTING if half else AlgorithmName.MIN_MAX_UNIFORM_QUANT,
    )
    result = quantizer.Quantizer(str(target), rules.get_quantization_recipe()).quantize()
    result.export_model(str(target), overwrite=True)


def open(target: Path, tensors: Tensors, threads: int) -> Run:  # noqa: A001, ARG001 (the protocol's)
    """Load in LiteRT's interpreter, with its XNNPACK delegate."""
    from ai_edge_litert.interpreter import Interpreter

    with output_to():
        interpreter = Interpreter(str(target), num_threads=threads)
        interpreter.allocate_tensors()
    (image,), (result,) = interpreter.get_input_details(), interpreter.get_output_details()

    def run(given: NDArray[Any]) -> NDArray[Any]:
        interpreter.set_tensor(image["index"], given)
        interpreter.invoke()
        return np.array(interpreter.get_tensor(result["index"]))

    return run
