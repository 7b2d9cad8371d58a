"""MNN: one file for phones and boards with ARM processors.

Only the compiled converter is imported: the Python around it (`MNN.tools.mnnconvert`) runs `pip install` when it is
imported, in whichever environment PATH names, and reports what was converted to a server.
"""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scclip_rt.baking.converters.base import Run, Tensors, Weights, library
from scclip_rt.baking.converters.noise import output_to
from scclip_rt.baking.converters.passes import scatter_axis_first
from scclip_rt.baking.library import load_onnx
from scclip_rt.baking.opset import lower_opset
from scclip_rt.errors import BackendError

NAME = "MNN"
SUFFIXES = (".mnn",)
WEIGHTS: tuple[Weights, ...] = ("fp32", "fp16", "int8")
_OPTIONS: dict[Weights, tuple[str, ...]] = {
    "fp32": (),
    "fp16": ("--fp16",),
    "int8": ("--weightQuantBits", "8"),
}
_OPSET = 17
"""From 18 on a reduction's axes are an input, which MNN 3.6.1's converter passes over: it reduces everything."""


def _library() -> Any:
    return library("MNN", "MNN", "mnn")


def version() -> str:
    """The library's version."""
    _library()
    return importlib.metadata.version("MNN")


def convert(source: Path, target: Path, weights: Weights, chip: str | None) -> None:  # noqa: ARG001 (the protocol's)
    """Write FILE.mnn; see `Converter`."""
    onnx = load_onnx()
    model = onnx.load(str(source))
    if any(node.op_type == "DequantizeLinear" for node in model.graph.node):
        raise BackendError(
            "MNN takes no quantised file: bake fp32 and keep its weights small with --weights int8"
        )
    lower_opset(model, _OPSET)
    scatter_axis_first(model)
    rewritten = target.with_suffix(".rewritten.onnx")
    onnx.save_model(model, str(rewritten))
    files = ["--modelFile", str(rewritten), "--MNNModel", str(target)]
    words = ["mnnconvert", "-f", "ONNX", *files, "--bizCode", "scclip", *_OPTIONS[weights]]
    # In a process of its own: at operators that it does not know it aborts.
    child = subprocess.run(
        [sys.executable, "-c", "import sys, _tools; _tools.mnnconvert(sys.argv[1:])", *words],
        capture_output=True,
        check=False,
    )
    rewritten.unlink()
    if child.returncode != 0 or not target.exists():
        said = " ".join((child.stdout + child.stderr).decode("utf-8", "replace").split())[-200:]
        raise BackendError(
            f"MNN {version()} does not convert {source.name} (exit code {child.returncode}): … {said}"
        )


def open(target: Path, tensors: Tensors, threads: int) -> Run:  # noqa: A001 (the protocol's name)
    """Load on the CPU, in float32."""
    mnn = _library()
    settings = {"backend": "CPU", "numThread": threads, "precision": "high"}
    with output_to():
        runtime = mnn.nn.create_runtime_manager((settings,))
        network = mnn.nn.load_module_from_file(
            str(target), [tensors.image], [tensors.result], runtime_manager=runtime
        )
    types = {"float32": mnn.expr.float, "uint8": mnn.expr.uint8}

    def run(image: NDArray[Any]) -> NDArray[Any]:
        given = mnn.expr.const(image, list(image.shape), mnn.expr.NCHW, types[str(image.dtype)])
        result = mnn.expr.convert(network.forward([given])[0], mnn.expr.NCHW)
        return np.array(result.read()).reshape(result.shape)

    return run
