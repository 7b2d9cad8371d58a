"""Lance datasets with a column of images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scclip_rt.batch.arrow_columns import (
    ROWS_AT_ONCE,
    TableShard,
    check_column,
    check_keys,
    image_column,
    shard_name,
)
from scclip_rt.batch.errors import BatchError
from scclip_rt.batch.image_files import common_folder
from scclip_rt.batch.item import InputOptions, Item


@dataclass(frozen=True, slots=True, kw_only=True)
class LanceShard(TableShard):
    """Rows of one version of a dataset."""

    version: int

    @property
    def identity(self) -> str:
        """See `Shard`."""
        return f"{self.name} version {self.version} {self.start} {self.stop} {self.column} {self.key}"

    def items(self) -> Iterator[Item]:
        """See `Shard`."""
        scanner = _open(self.path, self.version).scanner(
            columns=self.columns,
            offset=self.start,
            limit=self.count,
            batch_size=ROWS_AT_ONCE,
            scan_in_order=True,
        )
        rows = (values for batch in scanner.to_batches() for values in batch.to_pylist())
        for row, values in enumerate(rows, self.start):
            yield self.item(row, values)


def plan_lance(paths: Sequence[Path], options: InputOptions) -> list[LanceShard]:
    """Shards of Lance datasets, of the version that is current now.

    Raises:
        BatchError: `lance` is not installed, a dataset can't be read, or no column can be the images'.
    """
    base = common_folder(paths)
    shards, keys = [], []
    for path in paths:
        dataset = _open(str(path), None)
        column = image_column(dataset.schema, options.column, str(path))
        if options.key is not None:
            check_column(dataset.schema, options.key, path)
            keys += dataset.to_table(columns=[options.key])[options.key].to_pylist()
        rows = dataset.count_rows()
        for start in range(0, rows, options.shard_size):
            shard = LanceShard(
                path=str(path),
                version=dataset.version,
                start=start,
                stop=min(start + options.shard_size, rows),
                column=column,
                key=options.key,
                name=shard_name(path, base),
            )
            shards.append(shard)
    if options.key is not None:
        check_keys(keys, options.key)
    return shards


def _open(path: str, version: int | None) -> Any:
    try:
        import lance
    except ImportError as error:
        raise BatchError(
            f"{path} is a Lance dataset, whose reader is not installed: pip install pylance"
        ) from error
    try:
        return lance.dataset(path, version=version)
    except (OSError, ValueError) as error:
        raise BatchError(f"can't read {path}: {' '.join(str(error).split())}") from error
