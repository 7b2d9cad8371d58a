"""From what the user names to shards: folders, globs, lists, Parquet files, WebDataset tars, Lance datasets."""

from __future__ import annotations

import glob
import importlib.util
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from scclip_rt.batch.errors import BatchError
from scclip_rt.batch.image_files import plan_files
from scclip_rt.batch.item import InputOptions, Shard
from scclip_rt.errors import OptionError, install
from scclip_rt.image.files import IMAGE_SUFFIXES, images_below
from scclip_rt.limits import in_range

_CONTAINERS = {".parquet": "Parquet files", ".tar": "WebDataset tars", ".lance": "Lance datasets"}
_COMPRESSED_TARS = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")
_IMAGES = "images"


def plan_shards(inputs: Sequence[str | os.PathLike[str]], options: InputOptions) -> list[Shard]:
    """Find every image of the input and divide it into shards. No image is opened.

    Args:
        inputs: folders (searched through), files, globs, and lists of image files (`.txt`, a path a line, relative to
            the list's folder); image files, or containers of one kind: `.parquet`, `.tar`, `.lance`.
        options: how containers are read.

    Returns:
        The shards, in an order that is the same whenever the same input is given.

    Raises:
        BatchError: nothing there, containers that can't be read, or kinds that are mixed.
        OptionError: an option that this kind of input doesn't have.
    """
    in_range("shard_size", options.shard_size)
    # Absolute: workers on other machines start in other folders.
    found = list(
        dict.fromkeys(path.absolute() for argument in inputs for path in _expand(os.fspath(argument)))
    )
    kinds = {_CONTAINERS.get(path.suffix.lower(), _IMAGES) for path in found}
    if len(kinds) > 1:
        raise BatchError(f"the input mixes {' and '.join(sorted(kinds))}; run them one after the other")
    kind = kinds.pop()
    _check_options(kind, options)
    shards = _plan(kind, found, options, _named_folder(inputs))
    if not shards:
        raise BatchError(f"there are no images in {', '.join(map(str, inputs))}")
    return shards


def _plan(kind: str, paths: list[Path], options: InputOptions, root: Path | None) -> list[Shard]:
    if kind == _IMAGES:
        return [*plan_files(paths, options, root=root)]
    if kind == "WebDataset tars":
        from scclip_rt.batch.webdataset import plan_tars

        return [*plan_tars(paths, options)]
    _need("pyarrow", kind)
    if kind == "Lance datasets":
        from scclip_rt.batch.lance_rows import plan_lance

        return [*plan_lance(paths, options)]
    from scclip_rt.batch.parquet import plan_parquet

    return [*plan_parquet(paths, options)]


def _check_options(kind: str, options: InputOptions) -> None:
    if options.column is not None and kind == _IMAGES:
        raise OptionError(
            "--column (column=) is for Parquet, Lance and WebDataset input; this input is image files"
        )
    if options.key is not None and kind in (_IMAGES, "WebDataset tars"):
        raise OptionError(f"--key (key=) is for Parquet and Lance input; {kind} are named by their files")


def _need(module: str, what: str) -> None:
    if importlib.util.find_spec(module) is None:
        raise BatchError(f"{what} need {module}, which is not installed: {install('batch')}")


def _expand(argument: str) -> Iterator[Path]:
    """The image files and containers that one argument names."""
    path = Path(argument)
    if not os.path.lexists(path):
        yield from _matches(argument)
    elif argument.lower().endswith(_COMPRESSED_TARS):
        raise BatchError(
            f"{argument} is compressed: unpack it to a .tar; its samples can't be reached singly"
        )
    elif path.suffix.lower() == ".txt":
        yield from _listed(path)
    elif path.is_dir() and path.suffix.lower() not in _CONTAINERS:
        yield from _inside(path)
    else:
        yield path


def _matches(pattern: str) -> Iterator[Path]:
    """The image files and containers that a glob matches, sorted."""
    if not glob.has_magic(pattern):
        raise BatchError(f"{pattern}: no such file or folder")
    paths = map(Path, sorted(glob.glob(pattern, recursive=True)))  # noqa: PTH207 (absolute patterns, too)
    found = [path for path in paths if path.is_file() or path.suffix.lower() in _CONTAINERS]
    if not found:
        raise BatchError(f"{pattern}: no file fits this pattern")
    yield from found


def _listed(path: Path) -> Iterator[Path]:
    """The files that a list names, relative to its folder."""
    try:
        lines = path.read_text("utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise BatchError(f"{path} is not a list of files: it is no UTF-8 text") from error
    names = [line.strip() for line in lines if line.strip()]
    if not names:
        raise BatchError(f"the list {path} names no files")
    yield from (path.parent / name for name in names)


def _inside(folder: Path) -> Iterator[Path]:
    """Containers and images of a folder and those below it, sorted; nothing hidden, and no outputs of ours."""
    found = images_below(folder)
    containers = {_container(folder, path) for path, _ in found.skipped} - {None}
    paths = sorted([*found.images, *(path for path in containers if path is not None)])
    if not paths:
        known = " ".join(sorted(IMAGE_SUFFIXES | set(_CONTAINERS)))
        raise BatchError(f"{folder}: no images in this folder (looked for {known})")
    yield from paths


def _container(folder: Path, path: Path) -> Path | None:
    """The container that a file below a folder is or, for a Lance dataset, lies in."""
    inner = folder
    for part in path.relative_to(folder).parts:
        inner /= part
        if inner.suffix.lower() in _CONTAINERS:
            return inner
    return None


def _named_folder(inputs: Sequence[str | os.PathLike[str]]) -> Path | None:
    """The folder that was named, if it was one and nothing else: keys are paths below it."""
    return Path(inputs[0]) if len(inputs) == 1 and Path(inputs[0]).is_dir() else None
