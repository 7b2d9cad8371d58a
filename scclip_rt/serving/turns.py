"""One listening socket for several processes: the one with the fewest connections accepts the next.

Left to themselves, whichever wakes first accepts: of a few connections that stay open, one process can get all, or one
whose model is still being loaded.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from typing import Any

AWAY = 2**31 - 1
"""The number of a process that is not ready: it accepts only where none is."""
_PATIENCE_SECONDS = 0.1  # then another process accepts, whatever keeps the one whose turn it is
_NAP_SECONDS = 0.001


class TakingTurns(socket.socket):
    """A process's view of the socket. An event loop calls `accept` again and again while a connection waits.

    Args:
        listener: the socket, taken over.
        counts: open connections of each process, in shared memory.
        mine: index of this process.

    Attributes:
        ready: whether this process can answer requests.
    """

    def __init__(self, listener: socket.socket, counts: Any, mine: int) -> None:
        super().__init__(listener.family, listener.type, listener.proto, fileno=listener.detach())
        self.ready: Callable[[], bool] = lambda: True
        self._counts, self._mine = counts, mine
        self._open: list[socket.socket] = []
        self._waited_from = self._waited_last = 0.0

    def accept(self) -> tuple[socket.socket, Any]:
        """The next connection.

        Raises:
            BlockingIOError: there is none, or it is another process's turn.
        """
        self.tell()
        mine = self._counts[self._mine]
        if mine > min(self._counts) and (mine == AWAY or not self._has_waited()):
            time.sleep(_NAP_SECONDS)
            raise BlockingIOError
        connection, address = super().accept()
        self._open.append(connection)
        self.tell()
        return connection, address

    def tell(self) -> None:
        """Let the other processes know how many connections are open here, and whether this one is ready."""
        self._open = [connection for connection in self._open if connection.fileno() >= 0]
        self._counts[self._mine] = len(self._open) if self.ready() else AWAY

    def _has_waited(self) -> bool:
        """Whether this process has left a connection to others for long enough."""
        now = time.monotonic()
        if now > self._waited_last + _PATIENCE_SECONDS:  # that was another connection
            self._waited_from = now
        self._waited_last = now
        return now > self._waited_from + _PATIENCE_SECONDS
