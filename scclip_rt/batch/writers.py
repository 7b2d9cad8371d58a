"""What a shard's rows are written as: Parquet, a WebDataset tar, a folder of PNGs, or a format of another tool."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scclip_rt.batch.rows import Row
from scclip_rt.files import atomic_directory, atomic_path
from scclip_rt.formats import FORMATS, ClassTable, ImageName, open_writer

if TYPE_CHECKING:
    import pyarrow as pa

AddRow = Callable[[Row], None]
_ODD = frozenset(map(chr, range(32))) | set('%\\:*?"<>|\x7f')
"""What a file's name should not have on one system or another; `%` because it marks the replacement."""
_ROWS_AT_ONCE = 64
"""Rows of a row group: small enough that a reader of single images doesn't read many."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Labelling:
    """What the numbers in label maps mean; it goes with every output.

    Attributes:
        classes: a label is an index into them.
        unlabelled: the label of pixels without a class.
        background: index of the background class, or None.
        bundle: name of the bundle.
        checkpoint: SHA-256 of the checkpoint it was exported from.
    """

    classes: tuple[str, ...]
    unlabelled: int
    background: int | None
    bundle: str
    checkpoint: str

    def json(self) -> str:
        """As text, for metadata."""
        return json.dumps(asdict(self), ensure_ascii=False)


@contextmanager
def _parquet(folder: Path, index: int, labelling: Labelling) -> Iterator[AddRow]:
    """`part-00012.parquet`, a row an image."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = _schema(labelling)
    rows: list[dict[str, Any]] = []  # cells, without the image and its labels in memory
    with (
        atomic_path(folder / f"{_part(index)}.parquet", force=True) as temporary,
        # A PNG is compressed already.
        pq.ParquetWriter(
            temporary, schema, compression={"labels_png": "NONE"}, use_dictionary=False
        ) as writer,
    ):

        def flush() -> None:
            writer.write_batch(pa.RecordBatch.from_pylist(rows, schema=schema))
            rows.clear()

        def add(row: Row) -> None:
            rows.append(row.cells())
            if len(rows) == _ROWS_AT_ONCE:
                flush()

        yield add
        if rows:
            flush()


def _schema(labelling: Labelling) -> pa.Schema:
    import pyarrow as pa

    fields = [
        pa.field("key", pa.string(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("height", pa.int32(), nullable=False),
        pa.field("width", pa.int32(), nullable=False),
        pa.field("labels_png", pa.binary(), nullable=False),
        pa.field("shares", pa.string(), nullable=False),
        pa.field("error", pa.string(), nullable=False),
    ]
    return pa.schema(fields, metadata={"scclip": labelling.json()})


@contextmanager
def _webdataset(folder: Path, index: int, _labelling: Labelling) -> Iterator[AddRow]:
    """`part-00012.tar` with `KEY.labels.png` and `KEY.json` of every image."""
    with (
        atomic_path(folder / f"{_part(index)}.tar", force=True) as temporary,
        tarfile.open(temporary, "w", format=tarfile.PAX_FORMAT) as tar,
    ):

        def put(name: str, data: bytes) -> None:
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(data), 0o644
            tar.addfile(member, io.BytesIO(data))

        def add(row: Row) -> None:
            name = _tar_key(row.key)
            if not row.error:
                put(f"{name}.labels.png", row.labels_png)
            put(f"{name}.json", (_description(row) + "\n").encode())

        yield add


@contextmanager
def _folder(folder: Path, index: int, _labelling: Labelling) -> Iterator[AddRow]:
    """`KEY.labels.png` of every image, and `rows/part-00012.jsonl` with shares and errors, a line an image."""
    with (
        atomic_path(folder / "rows" / f"{_part(index)}.jsonl", force=True) as temporary,
        temporary.open("w", encoding="utf-8") as lines,
    ):

        def add(row: Row) -> None:
            if not row.error:
                with atomic_path(folder / f"{_path_key(row.key)}.labels.png", force=True) as png:
                    png.write_bytes(row.labels_png)
            lines.write(_description(row) + "\n")

        yield add


@contextmanager
def _tool_format(name: str, folder: Path, index: int, labelling: Labelling) -> Iterator[AddRow]:
    """`part-00012/` with a shard in the format of another tool, and `rows.jsonl`, a line an image."""
    table = ClassTable(names=labelling.classes, background=labelling.background)
    with (
        atomic_directory(folder / _part(index), force=True) as temporary,
        open_writer(name, temporary, table) as writer,
        (temporary / "rows.jsonl").open("w", encoding="utf-8") as lines,
    ):

        def add(row: Row) -> None:
            if row.item is not None and row.result is not None:
                path = row.item.image if isinstance(row.item.image, Path) else None
                writer.add(row.result, ImageName(stem=_path_key(row.key), file=row.item.file, path=path))
            lines.write(_description(row) + "\n")

        yield add


WRITERS: dict[str, Callable[[Path, int, Labelling], AbstractContextManager[AddRow]]] = {
    "parquet": _parquet,
    "webdataset": _webdataset,
    "png": _folder,
    **{name: partial(_tool_format, name) for name in FORMATS if name != "png"},
}
"""By the name of `--format`: opens the output of shard `index` in a folder, which appears whole or, for PNGs, image by
image. What an interrupted run left of it is replaced."""


def _part(index: int) -> str:
    return f"part-{index:05d}"


def _description(row: Row) -> str:
    """All of a row but the labels, as a line of JSON."""
    entry = row.cells() | {"shares": json.loads(row.shares)}
    del entry["labels_png"]
    return json.dumps(entry, ensure_ascii=False)


def _tar_key(key: str) -> str:
    """A key that WebDataset reads back: its names end at the first dot, so dots are written `%2E`."""
    folder, slash, name = _path_key(key).rpartition("/")
    return folder + slash + name.replace(".", "%2E")


def _path_key(key: str) -> str:
    """A key as a path inside the output: nothing leads out of it, and no two keys become one."""
    return "/".join(_component(part) for part in key.split("/"))


def _component(part: str) -> str:
    if not part.strip("."):
        return part.replace(".", "%2E") or "%"
    return "".join(f"%{ord(letter):02X}" if letter in _ODD else letter for letter in part)
