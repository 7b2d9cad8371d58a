"""What every backend offers: the rest of the runtime knows these protocols and nothing else."""

from dataclasses import dataclass
from typing import Literal, NotRequired, Protocol, TypedDict

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
