"""The naive eager baseline (tests/oracles) as a contender of the harness: torch, one window at a time."""

import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.models import checkpoint
from oracles.family import NaiveMethod
from oracles.scclip import NaiveScclip
from scclip_export.checkpoint.architecture import build_clip, infer_architecture
from scclip_export.checkpoint.read import load_checkpoint
from scclip_export.model.calibration import calibration_for
from scclip_rt.bench.case import Case
from scclip_rt.bench.contender import Description, Sample
from scclip_rt.bench.flops import block_products, count_flops
from scclip_rt.bench.gate import Gate, check, limits_for
from scclip_rt.bench.inputs import bench_image, random_queries
from scclip_rt.bundle.bundle import Bundle
from scclip_rt.image.geometry import Tiling, cut_windows, resize, resize_shape


class NaiveContender:
    """Same weights, image and queries as the bundle of the case; its method, SC-CLIP's calibration the exporter's."""

    def __init__(self, case: Case) -> None:
        self._bundle = Bundle.open(case.bundle)
        self._method = str(self._bundle.manifest.calibration["method"])
        folder = Path(case.bundle)
        loaded = load_checkpoint(checkpoint(folder.stem.split("-")[0], folder.parent))
        architecture, _ = infer_architecture(loaded.state, loaded.claims)
        c = calibration_for(architecture.layers, architecture.patch_size)
        kind = NaiveScclip if self._method == "scclip" else partial(NaiveMethod, method=self._method)
        self._naive = kind(
            clip=build_clip(architecture, loaded.state),
            pre=c.pre_layer,
            post=c.post_layer,
            multi=c.fusion_layers,
            res_cls=c.cls_residual,
        )
        self._image = bench_image(case.workload)
        queries = random_queries(case.workload.queries, self._bundle.model.embed_dim)
        self._text = torch.from_numpy(queries)
        spec = self._bundle.preprocessing
        shape = resize_shape(*self._image.shape[:2], short_side=spec.short_side, min_side=spec.window)
        tiling = Tiling.windows(*shape, window=spec.window, stride=spec.stride)
        self._windows = cut_windows(resize(self._image, shape), tiling)

    def describe(self) -> Description:
        """What is timed."""
        patches = (self._bundle.preprocessing.window // self._bundle.model.patch_size) ** 2
        return Description(
            bundle={
                "name": self._bundle.name,
                "path": str(self._bundle.path),
                "sha256": None,
                "calibration": self._method,
            },
            backend={
                "backend": "torch eager",
                "version": torch.__version__,
                "device": "cpu",
                "precision": "fp32",
                "threads": torch.get_num_threads(),
            },
            image=(self._image.shape[0], self._image.shape[1]),
            queries=len(self._text),
            windows=len(self._windows),
            patches=patches,
            batch=1,
            flops=len(self._windows) * count_flops(self._bundle, patches).total,
            products=block_products(self._bundle, patches + 1),
        )

    def windows(self) -> NDArray[np.uint8]:
        """(windows, H, W, 3)."""
        return self._windows

    @torch.no_grad()
    def check(self, reference: NDArray[np.float32]) -> Gate:
        """The harness's gate; batch 1 is all there is."""
        from oracles.scclip import MEAN, STD

        mean, std = (torch.tensor(v).reshape(3, 1, 1) for v in (MEAN, STD))
        pixels = [(torch.from_numpy(w).float().permute(2, 0, 1) - mean) / std for w in self._windows]
        features = np.stack([self._naive.window_features(p).numpy() for p in pixels])
        reference = reference[:, -features.shape[1] :]  # CLIP Surgery's bundles have a class row before
        return check(features, features, reference, limits_for("fp32", "fp32", {}), name="the naive baseline")

    def labels(self) -> NDArray[Any]:
        """The label map (H, W)."""
        return self._naive.segment(self._image, self._text, list(range(len(self._text))))

    def sample(self) -> Sample:
        """Time one image; the baseline does not tell stages apart."""
        start = time.perf_counter()
        self.labels()
        return Sample(total=time.perf_counter() - start)

    def stream(self, images: int) -> float:
        """One after the other: the baseline has no pipeline."""
        start = time.perf_counter()
        for _ in range(images):
            self.labels()
        return time.perf_counter() - start
