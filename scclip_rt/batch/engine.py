"""What runs the workers: something that takes shards and tells what became of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from scclip_rt.batch.item import Shard
from scclip_rt.batch.ledger import Finished
from scclip_rt.batch.worker import Progress, Setup


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """A shard that could not be read."""

    shard: int
    reason: str


Event: TypeAlias = Progress | Finished | Failed


class Engine(Protocol):
    """Runs workers."""

    def run(self, setup: Setup, shards: Sequence[tuple[int, Shard]]) -> Iterator[Event]:
        """Do all shards, in any order; every one ends in a `Finished` or a `Failed`.

        Raises:
            ScclipError: no worker can do anything: the bundle can't be opened, the output can't be written, …
        """
        ...
