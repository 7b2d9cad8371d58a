"""WebDataset shards: tar files in which consecutive members of one name are a sample (`0001.jpg`, `0001.json`)."""

from __future__ import annotations

import tarfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from scclip_rt.batch.arrow_columns import shard_name
from scclip_rt.batch.errors import BatchError
from scclip_rt.batch.image_files import common_folder
from scclip_rt.batch.item import InputOptions, Item
from scclip_rt.image.files import IMAGE_SUFFIXES

_FIRST = ("jpg", "jpeg", "webp")
SUFFIXES = (*_FIRST, *sorted({suffix[1:] for suffix in IMAGE_SUFFIXES} - set(_FIRST)))
"""Members that are images; of several in a sample the first in this order: a PNG beside a JPEG is mostly a mask."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TarShard:
    """`count` samples of a tar file, from the one that begins at byte `offset`."""

    path: str
    bytes: int
    offset: int
    count: int
    column: str | None
    prefix: str

    @property
    def identity(self) -> str:
        """See `Shard`."""
        return f"{Path(self.path).name} {self.bytes} {self.offset} {self.count} {self.column} {self.prefix}"

    def items(self) -> Iterator[Item]:
        """See `Shard`."""
        with _open(self.path, self.offset) as tar:
            for number, (key, members) in enumerate(_samples(tar)):
                if number == self.count:
                    return
                yield self._item(tar, key, dict(members))

    def _item(self, tar: tarfile.TarFile, key: str, members: dict[str, tarfile.TarInfo]) -> Item:
        name = next((s for s in ([self.column] if self.column else SUFFIXES) if s in members), None)
        data, error = None, f"no image in the sample; it has {', '.join(members)}"
        if name is not None:
            stream = tar.extractfile(members[name])
            data, error = (stream.read() if stream else None), ""
            if not data:
                data, error = None, "the image has no bytes"
        source = f"{self.path}#{key}" + (f".{name}" if name else "")
        suffix = f".{name}" if name else ""
        return Item(key=self.prefix + key, source=source, image=data, error=error, suffix=suffix)


def plan_tars(paths: Sequence[Path], options: InputOptions) -> list[TarShard]:
    """Shards of tar files. Only the headers of their members are read.

    Keys are WebDataset's; where two files have the same one, every key gets its file's name in front.

    Raises:
        BatchError: a file is damaged, compressed or holds no samples, or one has a key twice.
    """
    indices = [(path, _index(path)) for path in paths]
    counts = Counter(key for _, index in indices for key, _ in index)
    unique = not counts or max(counts.values()) == 1
    base = common_folder(paths)
    shards = []
    for path, index in indices:
        prefix = "" if unique else shard_name(path, base) + "/"
        for start in range(0, len(index), options.shard_size):
            part = index[start : start + options.shard_size]
            shard = TarShard(
                path=str(path),
                bytes=path.stat().st_size,
                offset=part[0][1],
                count=len(part),
                column=options.column,
                prefix=prefix,
            )
            shards.append(shard)
    return shards


def _index(path: Path) -> list[tuple[str, int]]:
    """Key of each sample, and the byte where it begins."""
    with _open(str(path), 0) as tar:
        index = [(key, members[0][1].offset) for key, members in _samples(tar)]
    if not index:
        raise BatchError(f"{path} holds no samples: files such as 0001.jpg")
    key, number = Counter(key for key, _ in index).most_common(1)[0]
    if number > 1:
        raise BatchError(
            f"{path} has {number} samples {key!r} that don't follow each other; a sample's files must"
        )
    return index


@contextmanager
def _open(path: str, offset: int) -> Iterator[tarfile.TarFile]:
    """An uncompressed tar file from byte `offset`, at which a member begins.

    Raises:
        BatchError: it is not one, or is cut off; also for errors of the body.
    """
    try:
        with Path(path).open("rb") as stream:
            stream.seek(offset)
            with tarfile.open(fileobj=stream, mode="r:") as tar:
                yield tar
    except (tarfile.TarError, OSError) as error:
        hint = "; unpack it first: samples of a compressed tar can't be reached singly"
        compressed = path.endswith(("gz", "bz2", "xz", "zst"))
        raise BatchError(f"can't read {path}: {error}{hint if compressed else ''}") from error


def _samples(tar: tarfile.TarFile) -> Iterator[tuple[str, list[tuple[str, tarfile.TarInfo]]]]:
    """Samples as WebDataset groups them: key, and (suffix, member) of each file."""
    for key, members in groupby(_files(tar), key=lambda file: file[0]):
        yield key, [(suffix, member) for _, suffix, member in members]


def _files(tar: tarfile.TarFile) -> Iterator[tuple[str, str, tarfile.TarInfo]]:
    """Key, suffix and member of every file. The suffix begins at the first dot of the name: `0001.seg.png`."""
    for member in tar:
        folder, slash, name = member.name.rpartition("/")
        stem, dot, suffix = name.partition(".")
        if member.isfile() and stem and dot and not member.name.startswith("__"):
            yield folder + slash + stem, suffix.lower(), member
