"""What a library offers to run an encoder on device memory: the rest of the GPU path knows these protocols alone."""

from typing import Protocol

from scclip_rt.backends.cuda import Stream


class GraphCall(Protocol):
    """An encoder set up for one shape on one stream."""

    @property
    def capturable(self) -> bool:
        """Whether `enqueue` may be part of a CUDA graph."""
        ...

    def enqueue(self, *, windows: int, text: int, features: int, logits: int) -> None:
        """Queue one run on the stream; arguments are device pointers.

        Args:
            windows: (batch, H, W, 3) uint8.
            text: (queries, E) float32.
            features: (batch, N, E) float32, written.
            logits: (batch, N, queries) float32, written.

        Raises:
            BackendError: the library refused.
        """
        ...

    def close(self) -> None:
        """Free what belongs to this shape."""
        ...


class GraphSession(Protocol):
    """What one stream needs of an encoder: scratch memory, contexts. Used by one thread at a time."""

    def call(self, *, batch: int, height: int, width: int, queries: int) -> GraphCall:
        """Set up one shape.

        Raises:
            BackendError: the shape is outside what the encoder takes.
        """
        ...

    def settled(self) -> None:
        """Told after every run, when the stream is idle."""
        ...

    def close(self) -> None:
        """Free the scratch memory; the calls made here are closed before."""
        ...


class DeviceGraph(Protocol):
    """A loaded encoder, shared by all streams."""

    @property
    def batch(self) -> tuple[int, int]:
        """Fewest and most windows of one run."""
        ...

    @property
    def queries(self) -> tuple[int, int]:
        """Fewest and most queries of one run."""
        ...

    def session(self, stream: Stream) -> GraphSession:
        """What one more stream needs."""
        ...

    def close(self) -> None:
        """Free the weights; the sessions made here are closed before. It is of no use afterwards."""
        ...
