"""Which run an output folder belongs to, and which of its shards are finished: what `--resume` reads."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from scclip_rt.batch.errors import BatchError
from scclip_rt.files import atomic_path

FOLDER = "_scclip"
"""Inside the output; readers of Parquet datasets pass over names that begin with an underscore."""
_EXAMPLES = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """One shard that is written.

    Attributes:
        shard: its number.
        images: how many rows it has.
        errors: how many of them are errors.
        seconds: that it took.
        examples: some of the errors.
    """

    shard: int
    images: int
    errors: int
    seconds: float
    examples: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "examples", tuple(self.examples[:_EXAMPLES]))


class Ledger:
    """The record of one run, in files that are whole or not there: `job.json`, and `done/NUMBER.json` for each shard.

    A shard's record is written after its output. So a shard without one, whatever there is of its output, is done
    again, and one with a record never is. Any number of processes and machines may write records: each writes its own
    files.
    """

    def __init__(self, output: Path) -> None:
        self._folder = output / FOLDER

    @classmethod
    @contextmanager
    def open(cls, output: Path, job: Mapping[str, Any], *, resume: bool) -> Iterator[Self]:
        """Begin a run in an empty folder, or go on with it; for one process at a time.

        Args:
            output: the folder, made if it doesn't exist.
            job: what decides the output, by name: JSON values. A run goes on only if all are as they were.
            resume: go on if there is a run.

        Raises:
            BatchError: the folder holds something else, another run, or one that is still going.
        """
        ledger = cls(output)
        with ledger._lock(output):
            if ledger._job_path.exists():
                ledger._check(job, resume=resume)
            elif any(entry.name != FOLDER for entry in output.iterdir()):
                raise BatchError(
                    f"{output} is not empty and holds no batch run; give --output another folder"
                )
            else:
                with atomic_path(ledger._job_path) as temporary:
                    temporary.write_text(json.dumps(job, indent=2, ensure_ascii=False) + "\n", "utf-8")
            ledger._remove_leftovers(output)
            yield ledger

    def finished(self) -> dict[int, Finished]:
        """The shards that are done, by number."""
        records = [Finished(**json.loads(path.read_text("utf-8"))) for path in self._done.glob("*.json")]
        return {record.shard: record for record in records}

    def finish(self, record: Finished) -> None:
        """Note that a shard's output is complete."""
        with atomic_path(self._done / f"{record.shard:05d}.json", force=True) as temporary:
            temporary.write_text(json.dumps(asdict(record), ensure_ascii=False) + "\n", "utf-8")

    @property
    def _job_path(self) -> Path:
        return self._folder / "job.json"

    @property
    def _done(self) -> Path:
        return self._folder / "done"

    @contextmanager
    def _lock(self, output: Path) -> Iterator[None]:
        """Keep a second run out; the system lets go of the lock with the process, however that ends."""
        if output.exists() and not output.is_dir():
            raise BatchError(f"{output} is a file; --output names a folder")
        self._folder.mkdir(parents=True, exist_ok=True)
        with (self._folder / "lock").open("w") as stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise BatchError(f"another run is writing into {output}; wait for it or stop it") from error
            yield

    def _check(self, job: Mapping[str, Any], *, resume: bool) -> None:
        if not resume:
            raise BatchError(
                f"{self._folder.parent} holds a run, {len(self.finished())} shards of it done; --resume goes on with it"
            )
        before = json.loads(self._job_path.read_text("utf-8"))
        for name in [*job, *(before.keys() - job.keys())]:
            if before.get(name) != job.get(name):
                raise BatchError(
                    f"{self._folder.parent} was begun with {name} = {_short(before.get(name))}, and now it is "
                    f"{_short(job.get(name))}; go on with the same, or give --output another folder"
                )

    def _remove_leftovers(self, output: Path) -> None:
        """What a killed run was writing. Nobody else writes here: the lock is ours."""
        for folder, _, names in os.walk(output):
            for name in names:
                if name.startswith(".tmp-"):
                    (Path(folder) / name).unlink(missing_ok=True)


def _short(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "…"
