"""Images that lie in files."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from scclip_rt.batch.item import InputOptions, Item


@dataclass(frozen=True, slots=True, kw_only=True)
class FileShard:
    """Image files, each with its key."""

    files: tuple[tuple[str, str], ...]

    @property
    def count(self) -> int:
        """How many images."""
        return len(self.files)

    @property
    def identity(self) -> str:
        """See `Shard`."""
        return "\n".join(key for key, _ in self.files)

    def items(self) -> Iterator[Item]:
        """See `Shard`."""
        for key, path in self.files:
            yield Item(key=key, source=path, image=Path(path), suffix=Path(path).suffix)


def plan_files(paths: Sequence[Path], options: InputOptions, *, root: Path | None) -> list[FileShard]:
    """Shards of image files.

    Args:
        paths: the files.
        options: the size of shards.
        root: the folder that keys leave out; None takes the deepest one that holds all files.
    """
    files = list(zip(_keys(paths, root), map(str, paths), strict=True))
    size = options.shard_size
    return [FileShard(files=tuple(files[i : i + size])) for i in range(0, len(files), size)]


def common_folder(paths: Sequence[Path]) -> Path:
    """The deepest folder that holds all files."""
    return Path(os.path.commonpath([path.absolute().parent for path in paths]))


def _keys(paths: Sequence[Path], root: Path | None) -> list[str]:
    """Paths below the root, without suffix where that leaves them different (`a.jpg` and `a.png` keep theirs)."""
    base = common_folder(paths) if root is None else root.absolute()
    names = [PurePosixPath(path.absolute().relative_to(base).as_posix()) for path in paths]
    bare = [str(name.with_suffix("")) for name in names]
    counts = Counter(bare)
    return [short if counts[short] == 1 else str(name) for name, short in zip(names, bare, strict=True)]
