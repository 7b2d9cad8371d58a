"""What every format is: a writer that takes images one by one, and a place where its files go."""

from __future__ import annotations

import io
import json
import os
import shutil
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Protocol

from scclip_rt.files import atomic_path

if TYPE_CHECKING:
    from scclip_rt.segmentation import Segmentation

_SPOOL_BYTES = 32 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageName:
    """What an image is called.

    Attributes:
        stem: names the image's own outputs; no other image of the run has it.
        file: how the tool is to find the image: its path below the folder of all images, `/` between folders.
        path: of the image on this machine, for formats that point to it; None if it isn't a file.
    """

    stem: str
    file: str
    path: Path | None = None


class Sink(Protocol):
    """Where a writer's files go."""

    def open(self, name: str) -> AbstractContextManager[IO[bytes]]:
        """A new file, `/` between folders; it is there, whole, once the body has ended without an error."""
        ...

    def reference(self, image: ImageName, file: str = "labels") -> str:
        """How `file` in here names the image: the way to it from there, or the image's file name."""
        ...


@dataclass(frozen=True, slots=True)
class Folder:
    """Files below a folder, each written completely or not at all."""

    path: Path
    force: bool = False

    @contextmanager
    def open(self, name: str) -> Iterator[IO[bytes]]:
        """As `Sink.open`.

        Raises:
            OutputError: the file exists and `force` is not set, or the system refused to write.
        """
        with atomic_path(self.path / name, force=self.force) as temporary, temporary.open("wb") as stream:
            yield stream

    def reference(self, image: ImageName, file: str = "labels") -> str:
        """As `Sink.reference`."""
        if image.path is None:
            return image.file
        return Path(os.path.relpath(image.path, (self.path / file).parent)).as_posix()


@dataclass(frozen=True, slots=True)
class Memory:
    """Files in memory, by name."""

    files: dict[str, bytes] = field(default_factory=dict)

    @contextmanager
    def open(self, name: str) -> Iterator[IO[bytes]]:
        """As `Sink.open`."""
        stream = io.BytesIO()
        yield stream
        self.files[name] = stream.getvalue()

    def reference(self, image: ImageName, file: str = "labels") -> str:  # noqa: ARG002
        """As `Sink.reference`."""
        return image.file


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassTable:
    """The classes of a whole run, the same for all of its images.

    Attributes:
        names: in the order of their labels.
        background: the label of the background class, or None.
    """

    names: tuple[str, ...]
    background: int | None = None

    def foreground(self) -> list[tuple[int, str]]:
        """Label and name of every class but the background, which mask and polygon formats leave blank."""
        return [(label, name) for label, name in enumerate(self.names) if label != self.background]

    def is_foreground(self, label: int) -> bool:
        """Whether a label of a map is a class that is not the background."""
        return label < len(self.names) and label != self.background


class FormatWriter(ABC):
    """Writes the label maps of a run in one format.

    Args:
        sink: where files go.
        table: the run's classes.
    """

    def __init__(self, sink: Sink, table: ClassTable) -> None:
        self.sink = sink
        self.table = table

    @abstractmethod
    def add(self, result: Segmentation, image: ImageName) -> None:
        """Write one image's labels, or keep them for `finish`.

        Args:
            result: of the image; its classes are the table's.
            image: what it is called.
        """

    def finish(self) -> None:
        """Write the files that hold all images. Called once, after the last image."""
        return


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelFormat:
    """A format by its name.

    Attributes:
        name: as `--format` takes it.
        summary: what is written and for whom, one line.
        writer: makes a writer.
        image_files: names of each image's own files, with `{stem}`.
        run_files: names of the files that hold all images.
        media_type: of one image alone (`application/zip` where that takes several files).
        suffix: of the same.
    """

    name: str
    summary: str
    writer: Callable[[Sink, ClassTable], FormatWriter]
    image_files: tuple[str, ...] = ()
    run_files: tuple[str, ...] = ()
    media_type: str
    suffix: str


class Spool:
    """Bytes for a file that is written last, kept on disk beyond some megabytes."""

    def __init__(self) -> None:
        self._file = tempfile.SpooledTemporaryFile(max_size=_SPOOL_BYTES)  # noqa: SIM115  # lives as long as its writer

    def append(self, data: bytes) -> None:
        """Add bytes."""
        self._file.write(data)

    def copy_to(self, stream: IO[bytes]) -> None:
        """Write all of them."""
        self._file.seek(0)
        shutil.copyfileobj(self._file, stream)


class JsonItems:
    """JSON values that are to become one list."""

    def __init__(self) -> None:
        self._spool = Spool()
        self.count = 0

    def append(self, value: Any) -> None:
        """Add a value."""
        self._spool.append((b",\n" if self.count else b"\n") + json_bytes(value))
        self.count += 1

    def write_to(self, stream: IO[bytes]) -> None:
        """Write the list."""
        stream.write(b"[")
        self._spool.copy_to(stream)
        stream.write(b"\n]")


def write_json_object(stream: IO[bytes], members: dict[str, Any]) -> None:
    """Write an object; members that are `JsonItems` are copied from where they are kept."""
    for index, (key, value) in enumerate(members.items()):
        stream.write((b",\n" if index else b"{") + json_bytes(key) + b": ")
        if isinstance(value, JsonItems):
            value.write_to(stream)
        else:
            stream.write(json_bytes(value))
    stream.write(b"}\n")


def json_bytes(value: Any) -> bytes:
    """JSON on one line, in UTF-8."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
