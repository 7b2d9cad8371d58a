"""The machine's limit for matrix products: a library's own rate at the model's own shapes.

An encoder is mostly products of tokens with weights, so no graph can run faster than the library multiplies. The
products of one block are run alone, with the weights stored in the graph as the model's are (a library rearranges
those once), in each precision that library and processor have. numpy's BLAS beside them tells whether the library's
float32 rate is itself a good one.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scclip_rt.backends.openvino.encoder import load_openvino
from scclip_rt.backends.processor import BF16_FLAGS, processor_flags
from scclip_rt.bench.flops import Product
from scclip_rt.bench.onnx_graph import float_product, quantised_product
from scclip_rt.decode.threads import set_blas_threads

LIBRARIES = ("onnxruntime", "openvino")
"""Backends whose limit can be measured, on the CPU."""
YARDSTICK = "numpy"
_WARM_UP = 2

Run = Callable[[], object]


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitRequest:
    """Which limit: hashable, so that contenders share what is the same."""

    library: str
    threads: int
    products: tuple[Product, ...]

    def __str__(self) -> str:
        return f"{self.library}, {self.threads} threads, {self.products[0].rows:,} rows"


class GemmLimit:
    """The products of one block, ready to be timed; lives in a process of its own."""

    def __init__(self, request: LimitRequest) -> None:
        builders = {"onnxruntime": _onnxruntime_runs, "openvino": _openvino_runs}
        self._runs: dict[str, list[Run]] = builders[request.library](request)
        if request.library == LIBRARIES[0] and set_blas_threads(request.threads):
            self._runs[YARDSTICK] = [_numpy_run(product) for product in request.products]
        for runs in self._runs.values():
            for run in runs:
                for _ in range(_WARM_UP):
                    run()

    def seconds(self) -> dict[str, list[float]]:
        """For each precision (and numpy) the seconds of each product: the less of two runs, as it is a limit."""
        return {
            name: [min(_seconds(run), _seconds(run)) for run in runs] for name, runs in self._runs.items()
        }


def _seconds(run: Run) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def _onnxruntime_runs(request: LimitRequest) -> dict[str, list[Run]]:
    # No bf16: its CPU provider has no such product. fp16 is refused there (see the backend).
    from scclip_rt.backends.onnxruntime.session import cpu_session

    def run(model: bytes, x: NDArray[Any]) -> Run:
        session = cpu_session(model, threads=request.threads)
        return lambda: session.run(None, {"x": x})

    return {
        "fp32": [
            run(float_product(_weights(product)), _activations(product)) for product in request.products
        ],
        "int8": [
            run(quantised_product(*_quantised_weights(product)), _quantised_activations(product))
            for product in request.products
        ],
    }


def _openvino_runs(request: LimitRequest) -> dict[str, list[Run]]:
    core = load_openvino().Core()
    capabilities = core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")

    def run(model: bytes, product: Product, precision: str) -> Run:
        read = core.read_model(model)
        x = _activations(product)
        read.reshape({"x": list(x.shape)})
        config = {
            "INFERENCE_NUM_THREADS": request.threads,
            "NUM_STREAMS": 1,
            "INFERENCE_PRECISION_HINT": precision,
        }
        infer = core.compile_model(read, "CPU", config).create_infer_request()
        return lambda: infer.infer({0: x}, share_inputs=True, share_outputs=True)

    runs = {"fp32": [run(float_product(_weights(p)), p, "f32") for p in request.products]}
    if BF16_FLAGS & processor_flags():
        runs["bf16"] = [run(float_product(_weights(p)), p, "bf16") for p in request.products]
    if "INT8" in capabilities:
        runs["int8"] = [
            run(quantised_product(*_quantised_weights(p), float_input=True), p, "f32")
            for p in request.products
        ]
    return runs


def _numpy_run(product: Product) -> Run:
    x, w = _activations(product), _weights(product)
    return lambda: x @ w


def _activations(product: Product) -> NDArray[np.float32]:
    drawn = np.random.default_rng(0).standard_normal((product.rows, product.inner))
    return np.asarray(drawn * 0.3, dtype=np.float32)  # within the quantised models' [-1, 1)


def _quantised_activations(product: Product) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (product.rows, product.inner)).astype(np.uint8)


def _weights(product: Product) -> NDArray[np.float32]:
    drawn = np.random.default_rng(1).standard_normal((product.inner, product.outer))
    return np.asarray(drawn * product.inner**-0.5, dtype=np.float32)


def _quantised_weights(product: Product) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    drawn = np.random.default_rng(1).integers(-127, 128, (product.inner, product.outer)).astype(np.int8)
    return drawn, np.full(product.outer, 1e-3, np.float32)
