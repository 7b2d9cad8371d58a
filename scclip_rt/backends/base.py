"""What every backend offers: the rest of the runtime knows these two protocols and nothing else."""

from typing import Protocol, TypedDict

import numpy as np
from numpy.typing import NDArray

from scclip_rt.manifest import EncoderSpec


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
        """What runs where."""
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
