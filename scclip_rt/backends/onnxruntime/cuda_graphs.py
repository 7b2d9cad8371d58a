"""ONNX Runtime's own CUDA graphs (`--ort-provider cuda-graphs`): captured by its CUDA provider, replayed by number.

What ONNX Runtime asks for, and what follows from it here:

- every node on the GPU, no copies to the CPU in between: it refuses the session otherwise, which then opens without;
- the same shapes and addresses for each graph (`gpu_graph_id`): a call has its number for the buffers it met first, and
  other buffers run without a graph (`-1`);
- a graph belongs to the thread that captured it, all on one stream: one thread runs everything, one image at a time;
- two runs before the capture, for memory: ONNX Runtime makes them itself, the first time a number is used;
- while it captures, no thread of the process may allocate device memory (`cudaStreamCaptureModeGlobal`): nothing of
  this encoder does then; whether others do, only their owner knows, so nobody gets these graphs without asking.

Source: onnxruntime's cuda_graph.cc, cuda_execution_provider.cc, and its page on the CUDA provider.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any, Protocol

from scclip_rt.backends.onnxruntime.session import load_onnxruntime

NO_GRAPH = -1
MAX_GRAPHS = 32
"""Most graphs of a session: it keeps them, with their memory, until it ends."""

Bind = Callable[[Any], Any]
"""A session to an I/O binding of it."""


class Runs(Protocol):
    """How a session is run."""

    def number(self) -> int:
        """A number for a new graph, or `NO_GRAPH`."""
        ...

    def run(self, bind: Bind, number: int) -> None:
        """Run to the end; raises whatever ONNX Runtime does."""
        ...

    def close(self) -> None:
        """Let the session go."""
        ...


class PlainRuns:
    """Without graphs, in the caller's thread; several at a time."""

    def __init__(self, session: Any) -> None:
        self._session = session

    def number(self) -> int:
        """None."""
        return NO_GRAPH

    def run(self, bind: Bind, number: int) -> None:  # noqa: ARG002
        """See `Runs`."""
        self._session.run_with_iobinding(bind(self._session))

    def close(self) -> None:
        """Let the session go."""
        self._session = None


class GraphRuns:
    """With graphs, in one thread of its own; without, from the first failure of a run with a graph on.

    Args:
        session: opened with `enable_cuda_graph`.
        reopen: opens it without.
    """

    def __init__(self, session: Any, reopen: Callable[[], Any]) -> None:
        self._session, self._reopen = session, reopen
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="scclip-onnxruntime")
        self.graphs = 0
        """Numbers given out."""
        self.reason = ""
        """Why there are no graphs any more."""

    def number(self) -> int:
        """The next, up to `MAX_GRAPHS`."""
        if self.reason or self.graphs == MAX_GRAPHS:
            return NO_GRAPH
        self.graphs += 1
        return self.graphs

    def run(self, bind: Bind, number: int) -> None:
        """See `Runs`. An interrupted run is waited for: it works on the caller's buffers."""
        running = self._worker.submit(self._run, bind, number)
        try:
            running.result()
        finally:
            wait([running])

    def _run(self, bind: Bind, number: int) -> None:
        if self.reason:
            self._session.run_with_iobinding(bind(self._session))
            return
        options = load_onnxruntime().RunOptions()
        options.add_run_config_entry("gpu_graph_id", str(number))
        try:
            self._session.run_with_iobinding(bind(self._session), options)
        # onnxruntime's exceptions share no public base class.
        except Exception as error:
            if number == NO_GRAPH:
                raise
            # Whether the graph is at fault shows in the run that follows without one.
            self.reason = " ".join(str(error).split())[:300]
            self._session = None  # first, so that both need not fit into the memory
            self._session = self._reopen()
            self._session.run_with_iobinding(bind(self._session))

    def close(self) -> None:
        """Let the session go, in the thread that made its graphs."""
        if self._session is not None:
            self._worker.submit(self._forget).result()
            self._worker.shutdown()

    def _forget(self) -> None:
        self._session = None
