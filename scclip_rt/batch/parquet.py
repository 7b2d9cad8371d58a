"""Parquet files with a column of images: Hugging Face's datasets, and any other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

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

if TYPE_CHECKING:
    import pyarrow.parquet as pq


@dataclass(frozen=True, slots=True, kw_only=True)
class ParquetShard(TableShard):
    """Rows of a file."""

    bytes: int

    @property
    def identity(self) -> str:
        """See `Shard`."""
        return f"{self.name} {self.bytes} {self.start} {self.stop} {self.column} {self.key}"

    def items(self) -> Iterator[Item]:
        """See `Shard`."""
        for row, values in _rows(self.path, self.columns, self.start, self.stop):
            yield self.item(row, values)


def plan_parquet(paths: Sequence[Path], options: InputOptions) -> list[ParquetShard]:
    """Shards of Parquet files, cut where row groups end unless these are larger than a shard.

    Raises:
        BatchError: a file is damaged or empty, or no column can be the images'.
    """
    base = common_folder(paths)
    shards, keys = [], []
    for path in paths:
        with _open(path) as file:
            column = image_column(file.schema_arrow, options.column, str(path))
            groups = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
            if options.key is not None:
                check_column(file.schema_arrow, options.key, path)
                keys += file.read(columns=[options.key])[options.key].to_pylist()
        for start, stop in _ranges(groups, options.shard_size):
            shard = ParquetShard(
                path=str(path),
                bytes=path.stat().st_size,
                start=start,
                stop=stop,
                column=column,
                key=options.key,
                name=shard_name(path, base),
            )
            shards.append(shard)
    if options.key is not None:
        check_keys(keys, options.key)
    return shards


def _open(path: Path) -> pq.ParquetFile:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.ParquetFile(path, pre_buffer=False)
    except (pa.ArrowException, OSError) as error:
        raise BatchError(f"can't read {path}: {_reason(error)}") from error


def _ranges(groups: Sequence[int], size: int) -> Iterator[tuple[int, int]]:
    """Rows of each shard, from the sizes of the row groups."""
    start = row = 0
    for rows in groups:
        if row > start and row + rows - start > size:
            yield start, row
            start = row
        row += rows
        while row - start > size:
            yield start, start + size
            start += size
    if row > start:
        yield start, row


def _rows(path: str, columns: list[str], start: int, stop: int) -> Iterator[tuple[int, dict[str, Any]]]:
    """Rows `start` to `stop`, with their numbers; only the row groups that hold some of them are read."""
    import pyarrow as pa

    with _open(Path(path)) as file:
        groups: list[int] = []
        first = row = 0
        for index in range(file.num_row_groups):
            rows = file.metadata.row_group(index).num_rows
            if row < stop and row + rows > start:
                first = first if groups else row
                groups.append(index)
            row += rows
        row = first
        try:
            for batch in file.iter_batches(ROWS_AT_ONCE, row_groups=groups, columns=columns):
                begin, end = max(start - row, 0), min(stop - row, len(batch))
                if begin < end:
                    part = batch.slice(begin, end - begin).to_pylist()
                    yield from enumerate(part, row + begin)
                row += len(batch)
                if row >= stop:
                    return
        except (pa.ArrowException, OSError) as error:
            raise BatchError(f"can't read rows {row} to {stop} of {path}: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())
