"""Work that is the same every time: queued call by call at first, then as one CUDA graph."""

from collections.abc import Callable

from scclip_rt.backends.cuda.stream import Graph, Stream
from scclip_rt.errors import BackendError


class Replay:
    """Queues `work` on a stream; from its second run on with one launch, if all of it can be captured.

    The first run stays outside a graph: libraries finish their set-up for a shape in it, which a capture forbids, and
    shapes that come once cost no capture.

    Args:
        stream: that `work` queues on.
        work: the same calls with the same pointers each time.
        capturable: False keeps to call by call.
    """

    def __init__(self, stream: Stream, work: Callable[[], None], *, capturable: bool = True) -> None:
        self._stream, self._work = stream, work
        self._runs = 0
        self._graph: Graph | None = None
        self.reason = "" if capturable else "its library does not allow it"
        """Why there is no graph, where one was tried or ruled out."""

    @property
    def captured(self) -> bool:
        """Whether runs are one launch by now."""
        return self._graph is not None

    def __call__(self) -> None:
        """Queue the work."""
        self._runs += 1
        if self._graph is None and self._runs == 2 and not self.reason:
            self._capture()
        if self._graph is not None:
            self._graph.launch()
        else:
            self._work()

    def _capture(self) -> None:
        try:
            self._graph = self._stream.capture(self._work)
        except BackendError as error:
            # Whether capture forbids something is known for sure of CUDA's own calls alone: a library says that it
            # failed, no more. What is broken besides fails again in the run that follows without a graph.
            self.reason = str(error)

    def close(self) -> None:
        """Free the graph."""
        if self._graph is not None:
            self._graph.close()
            self._graph = None
