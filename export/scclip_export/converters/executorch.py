"""ExecuTorch: FILE.pte for phones and boards, lowered to XNNPACK where it has the operator."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from scclip_export.converters.baked_module import BakedModule
from scclip_rt.baking.converters.base import Run, Tensors, Weights, library, refusals
from scclip_rt.baking.converters.noise import output_to
from scclip_rt.errors import BackendError

NAME = "ExecuTorch"
SUFFIXES = (".pte",)
WEIGHTS: tuple[Weights, ...] = ("fp32",)


def version() -> str:
    """The library's version."""
    library("executorch.runtime", "executorch", "executorch")
    return importlib.metadata.version("executorch")


def convert(source: Path, target: Path, weights: Weights, chip: str | None) -> None:  # noqa: ARG001 (the protocol's)
    """Write FILE.pte; see `Converter`."""
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    module = BakedModule(source)
    with refusals(f"ExecuTorch {version()}", source), output_to():
        program = torch.export.export(module, (module.example(),))
        lowered = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()])
        target.write_bytes(lowered.to_executorch().buffer)


def open(target: Path, tensors: Tensors, threads: int) -> Run:  # noqa: A001, ARG001 (the protocol's)
    """Load in ExecuTorch's runtime, which takes its own number of threads."""
    from executorch.runtime import Runtime

    with output_to():
        method = Runtime.get().load_program(str(target)).load_method("forward")
    if method is None:
        raise BackendError("ExecuTorch finds no method `forward` in what it wrote")

    def run(image: NDArray[Any]) -> NDArray[Any]:
        return np.array(method.execute([torch.from_numpy(image)])[0].numpy())

    return run
