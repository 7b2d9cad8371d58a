"""Which column of an Arrow table holds images, and what a value of it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scclip_rt.batch.errors import BatchError
from scclip_rt.batch.item import Item

if TYPE_CHECKING:
    import pyarrow as pa


ROWS_AT_ONCE = 16
"""Rows of images held in memory at a time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TableShard:
    """Rows `start` to `stop` of a file or dataset: the part of a `Shard` that every format of rows has."""

    path: str
    start: int
    stop: int
    column: str
    key: str | None
    name: str

    @property
    def count(self) -> int:
        """How many images."""
        return self.stop - self.start

    @property
    def columns(self) -> list[str]:
        """The columns that are read."""
        return [self.column] if self.key is None else [self.column, self.key]

    def item(self, row: int, values: Mapping[str, Any]) -> Item:
        """The item of one row, numbered where the shard has no key column.

        Args:
            row: its number in the file.
            values: of `columns`; relative paths of images start from the file's folder.
        """
        image, error = image_value(values[self.column], Path(self.path).parent)
        key = f"{self.name}-{row:08d}" if self.key is None else str(values[self.key])
        return Item(key=key, source=f"{self.path}#{row}", image=image, error=error)


def shard_name(path: Path, base: Path) -> str:
    """What a file's rows are named after: its place below the inputs' common folder, without the suffix."""
    return path.absolute().relative_to(base).with_suffix("").as_posix()


def check_column(schema: pa.Schema, name: str, place: str | Path) -> None:
    """Refuse a column that is not there.

    Raises:
        BatchError: says which there are.
    """
    if name not in schema.names:
        raise BatchError(f"{place} has no column {name!r}; it has {', '.join(schema.names)}")


def image_column(schema: pa.Schema, wanted: str | None, place: str) -> str:
    """The column of images: the one asked for, or the only one that can be it.

    Images are binary, or Hugging Face's `struct<bytes, path>`; asked for by name also text: paths of files.

    Raises:
        BatchError: no such column, of another type, or not exactly one that could be it.
    """
    if wanted is not None:
        check_column(schema, wanted, place)
        if not (_holds_bytes(schema.field(wanted).type) or _is_text(schema.field(wanted).type)):
            raise BatchError(
                f"column {wanted!r} of {place} is {schema.field(wanted).type}; images are binary, "
                "struct<bytes, path>, or text (paths of files)"
            )
        return wanted
    fitting: list[str] = [field.name for field in schema if _holds_bytes(field.type)]
    if len(fitting) != 1:
        found = f"{len(fitting)} could be it: {', '.join(fitting)}" if fitting else "none holds bytes"
        raise BatchError(
            f"which column of {place} holds the images? {found}. Name it with --column (column=); "
            f"there are {', '.join(schema.names)}"
        )
    return fitting[0]


def image_value(value: Any, folder: Path | None) -> tuple[Path | bytes | None, str]:
    """One value of an image column.

    Args:
        value: bytes, a path, or a mapping with `bytes` or `path`; None for a row without an image.
        folder: that relative paths start from; None for the working folder.

    Returns:
        The image, or None and the reason why there is none.
    """
    if isinstance(value, Mapping):
        value = value.get("bytes") or value.get("path")
    if isinstance(value, str) and value:
        return (Path(value) if folder is None else folder / value), ""
    if isinstance(value, bytes | bytearray | memoryview):
        return (bytes(value), "") if len(value) else (None, "the image has no bytes")
    if value is None or value == "":
        return None, "the row has no image"
    return None, f"an image must be bytes or a path; got {type(value).__name__}"


def check_keys(keys: list[Any], column: str) -> list[str]:
    """Keys as text, each different.

    Raises:
        BatchError: a key is missing or there twice.
    """
    if None in keys:
        raise BatchError(f"row {keys.index(None)} has no value in the key column {column!r}")
    texts = [str(key) for key in keys]
    seen: set[str] = set()
    for text in texts:
        if text in seen:
            raise BatchError(
                f"two rows have {text!r} in the key column {column!r}; take a column of different values, or leave out "
                "--key (key=): rows are then numbered"
            )
        seen.add(text)
    return texts


def _holds_bytes(kind: pa.DataType) -> bool:
    import pyarrow as pa

    if pa.types.is_struct(kind):
        return any(
            kind.field(i).name == "bytes" and _is_binary(kind.field(i).type) for i in range(kind.num_fields)
        )
    return _is_binary(kind)


def _is_binary(kind: pa.DataType) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind))


def _is_text(kind: pa.DataType) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))
