"""Windows smaller than the others, for methods that pad (docs/bundle.md, "Padding")."""

import threading
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from scclip_rt.backends.base import BackendInfo, EncoderBackend
from scclip_rt.bundle.manifest import EncoderSpec


class AnySizeEncoder:
    """An `EncoderBackend` for windows of one size, and a second one for all others, loaded when it is needed first.

    Args:
        main: for windows of the bundle's size.
        open_other: loads the encoder for windows of any size.
    """

    def __init__(self, main: EncoderBackend, open_other: Callable[[EncoderBackend], EncoderBackend]) -> None:
        self._main, self._open_other = main, open_other
        self._other: EncoderBackend | None = None
        self._lock = threading.Lock()
        shape = next(tensor for tensor in main.spec.inputs if tensor.name == "windows").shape
        self._size = shape[1:3]

    @property
    def spec(self) -> EncoderSpec:
        """The encoder for windows of the bundle's size."""
        return self._main.spec

    @property
    def batch_size(self) -> int:
        """Most windows that go through the graph at once."""
        return self._main.batch_size

    def features(self, windows: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Windows (B, H, W, 3) uint8 to features (B, N, E) float32."""
        return self._for(windows).features(windows)

    def run(
        self, windows: NDArray[np.uint8], text: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Windows (B, H, W, 3) uint8 and queries (Q, E) to features (B, N, E) and logits (B, N, Q)."""
        return self._for(windows).run(windows, text)

    def describe(self) -> BackendInfo:
        """What runs where, of windows of the bundle's size."""
        return self._main.describe()

    def _for(self, windows: NDArray[np.uint8]) -> EncoderBackend:
        if windows.shape[1:3] == self._size:
            return self._main
        with self._lock:
            if self._other is None:
                self._other = self._open_other(self._main)
        return self._other
