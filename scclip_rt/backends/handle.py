"""An encoder that survives a fork: `gunicorn --preload`, `multiprocessing` on Linux before Python 3.14."""

import ctypes
import os
import threading
import weakref
from collections.abc import Callable
from typing import Protocol

from scclip_rt.backends.base import EncoderBackend
from scclip_rt.errors import BackendError


class EncoderHandle:
    """Loads an encoder, and loads it again in a forked process, which has none of the first one's threads.

    Args:
        load: opens the encoder.
    """

    def __init__(self, load: Callable[[], EncoderBackend]) -> None:
        self._load = load
        self._process = os.getpid()
        self._encoder = load()
        self._on_gpu = self._encoder.describe()["device"].startswith("cuda")
        tell_after_fork(self)

    def get(self) -> EncoderBackend:
        """The encoder of this process.

        Raises:
            BackendError: it was opened on a GPU before a fork.
        """
        if self._process != os.getpid():
            with _reloading:
                if self._process != os.getpid():
                    self._reload()
        return self._encoder

    def _reload(self) -> None:
        if self._on_gpu:
            raise BackendError(
                "this segmenter was opened on a GPU before the process forked, and CUDA does not survive that: open it "
                "in the child, or start processes with multiprocessing's 'spawn'",
                field="device",
            )
        self._encoder = self._load()
        self._process = os.getpid()

    def after_fork(self) -> None:
        """In a forked child: keep the encoder that has no threads, until it is loaded again."""
        keep_for_ever(self._encoder)


class HasAfterFork(Protocol):
    """Something that holds a library's threads."""

    def after_fork(self) -> None:
        """Called in a forked child."""


def keep_for_ever(encoder: object) -> None:
    """In a forked child: never destroy an encoder, whose end would wait for threads that are not there."""
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(encoder))


def tell_after_fork(handle: HasAfterFork) -> None:
    """Have `handle.after_fork()` called in every forked child, as long as it lives."""
    _handles.add(handle)


_handles: "weakref.WeakSet[HasAfterFork]" = weakref.WeakSet()
_reloading = threading.Lock()


def _after_fork() -> None:
    global _reloading
    _reloading = threading.Lock()  # another thread may have held it
    for handle in list(_handles):
        handle.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
