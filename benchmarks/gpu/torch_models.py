"""The torch contenders of benchmarks/gpu: encoders, decodes, and whole images from host to host."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.gpu.clock import CudaGraph
from benchmarks.gpu.models import SHORT_SIDE, STRIDE, WINDOW
from scclip_rt.decode.plan import DecodePlan, decode_plan
from scclip_rt.image.geometry import Tiling, resize, resize_shape

Encoder = Callable[[Tensor, Tensor], Tensor]
Decoder = Callable[[Tensor], Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class Photo:
    """An image with its geometry: `pixels` (H, W, 3) uint8."""

    pixels: NDArray[np.uint8]
    tiling: Tiling
    plan: DecodePlan

    @classmethod
    def of(cls, pixels: NDArray[np.uint8], side: int) -> "Photo":
        """Windows of 224 at stride 112 on a short side of 336; `side` patches per window and axis."""
        height, width = pixels.shape[:2]
        shape = resize_shape(height, width, short_side=SHORT_SIDE, min_side=WINDOW)
        tiling = Tiling.windows(*shape, window=WINDOW, stride=STRIDE)
        return cls(pixels=pixels, tiling=tiling, plan=decode_plan(tiling, (side, side), (height, width)))


class DenseDecode:
    """The decode in plain torch: two dense products, a (H, W, Q) tensor, an arg-max. Logits (W, N, Q) → (H, W)."""

    def __init__(self, plan: DecodePlan, device: torch.device) -> None:
        self._plan = plan
        self._rows, self._columns = (
            torch.from_numpy(axis.matrix()).to(device) for axis in (plan.rows, plan.columns)
        )

    def __call__(self, logits: Tensor) -> Tensor:
        """Labels int64 (H, W)."""
        (wy, wx), (gy, gx) = self._plan.windows, self._plan.grid
        cells = logits.float().view(wy, wx, gy, gx, -1).transpose(1, 2).reshape(wy * gy, wx * gx, -1)
        across = torch.einsum("xb,abq->axq", self._columns, cells)
        return torch.einsum("ya,axq->yxq", self._rows, across).mul(40.0).argmax(dim=-1)


def triton_decode(plan: DecodePlan, queries: int, device: torch.device) -> Decoder | None:
    """The Triton decode with every query a class; None where it is not installed."""
    try:
        from scclip_kernels.triton.decode import BLOCK_X, ROWS, AxisTables, decode
        from scclip_rt.decode.bands import band_plan
        from scclip_rt.decode.settings import DecodeSettings
    except ImportError:
        return None
    rows, columns = (
        AxisTables.of(axis, device) for axis in band_plan(plan, rows=ROWS["BLOCK_Y"], columns=BLOCK_X)
    )
    classes = torch.arange(queries, dtype=torch.int32, device=device)
    settings = DecodeSettings(query_class=np.arange(queries), num_classes=queries)

    def run(logits: Tensor) -> Tensor:
        return decode(logits, rows, columns, classes, settings)[0]

    return run


class TorchSegmenter:
    """An image from host to host: resized by OpenCV, one upload, windows cut, encoded and decoded on the device.

    With `graph`, all that the device does is one CUDA graph.
    """

    def __init__(
        self, photo: Photo, encoder: Encoder, decoder: Decoder, text: Tensor, *, graph: bool = False
    ) -> None:
        self._photo, self._encoder, self._decoder, self._text = photo, encoder, decoder, text
        tiling, device = photo.tiling, text.device
        shape, pinned = (tiling.height, tiling.width, 3), device.type == "cuda"
        self._pinned = torch.empty(shape, dtype=torch.uint8, pin_memory=pinned)
        self._resized = torch.empty(shape, dtype=torch.uint8, device=device)
        dtype = torch.uint8 if len(text) <= 254 else torch.int16
        self._labels = torch.empty(photo.pixels.shape[:2], dtype=dtype, pin_memory=pinned)
        self._work: Callable[[], Any] = self._on_device
        if graph:
            self._upload()
            self._work = CudaGraph(self._on_device)

    def __call__(self) -> NDArray[Any]:
        """Labels (H, W)."""
        self._upload()
        self._labels.copy_(self._work(), non_blocking=True)
        if self._resized.is_cuda:
            torch.cuda.current_stream().synchronize()
        return self._labels.numpy().copy()

    def _upload(self) -> None:
        resized = resize(self._photo.pixels, (self._photo.tiling.height, self._photo.tiling.width))
        self._pinned.copy_(torch.from_numpy(resized))
        self._resized.copy_(self._pinned, non_blocking=True)

    def _on_device(self) -> Tensor:
        tiling = self._photo.tiling
        (h, w), r = tiling.window, self._resized
        windows = torch.stack([r[y : y + h, x : x + w] for y in tiling.rows for x in tiling.columns])
        return self._decoder(self._encoder(windows, self._text)).to(self._labels.dtype)


def windows_of(photo: Photo, count: int, device: torch.device) -> Tensor:
    """`count` windows (count, 224, 224, 3) uint8: the photo's own, repeated."""
    from scclip_rt.image.geometry import cut_windows

    tiling = photo.tiling
    cut = cut_windows(resize(photo.pixels, (tiling.height, tiling.width)), tiling)
    repeated = cut[np.arange(count) % len(cut)]
    return torch.from_numpy(np.ascontiguousarray(repeated)).to(device)


def unit_text(queries: int, embed_dim: int, device: torch.device) -> Tensor:
    """Random unit queries (Q, E) float32."""
    drawn = np.random.default_rng(0).standard_normal((queries, embed_dim)).astype(np.float32)
    return torch.from_numpy(drawn / np.linalg.norm(drawn, axis=1, keepdims=True)).to(device)


def logits_of(module: Any, compile_options: dict[str, Any] | None = None) -> Encoder:
    """An encoder that gives its logits alone.

    Args:
        module: a `CalibratedEncoder`.
        compile_options: of `torch.compile`; None stays eager. What is compiled ends at the features, so that another
            number of queries is not another compilation.
    """

    def features(windows: Tensor) -> Tensor:
        return module.encode(module.trunk(windows), *module.patch_grid(windows))[0]

    run: Callable[[Tensor], Tensor] = features
    if compile_options is not None:
        torch._dynamo.reset()  # what was compiled before counts against the limit of sizes
        run = torch.compile(features, **compile_options)
    return lambda windows, text: run(windows) @ text.transpose(0, 1)
