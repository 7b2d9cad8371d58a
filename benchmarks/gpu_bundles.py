"""The bundle contenders of benchmarks/gpu.py: every backend that is here and that a bundle has something for."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from gpu_clock import Clock
from numpy.typing import NDArray

from scclip_rt import Segmenter
from scclip_rt.bundle import Bundle
from scclip_rt.errors import ScclipError
from scclip_rt.vocabulary import Vocabulary

# name, backend, provider of ONNX Runtime, precisions tried
GPU_CONTENDERS = (
    ("ONNX Runtime CUDA fp32", "onnxruntime", "cuda", "fp32"),
    ("ONNX Runtime CUDA fp16", "onnxruntime", "cuda", "fp16"),
    ("ONNX Runtime TensorRT fp16", "onnxruntime", "tensorrt", "fp16"),
    ("TensorRT fp32", "tensorrt", None, "fp32"),
    ("TensorRT fp16", "tensorrt", None, "fp16"),
    ("TensorRT-RTX fp16", "tensorrt-rtx", None, "fp16"),
)
CPU_CONTENDERS = (("ONNX Runtime CPU fp32", "onnxruntime", "cpu", "fp32"),)


def bundle_rows(
    clock: Clock, path: Path, *, image: NDArray[np.uint8], queries: tuple[int, ...], batches: tuple[int, ...]
) -> Iterator[dict[str, Any]]:
    """Labels against the bundle's fp32 encoder on the CPU, then host-to-host times of the encoder and of an image.

    Yields:
        Rows of the questions `image` and `encode (host to host)`; `skipped` with the reason where a contender is not
        here or has nothing in the bundle.
    """
    bundle = Bundle.open(path)
    reference = _open(bundle, "onnxruntime", "cpu", "fp32", "cpu")
    wanted: dict[int, NDArray[Any]] = {}
    for count in queries:
        reference.set_classes(vocabulary=_vocabulary(bundle, count))
        wanted[count] = reference(image).labels
    device = "cpu" if not clock.on_gpu else f"cuda:{clock.device.index or 0}"
    for name, backend, provider, precision in GPU_CONTENDERS if clock.on_gpu else CPU_CONTENDERS:
        base = {"contender": name, "bundle": bundle.name}
        try:
            segmenter = _open(bundle, backend, provider, precision, device)
        except ScclipError as error:
            yield base | {"question": "image", "skipped": str(error)}
            continue
        yield from _image_rows(clock, base, segmenter, bundle, image, wanted)
        yield from _encode_rows(clock, base, segmenter, bundle, batches)
        close = getattr(segmenter.backend, "close", None)
        if close is not None:
            close()


def _open(bundle: Bundle, backend: str, provider: str | None, precision: str, device: str) -> Segmenter:
    options: dict[str, Any] = {"ort_provider": provider} if backend == "onnxruntime" else {}
    vocabulary = _vocabulary(bundle, 2)
    return Segmenter(
        bundle, vocabulary=vocabulary, backend=backend, precision=precision, device=device, **options
    )


def _image_rows(
    clock: Clock,
    base: dict[str, Any],
    segmenter: Segmenter,
    bundle: Bundle,
    image: NDArray[np.uint8],
    wanted: dict[int, NDArray[Any]],
) -> Iterator[dict[str, Any]]:
    for count, labels in wanted.items():
        segmenter.set_classes(vocabulary=_vocabulary(bundle, count))
        agreement = float((segmenter(image).labels == labels).mean())
        work: Callable[[], Any] = lambda: segmenter(image)  # noqa: E731
        info = segmenter.backend.describe()
        yield base | {
            "question": "image",
            "queries": count,
            "labels_as_fp32": agreement,
            "milliseconds": clock.host_time(work),
            "backend": dict(info),
        }


def _encode_rows(
    clock: Clock, base: dict[str, Any], segmenter: Segmenter, bundle: Bundle, batches: tuple[int, ...]
) -> Iterator[dict[str, Any]]:
    side = bundle.preprocessing.window
    rng = np.random.default_rng(0)
    for batch in batches:
        windows = rng.integers(0, 256, (batch, side, side, 3), dtype=np.uint8)
        backend = segmenter.backend
        yield base | {
            "question": "encode (host to host)",
            "windows": batch,
            "milliseconds": clock.host_time(lambda: backend.features(windows)),  # noqa: B023
        }


def _vocabulary(bundle: Bundle, queries: int) -> Vocabulary:
    """Random unit queries, each its own class."""
    rng = np.random.default_rng(0)
    drawn = rng.standard_normal((queries, bundle.model.embed_dim)).astype(np.float32)
    names = tuple(f"class {i}" for i in range(queries))
    return Vocabulary(
        embeddings=drawn / np.linalg.norm(drawn, axis=1, keepdims=True),
        classes=names,
        queries=names,
        query_class=np.arange(queries),
        background=None,
        templates="none",
        text_model_sha256=bundle.text_encoder.model_sha256,
    )
