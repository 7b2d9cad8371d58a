"""OpenVINO's intermediate representation: FILE.xml and FILE.bin."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scclip_rt.baking.converters.base import Run, Tensors, Weights
from scclip_rt.errors import BackendError, install

NAME = "OpenVINO"
SUFFIXES = (".xml", ".bin")
WEIGHTS: tuple[Weights, ...] = ("fp32", "fp16")


def _library() -> ModuleType:
    try:
        import openvino
    except ImportError as error:
        raise BackendError(
            f"openvino is not installed ({error}): {install('openvino')}", field="to"
        ) from error
    module: ModuleType = openvino
    return module


def version() -> str:
    """The library's version."""
    return str(_library().__version__).split("-", maxsplit=1)[0]


def convert(source: Path, target: Path, weights: Weights, chip: str | None) -> None:  # noqa: ARG001 (the protocol's)
    """Write FILE.xml and FILE.bin; see `Converter`."""
    library = _library()
    try:
        model = library.convert_model(str(source))
        library.save_model(model, str(target), compress_to_fp16=weights == "fp16")
    except Exception as error:  # its errors share no base class
        raise BackendError(
            f"OpenVINO does not convert {source.name}: {' '.join(str(error).split())[:300]}"
        ) from error


def open(target: Path, tensors: Tensors, threads: int) -> Run:  # noqa: A001 (the protocol's name)
    """Compile for the CPU in float32: its default takes bfloat16 where the processor has it."""
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads}
    compiled = _library().Core().compile_model(str(target), "CPU", settings)

    def run(image: NDArray[Any]) -> NDArray[Any]:
        return np.array(compiled({tensors.image: image})[tensors.result])

    return run
