"""`scclip cache`: what is kept between runs, where, and how to be rid of it."""

import argparse
import contextlib
import errno
import os
import shutil
from pathlib import Path
from typing import Any

from scclip_rt.cli.options import add_output_options, check_json_target, tell
from scclip_rt.cli.parsers import Options, add_command
from scclip_rt.errors import OptionError, OutputError, printable
from scclip_rt.files import cache_directory

_MAY_BE_MISSING = frozenset({"embeddings", "tuned", "hashes.json"})
"""What every cache may have: to clear it where it is not there is no error."""
_TRIES = 5

_DESCRIPTION = """\
Show what is kept between runs, and how large it is: embeddings of class names, hashes of bundles'
files, engines that libraries built, and what `scclip tune` measured. Nothing in it is more than
time saved: what is cleared is made again when it is needed, and `scclip tune` when you run it.
"""

_EPILOG = """\
examples:
  scclip cache
  scclip cache --clear embeddings
  scclip cache --clear all
"""


def add_parser(subparsers: "argparse._SubParsersAction[Any]") -> None:
    """Register the command."""
    parser = add_command(
        subparsers, "cache", run, "show and clear what is kept between runs", _DESCRIPTION, _EPILOG
    )
    options = Options(parser)
    options.text("--clear", "NAME", "remove these entries; `all` removes every one", nargs="+")
    add_output_options(parser, force=True)


def run(args: argparse.Namespace) -> int:
    """Show the cache, or clear what is named."""
    check_json_target(args.json, force=args.force)
    root = cache_directory()
    if root is None:
        raise OutputError("there is no cache folder: this user has no home, and XDG_CACHE_HOME is not set")
    found = sorted(root.iterdir()) if root.is_dir() else []
    cleared = _chosen(found, args.clear) if args.clear else []
    entries = [_entry(path, cleared=path in cleared) for path in found]
    for path in cleared:
        _remove(path)
    lines = [printable(str(root))]
    for entry in entries:
        done = "  cleared" if entry["cleared"] else ""
        name = printable(entry["name"])
        lines.append(f"  {name:<16} {entry['files']:>7,} files {entry['bytes'] / 1e6:>9,.1f} MB{done}")
    document = {"schema": "scclip-cache/1", "path": str(root), "entries": entries}
    tell(document, "\n".join(lines if entries else [*lines, "  empty"]), args.json, force=args.force)
    return 0


def _chosen(found: list[Path], names: list[str]) -> list[Path]:
    known = {path.name: path for path in found}
    if "all" in names:
        return found
    missing = [name for name in names if name not in known | dict.fromkeys(_MAY_BE_MISSING)]
    if missing:
        raise OptionError(
            f"the cache has no {', '.join(missing)}; it has {', '.join(known) or 'nothing'} (or `all`)",
            field="clear",
        )
    return [known[name] for name in dict.fromkeys(names) if name in known]


def _entry(path: Path, *, cleared: bool) -> dict[str, Any]:
    sizes = []
    for file in _files(path):
        with contextlib.suppress(OSError):  # another process has removed it meanwhile
            sizes.append(file.lstat().st_size)
    return {"name": path.name, "files": len(sizes), "bytes": sum(sizes), "cleared": cleared}


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    return [Path(folder, name) for folder, _, names in os.walk(path) for name in names]


def _remove(path: Path) -> None:
    """Remove a file or a folder, whatever other processes put into it or take out of it meanwhile."""
    for attempt in range(_TRIES):
        try:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
            return
        except OSError as error:
            changed = error.errno in (errno.ENOENT, errno.ENOTEMPTY)
            if not changed or attempt == _TRIES - 1:
                raise OutputError(
                    f"can't clear {error.filename or path}: {error.strerror or error}"
                ) from error
