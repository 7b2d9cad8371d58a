"""What runs in a contender's process, and in the reference's."""

from __future__ import annotations

import time
from dataclasses import dataclass
from itertools import repeat
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scclip_rt.backends import open_backend
from scclip_rt.bench.case import Case
from scclip_rt.bench.errors import BenchError
from scclip_rt.bench.flops import Product, block_products, count_flops
from scclip_rt.bench.gate import Gate, check, limits_for
from scclip_rt.bench.inputs import bench_image, bench_vocabulary
from scclip_rt.bundle.bundle import MANIFEST_FILE, Bundle
from scclip_rt.files import sha256_file
from scclip_rt.segmenter import Segmenter


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """Seconds of one image, from pixels in memory to labels; the stages' rest is bookkeeping.

    Stages are None for a contender that does not tell them apart.
    """

    total: float
    prepare: float | None = None
    encode: float | None = None
    decode: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """What a contender is.

    Attributes:
        bundle: name, path and SHA-256 of bundle.json (which lists every file's), calibration method.
        backend: what the backend tells of itself.
        image: (height, width) of the image.
        queries: rows of the vocabulary.
        windows: of the image.
        patches: of a window.
        batch: windows that go through the graph at once, on this image.
        flops: operations of the encoder on this image.
        products: the four products of a block at that batch: what the GEMM limit is measured on.
    """

    bundle: dict[str, Any]
    backend: dict[str, Any]
    image: tuple[int, int]
    queries: int
    windows: int
    patches: int
    batch: int
    flops: int
    products: tuple[Product, ...]


class Contender:
    """A segmenter with its image and vocabulary, ready to be timed."""

    def __init__(self, case: Case) -> None:
        self._case = case
        bundle = Bundle.open(case.bundle)
        vocabulary = bench_vocabulary(case.workload, bundle)
        self._image = bench_image(case.workload)
        self._segmenter = Segmenter(bundle, vocabulary=vocabulary, **case.options())
        self._windows = self._segmenter.preparation(self._image).windows

    def describe(self) -> Description:
        """What is timed."""
        segmenter, windows = self._segmenter, self._windows
        bundle = segmenter.bundle
        patches = windows.shape[1] * windows.shape[2] // bundle.model.patch_size**2
        batch = min(segmenter.backend.batch_size, len(windows))
        return Description(
            bundle={
                "name": bundle.name,
                "path": self._case.bundle,
                "sha256": sha256_file(bundle.path / MANIFEST_FILE),
                "calibration": bundle.manifest.calibration.get("method"),
            },
            backend=dict(segmenter.backend.describe()),
            image=(self._image.shape[0], self._image.shape[1]),
            queries=len(segmenter.vocabulary.embeddings),
            windows=len(windows),
            patches=patches,
            batch=batch,
            flops=len(windows) * count_flops(bundle, patches).total,
            products=block_products(bundle, batch * (patches + 1)),
        )

    def windows(self) -> NDArray[np.uint8]:
        """What the encoder takes of this image: (windows, H, W, 3)."""
        return self._windows

    def check(self, reference: NDArray[np.float32]) -> Gate:
        """The correctness gate, against the reference's features of the same windows.

        Raises:
            BenchError: says which check failed.
        """
        backend = self._segmenter.backend
        features = backend.features(self._windows)
        singles = np.concatenate([backend.features(window[np.newaxis]) for window in self._windows])
        info = backend.describe()
        limits = limits_for(info["precision"], backend.spec.precision, backend.spec.parity)
        return check(features, singles, reference, limits, name=f"{self._case.bundle} {info['precision']}")

    def sample(self) -> Sample:
        """Time one image."""
        start = time.perf_counter()
        outcome = self._segmenter.outcome(self._image)
        total = time.perf_counter() - start
        outcome.unwrap()
        timings = outcome.timings
        return Sample(total=total, prepare=timings.prepare, encode=timings.encode, decode=timings.decode)

    def stream(self, images: int) -> float:
        """Seconds from the first image's reading to the last one's labels, with overlap, as for a folder."""
        start = time.perf_counter()
        for _ in self._segmenter.stream(repeat(self._image, images)):
            pass
        return time.perf_counter() - start

    def labels(self) -> NDArray[Any]:
        """The label map (H, W)."""
        return self._segmenter(self._image).labels


class Reference:
    """The bundle's fp32 file on ONNX Runtime's CPU provider, one window at a time."""

    def __init__(self, case: Case) -> None:
        self._bundle = case.bundle
        bundle = Bundle.open(case.bundle)
        whole = case.whole_image or bundle.preset(case.preset).whole_image
        self._encoder = open_backend(
            bundle,
            backend="onnxruntime",
            device="cpu",
            precision="fp32",
            ort_provider="cpu",
            batch=1,
            grid="whole" if whole else "window",
        )

    def features(self, windows: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Encode (windows, H, W, 3) to (windows, N, E).

        Raises:
            BenchError: the fp32 encoder is for another size.
        """
        try:
            return self._encoder.features(windows)
        except ValueError as error:
            raise BenchError(
                f"{self._bundle}: no fp32 encoder of the same grid to compare with ({error})"
            ) from error
