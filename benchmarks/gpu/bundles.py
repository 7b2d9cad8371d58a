"""The bundle contenders of benchmarks/gpu: every backend that is here and that a bundle has something for."""

import tempfile
from collections.abc import Callable, Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.gpu.forms import write_form
from benchmarks.gpu.run import Row, Run
from scclip_rt import Segmenter
from scclip_rt.bundle.bundle import Bundle
from scclip_rt.errors import BackendError, ScclipError
from scclip_rt.vocabulary.file import Vocabulary

Expected = Callable[[int], NDArray[Any]]
"""Labels of the bundle's float32 encoder on the CPU, by the number of queries."""

# name, backend, provider of ONNX Runtime, precisions tried, form of `benchmarks.gpu.forms` (None: the bundle as it is)
GPU_CONTENDERS = (
    ("ONNX Runtime CUDA fp32", "onnxruntime", "cuda", "fp32", None),
    ("ONNX Runtime CUDA fp16", "onnxruntime", "cuda", "fp16", "plain"),
    ("ONNX Runtime CUDA fp16, Attention", "onnxruntime", "cuda", "fp16", "attention"),
    ("ONNX Runtime CUDA fp16, biases behind", "onnxruntime", "cuda", "fp16", "biases"),
    ("ONNX Runtime CUDA fp16, its graphs", "onnxruntime", "cuda-graphs", "fp16", "plain"),
    ("ONNX Runtime CUDA fp16, Attention, its graphs", "onnxruntime", "cuda-graphs", "fp16", "attention"),
    ("ONNX Runtime TensorRT fp16", "onnxruntime", "tensorrt", "fp16", None),
    ("TensorRT fp32", "tensorrt", None, "fp32", None),
    ("TensorRT fp16", "tensorrt", None, "fp16", None),
    ("TensorRT fp8", "tensorrt", None, "fp8", None),
    ("TensorRT-RTX fp16", "tensorrt-rtx", None, "fp16", None),
    ("TensorRT-RTX fp8", "tensorrt-rtx", None, "fp8", None),
)
CPU_CONTENDERS = (
    ("ONNX Runtime CPU fp32", "onnxruntime", "cpu", "fp32", "plain"),
    ("ONNX Runtime CPU fp32, biases behind", "onnxruntime", "cpu", "fp32", "biases"),
)


def measure_bundle(
    run: Run, path: Path, *, arch: str, image: NDArray[np.uint8], agreement: Mapping[str, float]
) -> None:
    """Labels against the bundle's fp32 encoder on the CPU, then host-to-host times of an image and of the encoder.

    Rows of the questions `image` and `encode (host to host)`; one with `skipped` and the reason where a contender is
    not here or has nothing in the bundle.
    """
    with tempfile.TemporaryDirectory() as folder:
        _measure(run, Bundle.open(path), Path(folder), arch, image, agreement)


def _measure(
    run: Run,
    bundle: Bundle,
    folder: Path,
    arch: str,
    image: NDArray[np.uint8],
    agreement: Mapping[str, float],
) -> None:
    """See `measure_bundle`; the forms of the bundle go to `folder`."""
    device = f"cuda:{run.clock.device.index or 0}" if run.clock.on_gpu else "cpu"
    # Opened and labelled when first asked for: a run that goes on may have all rows already.
    reference = cache(partial(_open, bundle, "onnxruntime", "cpu", "fp32", "cpu"))
    expected = cache(lambda queries: _labels(reference(), image, queries))
    of_form = cache(
        lambda form: Bundle.open(write_form(bundle.path, form, folder / form)) if form else bundle
    )
    for name, backend, provider, precision, form in GPU_CONTENDERS if run.clock.on_gpu else CPU_CONTENDERS:
        base = {"arch": arch, "bundle": bundle.name, "contender": name, "precision": precision}
        images = [base | {"question": "image", "queries": count} for count in run.args.queries]
        asked = {"question": "encode (host to host)"}
        encodes = [base | asked | {"windows": batch} for batch in run.args.windows]
        if not any(run.wants(row) for row in (*images, *encodes)):
            continue
        try:
            segmenter = _open(of_form(form), backend, provider, precision, device)
            if form == "attention" and "opset23" not in segmenter.backend.describe()["encoder"]:
                raise BackendError(segmenter.backend.describe()["reason"])
        except (ScclipError, ValueError) as error:
            for row in (*images, *encodes):
                if run.found(row) is None:
                    run.add(row | {"skipped": str(error)})
            continue
        least = agreement[precision]
        for row in images:
            run.attempt(row, partial(_image_row, run, segmenter, image, row["queries"], expected, least))
        for row in encodes:
            run.attempt(row, partial(_encode_row, run, segmenter, row["windows"]))
        close = getattr(segmenter.backend, "close", None)
        if close is not None:
            close()


def _open(bundle: Bundle, backend: str, provider: str | None, precision: str, device: str) -> Segmenter:
    options: dict[str, Any] = {"ort_provider": provider} if backend == "onnxruntime" else {}
    vocabulary = _vocabulary(bundle, 2)
    return Segmenter(
        bundle, vocabulary=vocabulary, backend=backend, precision=precision, device=device, **options
    )


def _labels(segmenter: Segmenter, image: NDArray[np.uint8], queries: int) -> NDArray[Any]:
    segmenter.set_classes(vocabulary=_vocabulary(segmenter.bundle, queries))
    return segmenter(image).labels


def _image_row(
    run: Run, segmenter: Segmenter, image: NDArray[np.uint8], queries: int, expected: Expected, least: float
) -> Row:
    agreement = float((_labels(segmenter, image, queries) == expected(queries)).mean())
    if agreement < least:
        raise ValueError(f"labels agree with float32's on {agreement:.3%} of pixels; not timed")
    taken = run.clock.host_time(partial(segmenter, image))
    return {"labels_as_fp32": agreement, "milliseconds": taken, "backend": dict(segmenter.backend.describe())}


def _encode_row(run: Run, segmenter: Segmenter, batch: int) -> Row:
    side = segmenter.bundle.preprocessing.window
    windows = np.random.default_rng(0).integers(0, 256, (batch, side, side, 3), dtype=np.uint8)
    return {"milliseconds": run.clock.host_time(partial(segmenter.backend.features, windows))}


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
