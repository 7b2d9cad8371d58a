"""An object in a process of its own: peak memory that is its own, and no threads or caches shared with a rival."""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Protocol, Self

from scclip_rt.bench.errors import BenchError
from scclip_rt.errors import ScclipError

Factory = Callable[[Any], Any]
"""Makes the object from one argument; a class or function of a module, as its name is what the process gets."""
_PATIENCE_S = 10.0


class Handle(Protocol):
    """What the runner knows: a `Remote`, or in tests an object in this process."""

    def call(self, method: str, *arguments: Any) -> Any:
        """Call a method of the object and wait for what it returns."""
        ...

    def close(self) -> None:
        """Let the object go; may be called again."""
        ...


class Remote:
    """A handle on an object in a fresh process.

    Args:
        factory: makes the object there.
        argument: its argument; pickled.
        name: for messages.

    Raises:
        ScclipError: what the factory raised, after the name.
    """

    def __init__(self, factory: Factory, argument: Any, name: str) -> None:
        context = multiprocessing.get_context("spawn")
        self._name = name
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(factory, argument, theirs), daemon=True)
        self._process.start()
        theirs.close()
        try:
            self._answer()
        except BaseException:
            self.close()
            raise

    def call(self, method: str, *arguments: Any) -> Any:
        """Call a method in the process.

        `peak_bytes` and `cpu_seconds` are the process's own: the most memory it has had resident, and the time of all
        its threads so far.

        Raises:
            ScclipError: what the method raised, after the name.
            BenchError: the process ended.
        """
        try:
            self._connection.send((method, arguments))
        except OSError as error:
            raise self._ended() from error
        return self._answer()

    def close(self) -> None:
        """End the process."""
        with contextlib.suppress(OSError):
            self._connection.send(None)
        self._connection.close()
        self._process.join(_PATIENCE_S)
        if self._process.is_alive():
            self._process.terminate()
            self._process.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _answer(self) -> Any:
        try:
            kind, value = self._connection.recv()
        except (EOFError, OSError) as error:
            raise self._ended() from error
        if kind == "done":
            return value
        if kind == "refused":
            named = str(value).startswith(self._name)
            raise type(value)(str(value) if named else f"{self._name}: {value}") from value
        raise RuntimeError(f"{self._name} failed in its process:\n{value}")

    def _ended(self) -> BenchError:
        self._process.join(_PATIENCE_S)
        code = self._process.exitcode
        why = "killed, most likely for lack of memory" if code == -signal.SIGKILL else f"exit code {code}"
        return BenchError(f"{self._name}: its process ended without an answer ({why})")


def peak_bytes() -> int:
    """The most memory this process has had resident, bytes.

    Linux's own mark where it tells it: what getrusage says of a process that was started from a larger one is the
    larger one's (the mark survives exec).
    """
    with contextlib.suppress(OSError, ValueError, IndexError):
        status = Path("/proc/self/status").read_text("ascii", "replace")
        return int(status.split("VmHWM:")[1].split()[0]) * 1024
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _serve(factory: Factory, argument: Any, connection: Connection) -> None:
    """The process: answer calls until None or the end of the pipe."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, which closes the pipe
    target: Any = None

    def answer(action: Callable[[], Any]) -> None:
        try:
            reply = ("done", action())
        except ScclipError as error:
            reply = ("refused", error)
        except MemoryError:
            reply = ("refused", BenchError("out of memory; lower --batch, --queries or --image-size"))
        except Exception:
            reply = ("failed", traceback.format_exc())
        connection.send(reply)

    def make() -> None:
        nonlocal target
        target = factory(argument)

    with contextlib.suppress(EOFError, OSError):
        answer(make)
        while (request := connection.recv()) is not None:
            method, arguments = request
            if method == "peak_bytes":
                answer(peak_bytes)
            elif method == "cpu_seconds":
                answer(time.process_time)
            else:
                answer(lambda: getattr(target, method)(*arguments))  # noqa: B023 (called at once)
