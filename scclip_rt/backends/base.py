"""What every backend offers: the rest of the runtime knows these protocols and nothing else."""

from dataclasses import dataclass
from typing import Literal, NotRequired, Protocol, TypedDict, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from scclip_rt.bundle.bundle import Bundle
from scclip_rt.bundle.engine_sidecar import Engine
from scclip_rt.bundle.manifest import EncoderSpec

GridChoice = Literal["window", "whole"]


class BackendInfo(TypedDict):
    """What `describe()` tells: written into `--json`, so that a result can be traced to what computed it."""

    backend: str
    version: str
    provider: str
    device: str
    precision: str
    grid: str
    encoder: str
    threads: int
    batch: int
    reason: str  # why this backend and precision run
    details: NotRequired[dict[str, object]]  # what only this backend has to tell


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderRequest:
    """What `open_backend` was asked for, settled as far as the choice between backends goes.

    Attributes:
        device: `cpu`, `cuda:N` or `auto`.
        precision: `fp32`, …, or `auto`.
        ort_provider: ONNX Runtime's `cpu`, `cuda`, `cuda-graphs` or `tensorrt`; None follows `device`.
        threads: CPU threads of one inference; None takes the cores this process may use.
        batch: most windows at once; None takes the backend's own number.
        grid: `window` for sliding windows, `whole` for whole-image encoders.
        reason: why this backend, for `describe()`.
        engine: found already for this machine; None lets the backend look.
    """

    device: str = "auto"
    precision: str = "auto"
    ort_provider: str | None = None
    threads: int | None = None
    batch: int | None = None
    grid: GridChoice = "window"
    reason: str = "asked for"
    engine: Engine | None = None


class EncoderBackend(Protocol):
    """A calibrated image encoder, loaded. Calls from several threads at a time are allowed."""

    @property
    def spec(self) -> EncoderSpec:
        """The encoder of the bundle that is loaded."""
        ...

    @property
    def batch_size(self) -> int:
        """Most windows that go through the graph at once; `features` splits what is more."""
        ...

    def features(self, windows: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Encode windows.

        Args:
            windows: (B, H, W, 3) uint8 RGB, B ≥ 0.

        Returns:
            (B, N, E) float32, unit rows; N patches row by row.
        """
        ...

    def run(
        self, windows: NDArray[np.uint8], text: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Encode windows and compare them with queries, both inside the graph.

        Args:
            windows: (B, H, W, 3) uint8 RGB.
            text: (Q, E) float32, unit rows.

        Returns:
            Features (B, N, E) and cosines (B, N, Q), float32.
        """
        ...

    def describe(self) -> BackendInfo:
        """What runs where, and why that."""
        ...


class BackendModule(Protocol):
    """What a module named in `scclip_rt.backends.BACKENDS` holds."""

    def open_encoder(self, bundle: Bundle, request: EncoderRequest) -> EncoderBackend:
        """Load the encoder that fits the request.

        Raises:
            BackendError: not installed, or nothing in the bundle fits; says what to do.
            BundleError: the graph is damaged or does not agree with bundle.json.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownTokens:
    """What the text encoder computed of the beginnings of texts.

    Attributes:
        values: float32 (layers, 2, P, heads, S, D / heads): keys and values of P beginnings, padded to S tokens.
        lengths: int64 (P,): tokens of each beginning.
    """

    values: NDArray[np.float32]
    lengths: NDArray[np.int64]

    def joined(self, other: "KnownTokens") -> "KnownTokens":
        """These beginnings, and then the others."""
        longest = max(self.values.shape[4], other.values.shape[4])
        parts = [
            np.pad(x.values, [(0, 0)] * 4 + [(0, longest - x.values.shape[4]), (0, 0)]) for x in (self, other)
        ]
        return KnownTokens(
            values=np.concatenate(parts, axis=2), lengths=np.concatenate([self.lengths, other.lengths])
        )


class TextBackend(Protocol):
    """The text encoder, loaded."""

    def encode(self, tokens: NDArray[np.int64]) -> NDArray[np.float32]:
        """Embed token rows.

        Args:
            tokens: (B, T) int64: start token, byte pairs, end token, zeros; T at most the context length.

        Returns:
            (B, E) float32, unit rows.
        """
        ...


@runtime_checkable
class ResumingTextBackend(TextBackend, Protocol):
    """A text encoder that goes on from where a text with the same beginning left it."""

    def keys_and_values(self, tokens: NDArray[np.int64]) -> NDArray[np.float32]:
        """Compute beginnings of texts: (B, T) int64, zeros behind → (layers, 2, B, heads, T, D / heads)."""
        ...

    def resume(
        self, tokens: NDArray[np.int64], known: KnownTokens, beginnings: NDArray[np.int64]
    ) -> NDArray[np.float32]:
        """Embed texts whose beginnings are known.

        Args:
            tokens: (B, T) int64: what follows the beginnings, the end token, zeros.
            known: beginnings.
            beginnings: (B,) int64: which of them each row goes on from.

        Returns:
            (B, E) float32, unit rows.
        """
        ...
