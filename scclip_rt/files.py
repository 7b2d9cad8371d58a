"""Writing that is all or nothing, hashing, and where the cache lives."""

import contextlib
import errno
import functools
import hashlib
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from scclip_rt.errors import OutputError

_CHUNK_BYTES = 1 << 20


def cache_directory() -> Path | None:
    """The folder for what may be lost: `$XDG_CACHE_HOME/scclip-rt`, else `~/.cache/scclip-rt`.

    Returns:
        The path; nothing is created. None where there is no home folder: a user without an entry in passwd, as in
        containers. A temporary folder is no place for it, as others could write there what we would trust.
    """
    # The XDG specification says that a relative value is to be ignored.
    root = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if not root.is_absolute():
        try:
            root = Path("~/.cache").expanduser()
        except RuntimeError:
            return None
        if not root.is_absolute():
            return None
    return root / "scclip-rt"


def cache_for_libraries() -> Path:
    """Where a library that must have a folder keeps what it builds: our cache, else a temporary folder of our own."""
    return cache_directory() or _own_temporary_folder()


@functools.cache
def _own_temporary_folder() -> Path:
    return Path(tempfile.mkdtemp(prefix="scclip-rt-"))


def write_cached(path: Path, data: bytes, *, most: int) -> None:
    """Write a file of the cache, its SHA-256 first; of the folder's files of that suffix the `most` used last stay.

    Raises:
        OutputError: the system refused to write.
    """
    with atomic_path(path, force=True) as temporary, temporary.open("wb") as stream:
        stream.write(hashlib.sha256(data).digest())
        stream.write(data)
    _keep_newest(path.parent, path.suffix, most)


def read_cached(path: Path) -> bytes | None:
    """What `write_cached` wrote, which counts as used; None where there is no file that holds what its hash says."""
    try:
        data = path.read_bytes()
    except (OSError, ValueError):
        return None
    with contextlib.suppress(OSError):  # a cache that can only be read
        os.utime(path)
    size = hashlib.sha256().digest_size
    digest, data = data[:size], data[size:]
    return data if digest == hashlib.sha256(data).digest() else None


def _keep_newest(folder: Path, suffix: str, number: int) -> None:
    """Remove the files of a folder that were longest not used; what another process removed meanwhile is gone."""
    with contextlib.suppress(OSError):
        found = [entry for entry in os.scandir(folder) if entry.name.endswith(suffix)]
        if len(found) > number:
            for entry in sorted(found, key=lambda entry: entry.stat().st_mtime)[: len(found) - number]:
                Path(entry).unlink()


def sha256_file(path: Path) -> str:
    """SHA-256 of a file's bytes.

    Returns:
        64 lower-case hexadecimal digits.

    Raises:
        OSError: the file can't be read, or is no regular file: a pipe or a device is not opened.
    """
    check_regular(path)
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def check_regular(path: Path) -> None:
    """Refuse what is no regular file, without opening it: a pipe would block, a device may act.

    Raises:
        OSError: it is none, or does not exist.
    """
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError(errno.EINVAL, "not a regular file", os.fspath(path))


def check_replaceable(path: Path, *, force: bool) -> None:
    """Refuse an output that exists, so that a command can stop before it has done any work.

    Raises:
        OutputError: `path` exists and `force` is not given, or it is a device, a pipe or a folder, which no `force`
            replaces.
    """
    if not os.path.lexists(path):
        return
    if not force:
        raise OutputError(f"{path} exists; pass --force to replace it", field=path.name)
    if path.exists() and not path.is_file():
        kind = "a folder" if path.is_dir() else "a device or a pipe"
        raise OutputError(f"{path} is {kind}, which --force does not replace; name a file", field=path.name)


def check_replaceable_folder(path: Path, *, force: bool, own: Callable[[Path], bool]) -> None:
    """As `check_replaceable`, for an output that is a folder: `force` replaces a file, an empty folder, or one of ours.

    Args:
        path: the output.
        force: whether it may be replaced at all.
        own: whether a folder is one that we wrote.

    Raises:
        OutputError: it exists and may not be replaced.
    """
    if force and path.is_dir():
        if not own(path) and any(path.iterdir()):
            raise OutputError(
                f"{path} is a folder that is not ours; --force does not replace it. Remove it yourself",
                field=path.name,
            )
        return
    check_replaceable(path, force=force)


def output_error(path: Path, error: OSError) -> OutputError:
    """The message for a write to `path` that the system refused.

    Returns:
        An error that says which file, why, and what to do where that is known.
    """
    reason = error.strerror or str(error)
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return OutputError(
            f"can't write {path}: {reason}; free some space there or choose another place "
            "(nothing half-written was left)"
        )
    if isinstance(error, FileExistsError | NotADirectoryError):
        return OutputError(f"can't write {path}: a folder on the way to it is a file; choose another place")
    return OutputError(f"can't write {path}: {reason}")


@contextlib.contextmanager
def atomic_path(path: str | Path, *, force: bool = False) -> Iterator[Path]:
    """Write a file completely or not at all.

    The body writes to the temporary path it is given, which lies beside the target and keeps its suffix.
    At the end that file is synced to disk and renamed; after any failure, Ctrl-C included, it is removed and
    whatever was at `path` is untouched.

    Args:
        path: the file to write; missing parent folders are made.
        force: replace an existing file.

    Yields:
        The temporary path.

    Raises:
        OutputError: the file exists and `force` is not given, or the system refused to write (full disk, no
            permission, a folder of that name).

    Example:
        >>> with atomic_path("out/labels.png", force=True) as temporary:
        ...     temporary.write_bytes(png)
    """
    target = Path(path)
    check_replaceable(target, force=force)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(prefix=".tmp-", suffix=target.suffix, dir=target.parent)
    except OSError as error:
        raise output_error(target, error) from error
    os.close(descriptor)
    temporary = Path(name)
    try:
        yield temporary
        _sync(temporary)
        # mkstemp makes 0600; an output follows the user's umask like any other file.
        temporary.chmod(0o666 & ~_umask())
        _publish_file(temporary, target, force=force)
    except OSError as error:
        if _is_about_another_file(error, temporary, target):
            raise
        raise output_error(target, error) from error
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_directory(
    path: str | Path, *, force: bool = False, own: Callable[[Path], bool] = lambda _: False
) -> Iterator[Path]:
    """Write a folder completely or not at all.

    The body fills the temporary folder it is given, which lies beside the target. At the end it takes the
    target's name. With `force` an existing folder is first moved aside, moved back if anything fails, and
    deleted last. What a killed run has left beside the target is removed first, a folder that it had moved aside
    put back.

    Args:
        path: the folder to write; missing parent folders are made.
        force: replace a file, an empty folder, or one of ours of that name.
        own: whether an existing folder is one that we wrote.

    Yields:
        The temporary folder, empty.

    Raises:
        OutputError: the folder exists and `force` is not given, or the system refused to write.
    """
    target = Path(path)
    _clear_stale(target)
    check_replaceable_folder(target, force=force, own=own)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".tmp-{target.name}-", dir=target.parent))
        lock = _lock(temporary)
    except OSError as error:
        raise output_error(target, error) from error
    try:
        yield temporary
        for file in temporary.rglob("*"):
            if file.is_file() and not file.is_symlink():
                _sync(file)
        temporary.chmod(0o777 & ~_umask())
        check_replaceable_folder(target, force=force, own=own)
        _publish_directory(temporary, target)
    except OSError as error:
        if _is_about_another_file(error, temporary, target):
            raise
        raise output_error(target, error) from error
    finally:
        if lock is not None:
            os.close(lock)
        shutil.rmtree(temporary, ignore_errors=True)


@contextlib.contextmanager
def exclusive(folder: Path, busy: str) -> Iterator[None]:
    """Let one process at a time do something; the system lets go of it even after kill -9.

    Where the system or the file system has no locks, nobody is kept out.

    Args:
        folder: that stands for it.
        busy: the message for whoever comes second.

    Raises:
        OutputError: another process is at it.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise OutputError(busy) from None
        except OSError:
            pass  # no locks here
        yield
    finally:
        os.close(descriptor)


def _lock(folder: Path) -> int | None:
    """Hold a folder for as long as this process lives: the system lets go of it even after kill -9.

    Returns:
        The descriptor that holds it; None if somebody else does, or where the file system has no locks.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        return None
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


def _clear_stale(target: Path) -> None:
    """Remove the temporary folders of runs for this target that are no more, as their locks are free."""
    try:
        siblings = [entry for entry in target.parent.iterdir() if entry.is_dir() and not entry.is_symlink()]
    except OSError:
        return
    for folder in siblings:
        if not folder.name.startswith((f".tmp-{target.name}-", f".old-{target.name}-")):
            continue
        with contextlib.suppress(OSError):
            lock = _lock(folder)
            if lock is None:
                continue
            old = folder / target.name
            if folder.name.startswith(".old-") and os.path.lexists(old) and not os.path.lexists(target):
                old.rename(target)  # killed between the two renames
            shutil.rmtree(folder, ignore_errors=True)
            os.close(lock)


def _publish_file(temporary: Path, target: Path, *, force: bool) -> None:
    """Give the finished file its name; without `force` never over a file that appeared in the meantime."""
    if force:
        temporary.replace(target)
        return
    try:
        os.link(temporary, target)
    except FileExistsError:
        check_replaceable(target, force=False)
        raise
    except OSError:
        # Some file systems (FAT, many network mounts) have no hard links: the small race remains there.
        check_replaceable(target, force=False)
        temporary.replace(target)


def _publish_directory(temporary: Path, target: Path) -> None:
    """Give the finished folder its name, with the old one moved aside until that has worked."""
    if not os.path.lexists(target):
        temporary.rename(target)
        return
    aside = Path(tempfile.mkdtemp(prefix=f".old-{target.name}-", dir=target.parent))
    lock = _lock(aside)
    old = aside / target.name
    try:
        target.rename(old)
        temporary.rename(target)
    except BaseException:
        if os.path.lexists(old) and not os.path.lexists(target):
            old.rename(target)
        raise
    finally:
        # With the target in place (the new one, or the old one moved back) what is aside is of no more use.
        if os.path.lexists(target):
            shutil.rmtree(aside, ignore_errors=True)
        if lock is not None:
            os.close(lock)


def _is_about_another_file(error: OSError, temporary: Path, target: Path) -> bool:
    """Whether the body failed on something it read, which `can't write TARGET` would misreport."""
    names = [
        Path(os.fsdecode(name)) for name in (error.filename, error.filename2) if isinstance(name, str | bytes)
    ]
    return bool(names) and not any(name.is_relative_to(temporary) or name == target for name in names)


def _sync(path: Path) -> None:
    """Flush a file to disk, so that a rename never exposes one that a power cut would leave empty."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _umask() -> int:
    """The process's umask. Python reads it by setting it, which other threads would see: ask Linux first."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("Umask:"):
                return int(line.split()[1], 8)
    mask = os.umask(0o022)
    os.umask(mask)
    return mask
