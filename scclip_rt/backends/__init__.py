"""Backends: what runs the graphs of a bundle, chosen by name, never falling back in silence."""

import importlib
from types import MappingProxyType
from typing import cast

from scclip_rt.backends.base import (
    BackendInfo,
    BackendModule,
    EncoderBackend,
    EncoderRequest,
    GridChoice,
    TextBackend,
)
from scclip_rt.backends.choose import choose as choose_backend
from scclip_rt.bundle.bundle import Bundle
from scclip_rt.errors import BackendError, OptionError

__all__ = [
    "BACKENDS",
    "BackendInfo",
    "EncoderBackend",
    "EncoderRequest",
    "TextBackend",
    "open_backend",
    "open_text_backend",
]

BACKENDS = MappingProxyType(
    {
        "onnxruntime": "scclip_rt.backends.onnxruntime.encoder",
        "openvino": "scclip_rt.backends.openvino.encoder",
        "tensorrt": "scclip_rt.backends.tensorrt",
        "tensorrt-rtx": "scclip_rt.backends.tensorrt_rtx",
    }
)
"""Name → module with an `open_encoder` (`BackendModule`), imported when it is chosen."""


def open_backend(
    bundle: Bundle,
    *,
    backend: str = "auto",
    device: str = "auto",
    precision: str = "auto",
    ort_provider: str | None = None,
    threads: int | None = None,
    batch: int | None = None,
    grid: GridChoice = "window",
) -> EncoderBackend:
    """Load an image encoder of a bundle.

    Args:
        bundle: an open bundle.
        backend: a name of `BACKENDS`, or `auto`: see `scclip_rt.backends.choose`.
        device: `cpu`, `cuda:N`, or `auto`: a GPU if the provider asked for needs one, else the CPU.
        precision: `fp32`, `bf16`, `int8`, …; `auto` for the most accurate that suits the device; `fast` for the
            fastest that the bundle and the processor have.
        ort_provider: ONNX Runtime's `cpu`, `cuda`, `cuda-graphs` or `tensorrt`; None follows `device`.
        threads: CPU threads of one inference; None takes what `scclip tune` found, else the cores this process may use.
        batch: most windows at once; None takes what `scclip tune` found, else the backend's own number.
        grid: `window` for sliding windows, `whole` for whole-image encoders.

    Raises:
        BackendError: something asked for is unknown, not installed or not in the bundle.
        BundleError: the graph is damaged or does not agree with bundle.json.
        OptionError: `threads` or `batch` under 1.
    """
    _check_options(backend, threads, batch)
    if not isinstance(device, str):
        raise BackendError(f"unknown device {device!r}; known: auto, cpu, cuda:N", field="device")
    choice = choose_backend(
        bundle,
        backend=backend,
        device=device,
        precision=precision,
        ort_provider=ort_provider,
        threads=threads,
        batch=batch,
        grid=grid,
    )
    request = EncoderRequest(
        device=device,
        precision=choice.precision,
        ort_provider=ort_provider,
        threads=choice.threads if threads is None else threads,
        batch=choice.batch if batch is None else batch,
        grid=grid,
        reason=choice.reason,
        engine=choice.engine,
    )
    module = cast("BackendModule", importlib.import_module(BACKENDS[choice.backend]))
    return module.open_encoder(bundle, request)


def open_text_backend(bundle: Bundle, *, precision: str = "fp32", threads: int | None = None) -> TextBackend:
    """Load the text encoder of a bundle, on the CPU: a vocabulary is embedded once.

    Args:
        bundle: an open bundle.
        precision: `fp32`, or `int8` where the bundle has that.
        threads: CPU threads; None takes the cores this process may use.

    Raises:
        BackendError: the bundle has no such text encoder.
        OptionError: `threads` is less than 1.
        BundleError: the graph is damaged or does not agree with bundle.json.
    """
    _check_options("auto", threads, None)
    from scclip_rt.backends.onnxruntime.encoder import open_text

    return open_text(bundle, precision=precision, threads=threads)


def _check_options(backend: str, threads: int | None, batch: int | None) -> None:
    if backend != "auto" and backend not in BACKENDS:
        raise BackendError(
            f"unknown backend {backend!r}; this version offers: auto, {', '.join(BACKENDS)}", field="backend"
        )
    for name, value in (("threads", threads), ("batch", batch)):
        if value is not None and value < 1:
            raise OptionError(f"{name} must be at least 1; got {value}", field=name)
