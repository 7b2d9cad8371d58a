"""Core ML: FILE.mlpackage for Apple's devices.

Core ML predicts on macOS alone, so only there can a result be compared.
"""

from __future__ import annotations

import importlib.metadata
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from scclip_export.converters.baked_module import BakedModule
from scclip_rt.baking.converters.base import Run, Tensors, Weights, library, refusals
from scclip_rt.baking.converters.noise import output_to
from scclip_rt.baking.library import load_onnx
from scclip_rt.errors import BackendError

NAME = "Core ML"
SUFFIXES = (".mlpackage",)
WEIGHTS: tuple[Weights, ...] = ("fp32", "fp16")


def _library() -> Any:
    return library("coremltools", "coremltools", "coreml")


def version() -> str:
    """The library's version.

    Raises:
        BackendError: it is not installed, or this is no Mac.
    """
    _library()
    if sys.platform != "darwin":
        raise BackendError(
            "Core ML runs on macOS alone, and what can't be compared is not written: run this command on a Mac",
            field="to",
        )
    return importlib.metadata.version("coremltools")


def convert(source: Path, target: Path, weights: Weights, chip: str | None) -> None:  # noqa: ARG001 (the protocol's)
    """Write FILE.mlpackage; see `Converter`. fp16 is computed with, too."""
    coreml, module = _library(), BakedModule(source)
    if module.dtype != torch.float32:
        raise BackendError("Core ML takes float pixels: bake with --pixels unit or byte")
    result = load_onnx().load(str(source), load_external_data=False).graph.output[0].name
    precision = coreml.precision.FLOAT16 if weights == "fp16" else coreml.precision.FLOAT32
    with refusals("coremltools", source), output_to():
        program = torch.export.export(module, (module.example(),)).run_decompositions({})
        converted = coreml.convert(
            program,
            outputs=[coreml.TensorType(name=result)],
            compute_precision=precision,
            minimum_deployment_target=coreml.target.iOS17,
        )
        converted.save(str(target))


def open(target: Path, tensors: Tensors, threads: int) -> Run:  # noqa: A001, ARG001 (the protocol's)
    """Load on the CPU."""
    coreml = _library()
    model = coreml.models.MLModel(str(target), compute_units=coreml.ComputeUnit.CPU_ONLY)

    def run(image: NDArray[Any]) -> NDArray[Any]:
        return np.asarray(model.predict({tensors.image: image})[tensors.result])

    return run
