"""The two encoders on ONNX Runtime."""

from collections.abc import Sequence
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from scclip_rt.backends.base import BackendInfo
from scclip_rt.backends.ort_session import (
    choose_provider,
    create_session,
    default_threads,
    load_onnxruntime,
)
from scclip_rt.bundle import Bundle
from scclip_rt.errors import BackendError
from scclip_rt.manifest import EncoderSpec, TextEncoderSpec

_Kind = Literal["cpu", "cuda"]

# Preferred first. int8 is never chosen unasked: its activation scale spans the batch, so that a window's
# result depends on its neighbours.
_AUTO_PRECISIONS = {"cpu": ("fp32",), "cuda": ("fp16", "fp32")}
# Patches per batch. On a CPU the matrix products are at full speed from a few windows on, and memory grows
# with every further one; a GPU wants more work at once.
_BATCH_PATCHES = {"cpu": 8 * 196, "cuda": 32 * 196}


class OnnxRuntimeEncoder:
    """An image encoder on ONNX Runtime; see `EncoderBackend` for the methods' contract."""

    def __init__(
        self, session: Any, bundle: Bundle, spec: EncoderSpec, info: BackendInfo, batch: int
    ) -> None:
        self._session = session
        self._patch = bundle.model.patch_size
        self._spec = spec
        self._info = info
        self._batch_size = batch
        # The features need no query, but the graph wants one: a single unit vector costs nothing measurable.
        self._no_text = np.zeros((1, bundle.model.embed_dim), np.float32)
        self._no_text[0, 0] = 1.0

    @classmethod
    def open(
        cls,
        bundle: Bundle,
        *,
        device: str = "auto",
        precision: str = "auto",
        ort_provider: str | None = None,
        threads: int | None = None,
        batch: int | None = None,
        grid: Literal["window", "whole"] = "window",
    ) -> Self:
        """Load an encoder; arguments and errors as `scclip_rt.backends.open_backend`."""
        provider, number = choose_provider(ort_provider, device)
        kind: _Kind = "cpu" if provider == "cpu" else "cuda"
        spec = choose_encoder(bundle, precision=precision, kind=kind, grid=grid)
        session = create_session(bundle, spec, provider=provider, device=number, threads=threads)
        info = BackendInfo(
            backend="onnxruntime",
            version=load_onnxruntime().__version__,
            provider=session.get_providers()[0],
            device="cpu" if kind == "cpu" else f"cuda:{number}",
            precision=spec.precision,
            grid=str(spec.grid),
            encoder=spec.file,
            threads=threads or default_threads(),
        )
        return cls(session, bundle, spec, info, _batch_size(spec, batch, kind))

    @property
    def spec(self) -> EncoderSpec:
        """The encoder of the bundle that is loaded."""
        return self._spec

    @property
    def batch_size(self) -> int:
        """Most windows that go through the graph at once."""
        return self._batch_size

    def features(self, windows: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Windows (B, H, W, 3) uint8 to unit features (B, N, E) float32."""
        return self._split(["features"], windows, self._no_text)[0]

    def run(
        self, windows: NDArray[np.uint8], text: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Windows (B, H, W, 3) uint8 and unit queries (Q, E) to features (B, N, E) and cosines (B, N, Q)."""
        features, logits = self._split(["features", "logits"], windows, text)
        return features, logits

    def describe(self) -> BackendInfo:
        """What runs where."""
        return self._info.copy()

    def _split(
        self, names: Sequence[str], windows: NDArray[np.uint8], text: NDArray[np.float32]
    ) -> list[NDArray[np.float32]]:
        """Run in batches of at most `batch_size` and join what comes out."""
        self._check_windows(windows)
        if len(windows) == 0:
            patches = (windows.shape[1] // self._patch) * (windows.shape[2] // self._patch)
            return [np.zeros((0, patches, text.shape[1 - i]), np.float32) for i in range(len(names))]
        parts = []
        feeds: dict[str, NDArray[Any]]
        for start in range(0, len(windows), self._batch_size):
            feeds = {"windows": windows[start : start + self._batch_size], "text": text}
            parts.append(_run(self._session, names, feeds, self._spec.file))
        if len(parts) == 1:
            return parts[0]
        return [np.concatenate(column) for column in zip(*parts, strict=True)]

    def _check_windows(self, windows: NDArray[np.uint8]) -> None:
        wanted = next(tensor for tensor in self._spec.inputs if tensor.name == "windows").shape
        agrees = windows.dtype == np.uint8 and windows.ndim == 4
        for have, want in zip(windows.shape[1:], wanted[1:], strict=False):
            if isinstance(want, str):
                axis = self._spec.axis(want)
                longest = have if axis.max is None else axis.max
                agrees = agrees and axis.min <= have <= longest and have % axis.multiple_of == 0
            else:
                agrees = agrees and have == want
        if not agrees:
            raise ValueError(
                f"{self._spec.file} takes windows uint8 ({', '.join(map(str, wanted))}); "
                f"got {windows.dtype} {windows.shape}"
            )


class OnnxRuntimeText:
    """The text encoder on ONNX Runtime's CPU provider."""

    def __init__(self, session: Any, spec: TextEncoderSpec) -> None:
        self._session = session
        self._spec = spec

    @classmethod
    def open(cls, bundle: Bundle, *, threads: int | None = None) -> Self:
        """Load the text encoder; errors as `scclip_rt.backends.open_text_backend`."""
        return cls(create_session(bundle, bundle.text_encoder, threads=threads), bundle.text_encoder)

    def encode(self, tokens: NDArray[np.int64]) -> NDArray[np.float32]:
        """Token rows (B, T) int64, T at most the context length, to unit vectors (B, E) float32."""
        if (
            tokens.dtype != np.int64
            or tokens.ndim != 2
            or not 1 <= tokens.shape[1] <= self._spec.context_length
        ):
            raise ValueError(
                f"tokens must be int64 (B, T), T from 1 to {self._spec.context_length}; "
                f"got {tokens.dtype} {tokens.shape}"
            )
        return _run(self._session, ["embeddings"], {"tokens": tokens}, self._spec.file)[0]


def choose_encoder(
    bundle: Bundle, *, precision: str, kind: _Kind, grid: Literal["window", "whole"]
) -> EncoderSpec:
    """The encoder that fits a grid, a kind of device and a precision (or `auto`).

    Raises:
        BackendError: the bundle has none; the message lists what it has.
    """
    if precision == "fp16" and kind == "cpu":
        raise BackendError(
            "precision 'fp16' is refused on the CPU: ONNX Runtime has no fp16 arithmetic there, so it is "
            "slower than fp32 and can crash while optimising the graph; use --precision fp32 or "
            "--device cuda:0"
        )
    wanted = bundle.encoders_for("window") if grid == "window" else _whole_encoders(bundle)
    fitting = [
        spec for spec in wanted if kind in spec.runs_on and not (kind == "cpu" and spec.precision == "fp16")
    ]
    for choice in _AUTO_PRECISIONS[kind] if precision == "auto" else (precision,):
        for spec in fitting:
            if spec.precision == choice:
                return spec
    have = ", ".join(f"{spec.precision} for {'/'.join(spec.runs_on)}" for spec in wanted) or "none"
    asked = "the default precision" if precision == "auto" else f"precision {precision!r}"
    raise BackendError(
        f"{bundle.path}: no {grid} encoder in {asked} for {kind}; the bundle has: {have}. "
        "Choose one with --precision, or export the bundle again with the one you need"
    )


def _whole_encoders(bundle: Bundle) -> tuple[EncoderSpec, ...]:
    # A dynamic grid keeps the image's ratio, so it goes before a fixed one.
    specs = bundle.encoders_for("dynamic") + bundle.encoders_for("fixed")
    if not specs:
        raise BackendError(
            f"{bundle.path}: no encoder for whole images; export the bundle with `--dynamic-grid` (any size) "
            "or `--image-size HxW` (one size), or leave out --whole-image"
        )
    return specs


def _batch_size(spec: EncoderSpec, batch: int | None, kind: _Kind) -> int:
    shape = next(tensor for tensor in spec.inputs if tensor.name == "windows").shape
    most = spec.axis(shape[0]).max if isinstance(shape[0], str) else shape[0]
    if batch is None:
        patches = (spec.grid.rows or 0) * (spec.grid.columns or 0)
        # A dynamic grid can have thousands of patches, whose attention alone fills the memory: one at a time.
        batch = max(1, _BATCH_PATCHES[kind] // patches) if patches else 1
    return batch if most is None else min(batch, most)


def _run(
    session: Any, names: Sequence[str], feeds: dict[str, NDArray[Any]], file: str
) -> list[NDArray[np.float32]]:
    """Run a session; its failures become one line, and a NaN never passes for a result."""
    try:
        outputs: list[NDArray[np.float32]] = session.run(list(names), feeds)
    # onnxruntime's exceptions share no public base class.
    except Exception as error:
        reason = " ".join(str(error).split())[:300]
        shapes = ", ".join(f"{name} {value.shape}" for name, value in feeds.items())
        if "allocat" in reason.lower() or "out of memory" in reason.lower():
            raise BackendError(
                f"{file}: out of memory with {shapes}; lower --batch or --short-side ({reason})"
            ) from error
        raise BackendError(f"{file}: ONNX Runtime failed with {shapes}: {reason}") from error
    for name, output in zip(names, outputs, strict=True):
        if not np.isfinite(output).all():
            raise BackendError(
                f"{file}: {name} holds NaN or infinity; the weights are damaged or this precision overflows "
                "(try --precision fp32)"
            )
    return outputs
