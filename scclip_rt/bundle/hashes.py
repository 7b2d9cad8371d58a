"""SHA-256 of bundle files, remembered by path, size and modification time, so that 400 MB are read once."""

import contextlib
import json
from pathlib import Path

from scclip_rt.errors import OutputError
from scclip_rt.files import atomic_path, cache_directory, sha256_file

_MAX_ENTRIES = 2000


def remembered_sha256(path: Path) -> str:
    """SHA-256 of a file, from memory if it was hashed on this machine at this size and modification time.

    The memory is one JSON file in the cache folder. Processes may write it at the same time: each replaces it
    whole, so at worst an entry is lost and that file is hashed again. A cache that can't be written is no
    error.

    Raises:
        OSError: the file can't be read, or is no regular file.
    """
    real = path.resolve()
    status = real.stat()
    stamp = f"{status.st_size}:{status.st_mtime_ns}"
    memory = _memory_file()
    known = None if memory is None else _read(memory).get(str(real))
    if isinstance(known, dict) and known.get("stamp") == stamp:
        return str(known.get("sha256"))
    digest = sha256_file(real)
    if memory is not None and real.stat().st_mtime_ns == status.st_mtime_ns:
        _remember(memory, str(real), {"stamp": stamp, "sha256": digest})
    return digest


def forget(path: Path) -> None:
    """Drop a file from the memory, so that one that failed its check is read again next time."""
    memory = _memory_file()
    if memory is None:
        return
    entries = _read(memory)
    if entries.pop(str(path.resolve()), None) is not None:
        _write(memory, entries)


def _memory_file() -> Path | None:
    root = cache_directory()
    return None if root is None else root / "hashes.json"


def _read(memory: Path) -> dict[str, object]:
    try:
        entries = json.loads(memory.read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return entries if isinstance(entries, dict) else {}


def _remember(memory: Path, key: str, value: dict[str, str]) -> None:
    entries = _read(memory)
    entries.pop(key, None)
    entries[key] = value
    _write(memory, dict(list(entries.items())[-_MAX_ENTRIES:]))


def _write(memory: Path, entries: dict[str, object]) -> None:
    with contextlib.suppress(OutputError, OSError), atomic_path(memory, force=True) as temporary:
        temporary.write_text(json.dumps(entries), "utf-8")
