"""What one process or actor does: open the bundle once, then turn shards into finished outputs."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scclip_rt.batch.errors import BatchError
from scclip_rt.batch.item import Shard
from scclip_rt.batch.ledger import Finished, Ledger
from scclip_rt.batch.rows import segment_items
from scclip_rt.batch.writers import WRITERS, Labelling
from scclip_rt.bundle.bundle import DEMO_NAME

if TYPE_CHECKING:
    from scclip_rt.vocabulary.file import Vocabulary


def bundle_anywhere(bundle: str | os.PathLike[str]) -> str:
    """What a worker that starts in another folder is to open: an absolute path, or a name that is none."""
    name = os.fspath(bundle)
    return str(Path(name).absolute()) if name != DEMO_NAME and os.path.lexists(name) else name


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """Rows that were added to the output, and how many of them are errors."""

    images: int
    errors: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """All that a worker needs to know; it is sent to other processes and machines.

    Attributes:
        bundle: its folder, or `demo`.
        vocabulary: embedded once, by whoever starts the run.
        options: further options of `Segmenter`.
        output: the folder, the same for all workers.
        format: a name in `WRITERS`.
        labelling: what goes with the labels.
    """

    bundle: str
    vocabulary: Vocabulary
    output: Path
    format: str
    labelling: Labelling
    options: Mapping[str, Any] = field(default_factory=dict)


class Worker:
    """Segments shards.

    Args:
        setup: of the run.
        overrides: options of `Segmenter` for this worker: its threads, its device.

    Raises:
        ScclipError: the bundle or the backend can't be opened here.
    """

    def __init__(self, setup: Setup, **overrides: Any) -> None:
        from scclip_rt.segmenter import Segmenter

        self._setup = setup
        self._ledger = Ledger(setup.output)
        options = {**setup.options, **overrides}
        self._segmenter = Segmenter(setup.bundle, vocabulary=setup.vocabulary, **options)

    def run(self, index: int, shard: Shard) -> Iterator[Progress | Finished]:
        """Segment and write one shard; tell of each image, and at the end that it is done.

        Raises:
            BatchError: the shard can't be read; nothing is left of it, other shards may go well.
            ScclipError: nothing will go well: the output can't be written, …
        """
        start = time.perf_counter()
        images, examples = 0, []
        setup = self._setup
        with WRITERS[setup.format](setup.output, index, setup.labelling) as add:
            for row in segment_items(self._segmenter, shard.items()):
                add(row)
                images += 1
                if row.error:
                    examples.append(f"{row.source}: {row.error}")
                yield Progress(images=1, errors=int(bool(row.error)))
            if images != shard.count:
                where = f", after {row.source}" if images else ""
                raise BatchError(
                    f"shard {index} had {shard.count} images when the run began, and now {images} were found{where}"
                )
        record = Finished(
            shard=index,
            images=images,
            errors=len(examples),
            seconds=round(time.perf_counter() - start, 3),
            examples=tuple(examples),
        )
        self._ledger.finish(record)
        yield record
