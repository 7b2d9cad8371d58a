"""OpenVINO's intermediate representation: FILE.xml and FILE.bin."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scclip_rt.baking.converters.base import Run, Tensors, Weights, library, refusals

NAME = "OpenVINO"
SUFFIXES = (".xml", ".bin")
WEIGHTS: tuple[Weights, ...] = ("fp32", "fp16")


def _library() -> Any:
    return library("openvino", "openvino", "openvino")


def version() -> str:
    """The library's version."""
    return str(_library().__version__).split("-", maxsplit=1)[0]


def convert(source: Path, target: Path, weights: Weights, chip: str | None) -> None:  # noqa: ARG001 (the protocol's)
    """Write FILE.xml and FILE.bin; see `Converter`."""
    openvino = _library()
    with refusals("OpenVINO", source):
        model = openvino.convert_model(str(source))
        openvino.save_model(model, str(target), compress_to_fp16=weights == "fp16")


def open(target: Path, tensors: Tensors, threads: int) -> Run:  # noqa: A001 (the protocol's name)
    """Compile for the CPU in float32: its default takes bfloat16 where the processor has it."""
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads}
    compiled = _library().Core().compile_model(str(target), "CPU", settings)

    def run(image: NDArray[Any]) -> NDArray[Any]:
        return np.array(compiled({tensors.image: image})[tensors.result])

    return run
