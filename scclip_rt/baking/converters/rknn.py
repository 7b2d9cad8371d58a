"""RKNN: Rockchip's neural processors (RK3566, RK3576, RK3588, …), which compute in float16.

The check runs in RKNN's own simulator on this machine, not on a board.
"""

from __future__ import annotations

import importlib.metadata
import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scclip_rt.baking.converters.base import Run, Tensors, Weights, library
from scclip_rt.baking.converters.noise import output_to
from scclip_rt.baking.converters.passes import scatter_as_product
from scclip_rt.baking.library import load_onnx
from scclip_rt.baking.opset import lower_opset, opset_of
from scclip_rt.errors import BackendError

NAME = "RKNN"
SUFFIXES = (".rknn",)
WEIGHTS: tuple[Weights, ...] = ("fp16",)
_OPSET = 19
_BUILT: dict[Path, Any] = {}
"""The simulator runs only what was built in this process, not a file."""


def _library() -> Any:
    return library("rknn.api", "rknn-toolkit2", "rknn", where=", in an environment of its own").RKNN


def version() -> str:
    """The library's version."""
    _library()
    return importlib.metadata.version("rknn-toolkit2")


def convert(source: Path, target: Path, weights: Weights, chip: str | None) -> None:  # noqa: ARG001 (the protocol's)
    """Write FILE.rknn; see `Converter`."""
    onnx = load_onnx()
    model = onnx.load(str(source))
    image = model.graph.input[0].type.tensor_type
    if image.elem_type != onnx.TensorProto.FLOAT or any(dim.dim_value == 0 for dim in image.shape.dim):
        raise BackendError(
            "RKNN takes float pixels and a fixed batch: bake with --pixels unit or byte and --batch 1"
        )
    if any(node.op_type == "DequantizeLinear" for node in model.graph.node):
        raise BackendError("RKNN takes no quantised file: bake fp32")
    lower_opset(model, min(_OPSET, opset_of(model)))
    scatter_as_product(model)
    rewritten = target.with_suffix(".rewritten.onnx")
    onnx.save_model(model, str(rewritten))
    built = _library()(verbose=False)
    with output_to(target.with_suffix(".log")) as log:
        built.config(target_platform=chip or "rk3588")
        codes = [built.load_onnx(model=str(rewritten))]
        codes += [built.build(do_quantization=False)] if codes == [0] else []
        codes += [built.export_rknn(str(target))] if codes == [0, 0] else []
    rewritten.unlink()
    said = log.read_text("utf-8", "replace")
    log.unlink()
    missing = sorted(set(re.findall(r"No lowering found for: .*?node type = (\w+)", said)))
    if codes != [0, 0, 0] or missing:
        why = f"its processor has no {', '.join(missing)}" if missing else " ".join(said.split())[-200:]
        raise BackendError(f"RKNN {version()} does not convert {source.name}: {why}")
    _BUILT[target] = built


def open(target: Path, tensors: Tensors, threads: int) -> Run:  # noqa: A001, ARG001 (the protocol's)
    """Start the simulator on what `convert` built."""
    built = _BUILT.pop(target)
    with output_to(target.with_suffix(".log")) as log:
        code = built.init_runtime()
    log.unlink()
    if code != 0:
        raise BackendError(f"RKNN's simulator does not start (code {code})")

    def run(image: NDArray[Any]) -> NDArray[Any]:
        with output_to(log):
            (result,) = built.inference(inputs=[image], data_format="nchw")
        log.unlink()
        return np.asarray(result)

    return run
