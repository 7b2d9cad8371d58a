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
from scclip_rt.baking.converters.base import Run, Tensors, Weights
from scclip_rt.baking.converters.noise import output_to
from scclip_rt.baking.library import load_onnx
from scclip_rt.errors import BackendError, install

NAME = "Core ML"
SUFFIXES = (".mlpackage",)
WEIGHTS: tuple[Weights, ...] = ("fp32", "fp16")


def _library() -> Any:
    try:
        with output_to():
            import coremltools
    except ImportError as error:
        raise BackendError(
            f"coremltools is not installed ({error}): {install('coreml')}", field="to"
        ) from error
    return coremltools


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
    library, module = _library(), BakedModule(source)
    if module.dtype != torch.float32:
        raise BackendError("Core ML takes float pixels: bake with --pixels unit or byte")
    result = load_onnx().load(str(source), load_external_data=False).graph.output[0].name
    precision = library.precision.FLOAT16 if weights == "fp16" else library.precision.FLOAT32
    try:
        with output_to():
            program = torch.export.export(module, (module.example(),)).run_decompositions({})
            converted = library.convert(
                program,
                outputs=[library.TensorType(name=result)],
                compute_precision=precision,
                minimum_deployment_target=library.target.iOS17,
            )
            converted.save(str(target))
    except Exception as error:  # its errors share no base class
        raise BackendError(
            f"coremltools does not convert {source.name}: {' '.join(str(error).split())[:300]}"
        ) from error


def open(target: Path, tensors: Tensors, threads: int) -> Run:  # noqa: A001, ARG001 (the protocol's)
    """Load on the CPU."""
    library = _library()
    model = library.models.MLModel(str(target), compute_units=library.ComputeUnit.CPU_ONLY)

    def run(image: NDArray[Any]) -> NDArray[Any]:
        return np.asarray(model.predict({tensors.image: image})[tensors.result])

    return run
