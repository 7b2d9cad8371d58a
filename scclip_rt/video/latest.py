"""The newest frame of a live source, and never an old one."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Generic, Self, TypeVar

Item = TypeVar("Item")


class LatestFrames(Generic[Item]):
    """Reads a live source in a thread of its own; each step gives the newest item that was not given yet.

    What arrives while the last item is still in work replaces what waits, so that results never fall behind the
    source. The iteration ends with the source, and raises what the source raised.

    Args:
        source: an endless or finite iterable, read in another thread: `read_frames("rtsp://…")`.

    Attributes:
        dropped: items that were replaced before anybody asked for them.

    Example:
        >>> with LatestFrames(read_frames("/dev/video0")) as frames:
        ...     for result in segment.video(frame.image for frame in frames):
        ...         show(result.overlay())
    """

    def __init__(self, source: Iterable[Item]) -> None:
        self.dropped = 0
        self._source = source
        self._changed = threading.Condition()
        self._waiting: list[Item] = []
        self._ended = False
        self._stopped = False
        self._error: BaseException | None = None
        # A daemon: a camera that sends nothing blocks its reader, which must not keep the process from ending.
        self._thread = threading.Thread(target=self._read, name="scclip-live", daemon=True)
        self._thread.start()

    def __iter__(self) -> Iterator[Item]:
        return self

    def __next__(self) -> Item:
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._ended)
            if self._waiting:
                return self._waiting.pop()
            if self._error is not None:
                error, self._error = self._error, None
                raise error
            raise StopIteration

    def close(self) -> None:
        """Stop reading. The source is left after the item it is about to give."""
        with self._changed:
            self._stopped = self._ended = True
            self._waiting.clear()
            self._changed.notify_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _read(self) -> None:
        try:
            for item in self._source:
                with self._changed:
                    if self._stopped:
                        return
                    self.dropped += len(self._waiting)
                    self._waiting[:] = [item]
                    self._changed.notify_all()
        except BaseException as error:  # raised where the items are awaited
            self._error = error
        finally:
            with self._changed:
                self._ended = True
                self._changed.notify_all()
