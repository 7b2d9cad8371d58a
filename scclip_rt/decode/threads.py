"""Our own threads, and one BLAS thread while they work.

The decode multiplies many small matrices from its own threads. OpenBLAS would split each over a second set
of threads,
which spin while they wait: on a busy machine that costs up to ten times the work itself (numpy 2.4,
OpenBLAS 0.3.31).
"""

from __future__ import annotations

import ctypes
import os
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TypeVar

import numpy as np

from scclip_rt.cpus import worker_threads

_Item = TypeVar("_Item")

_NAMES = ("scipy_openblas_{}_num_threads64_", "openblas_{}_num_threads64_", "openblas_{}_num_threads")
MAX_HELPERS = 64
_lock = threading.Lock()
_users = 0
_before = 1


def parallel(function: Callable[[_Item], None], items: Sequence[_Item], threads: int | None) -> None:
    """Run `function` over `items`; the work releases the GIL (BLAS, numpy's loops, Pillow).

    The caller works too, beside `threads - 1` helpers that outlive the call: for a few milliseconds of work, starting
    threads and handing over every item singly would cost as much as the work. Items of a helper that has not woken up
    yet are done by the others. The first error ends the work and is raised.
    """
    threads = min(worker_threads(threads), len(items))
    left = deque(items)

    def work() -> None:
        try:
            while True:
                try:
                    item = left.popleft()
                except IndexError:
                    return
                function(item)
        except BaseException:
            left.clear()
            raise

    helpers = [_helpers().submit(work) for _ in range(threads - 1)]
    try:
        work()
    finally:
        started = [helper for helper in helpers if not helper.cancel()]
        wait(started)
    for helper in started:
        helper.result()


@cache
def _helpers() -> ThreadPoolExecutor:
    """Threads that wait for `parallel`; as many as were ever needed at once."""
    return ThreadPoolExecutor(MAX_HELPERS, thread_name_prefix="helper")


def _after_fork() -> None:
    """A forked child has none of its parent's threads, and a lock that one of them held would never be released."""
    global _lock, _users
    _helpers.cache_clear()
    _lock, _users = threading.Lock(), 0


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


@contextmanager
def single_blas_thread() -> Iterator[None]:
    """Hold numpy's OpenBLAS at one thread; leave another BLAS alone. Nests, also across threads."""
    global _users, _before
    functions = _openblas()
    if functions is None:
        yield
        return
    get, put = functions
    with _lock:
        if _users == 0:
            _before = get()
            put(1)
        _users += 1
    try:
        yield
    finally:
        with _lock:
            _users -= 1
            if _users == 0:
                put(_before)


def set_blas_threads(threads: int) -> bool:
    """Give numpy's OpenBLAS so many threads, for all that follows in this process.

    Returns:
        Whether there is an OpenBLAS that can be told so.
    """
    functions = _openblas()
    if functions is None:
        return False
    functions[1](threads)
    return True


@cache
def _openblas() -> tuple[Callable[[], int], Callable[[int], object]] | None:
    """What reads and sets the thread count of the OpenBLAS in numpy's wheel, if that is what numpy uses."""
    root = Path(np.__file__).parent
    for path in [*root.parent.glob("numpy.libs/*openblas*"), *root.glob(".dylibs/*openblas*")]:
        try:
            library = ctypes.CDLL(str(path))
        except OSError:
            continue
        for name in _NAMES:
            if hasattr(library, name.format("get")) and hasattr(library, name.format("set")):
                return getattr(library, name.format("get")), getattr(library, name.format("set"))
    return None
