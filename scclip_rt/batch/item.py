"""What a batch run is made of: images with a key, in shards of some hundreds."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One image of the input.

    Attributes:
        key: its name in the output, different from every other's.
        source: where it lies: a path, or container and row.
        image: the file, or the bytes of one; None if the input has none, and then `error` says why.
        error: why there is no image.
        suffix: of its file, with the dot; empty where that is not known.
    """

    key: str
    source: str
    image: Path | bytes | None
    error: str = ""
    suffix: str = ""

    @property
    def file(self) -> str:
        """What other tools are to call the image."""
        return self.key if self.key.endswith(self.suffix) else self.key + self.suffix


class Shard(Protocol):
    """Consecutive images of the input: what one worker takes at a time, and what is done again after a crash.

    Shards are sent to other processes and machines: they hold names and positions, no open files and no images.
    """

    @property
    def count(self) -> int:
        """How many images."""
        ...

    @property
    def identity(self) -> str:
        """A text that changes when the input does, as far as names, sizes and counts show it."""
        ...

    def items(self) -> Iterator[Item]:
        """The images, `count` of them, in an order that never changes.

        Raises:
            BatchError: the container can't be read.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class InputOptions:
    """How containers are read.

    Attributes:
        shard_size: about how many images a shard has.
        column: of the image: a column of a Parquet file or Lance dataset, or a suffix in a WebDataset sample (`jpg`);
            None finds it.
        key: column of a Parquet file or Lance dataset whose values name the images; None numbers the rows.
    """

    shard_size: int = 256
    column: str | None = None
    key: str | None = None
