"""What runs the workers: something that takes shards and tells what became of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from scclip_rt.batch.errors import BatchError
from scclip_rt.batch.item import Shard
from scclip_rt.batch.ledger import Finished
from scclip_rt.batch.worker import Progress, Setup, Worker


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """A shard that could not be read."""

    shard: int
    reason: str


Event: TypeAlias = Progress | Finished | Failed


def shard_events(worker: Worker, index: int, shard: Shard) -> Iterator[Event]:
    """Do one shard; if it can't be read, take back what was told of it.

    Raises:
        ScclipError: other than of reading; no shard will go well.
    """
    images = errors = 0
    try:
        for event in worker.run(index, shard):
            if isinstance(event, Progress):
                images, errors = images + event.images, errors + event.errors
            yield event
    except BatchError as error:
        yield Progress(images=-images, errors=-errors)
        yield Failed(shard=index, reason=str(error))


class Engine(Protocol):
    """Runs workers."""

    def run(self, setup: Setup, shards: Sequence[tuple[int, Shard]]) -> Iterator[Event]:
        """Do all shards, in any order; every one ends in a `Finished` or a `Failed`.

        Raises:
            ScclipError: no worker can do anything: the bundle can't be opened, the output can't be written, …
        """
        ...
