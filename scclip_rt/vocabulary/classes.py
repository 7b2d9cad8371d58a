"""Class lists: from a file, a string or a list to names with synonyms."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypeAlias

from scclip_rt.errors import VocabularyError

Classes: TypeAlias = tuple[tuple[str, ...], ...]
"""For each class its names; the first one is the class's."""
ClassSource: TypeAlias = "str | os.PathLike[str] | Sequence[str | Sequence[str]]"

_FILE_SUFFIXES = (".txt", ".csv", ".names", ".list")


def parse_classes(source: ClassSource) -> Classes:
    """Read a class list.

    Args:
        source: a file with a line per class and synonyms after commas (blank lines and lines that start with `#`
            are skipped); or a string such as `cat; dog, puppy`; or a list of such lines or of lists of names.

    Raises:
        VocabularyError: empty, an empty name, or a name that two classes claim.
    """
    entries: Iterator[tuple[str, str | Sequence[str]]]
    if isinstance(source, os.PathLike):
        entries = _from_file(Path(source))
    elif isinstance(source, str):
        entries = _from_file(Path(source)) if _is_file(source) else _from_string(source)
    else:
        entries = iter([(f"class {number}", entry) for number, entry in enumerate(source, 1)])
    classes: list[tuple[str, ...]] = []
    owners: dict[str, tuple[int, str]] = {}
    for place, entry in entries:
        names = _names(entry, place)
        for name in names:
            index, where = owners.setdefault(_key(name), (len(classes), place))
            if index != len(classes):
                raise VocabularyError(
                    f"{shorten(name)!r} is in two classes: {where} and {place}. Remove it from one of them"
                )
        unique: dict[str, str] = {}
        for name in names:
            unique.setdefault(_key(name), name)
        classes.append(tuple(unique.values()))
    if not classes:
        raise VocabularyError(
            f"no classes in {_describe(source)}; give a line per class, synonyms after commas"
        )
    return tuple(classes)


def find_background(classes: Sequence[str], background: str | None = None) -> int | None:
    """Which class is the background.

    Args:
        classes: first names.
        background: a class's first name; `none` for no background; None for the class called "background", if any.

    Returns:
        Its index, or None.

    Raises:
        VocabularyError: no class has that name.
    """
    keys = [_key(name) for name in classes]
    wanted = "background" if background is None else _key(background)
    if wanted in keys:
        return keys.index(wanted)
    if background is None or wanted == "none":
        return None
    close = difflib.get_close_matches(wanted, keys, n=3)
    hint = f"; did you mean {', '.join(repr(shorten(name)) for name in close)}" if close else ""
    raise VocabularyError(
        f"no class is called {shorten(background)!r}{hint}. Give a class's first name, or none for no background",
        field="background",
    )


def shorten(name: str, length: int = 40) -> str:
    """A name that fits a message or a legend."""
    return name if len(name) <= length else name[: length - 1].rstrip() + "…"


def _key(name: str) -> str:
    """Names that CLIP can't tell apart have one key: it lowers case and collapses white space."""
    return " ".join(name.split()).lower()


def _names(entry: str | Sequence[str], place: str) -> list[str]:
    parts = entry.split(",") if isinstance(entry, str) else entry
    if any(not isinstance(part, str) for part in parts):
        raise VocabularyError(f"{place}: class names must be strings; got {parts!r}")
    names = [part.strip() for part in parts]
    if isinstance(entry, str) and len(names) > 1 and not names[-1]:
        names.pop()  # a trailing comma
    if not names or not all(names):
        raise VocabularyError(f"{place} has an empty name: {shorten(str(entry))!r}")
    return names


def _is_file(source: str) -> bool:
    if ";" in source or "\n" in source or len(source) > 4096:
        return False
    if Path(source).is_file():
        return True
    # A path that doesn't exist must not turn into a class of that name.
    return source.strip().lower().endswith(_FILE_SUFFIXES) or os.sep in source


def _from_file(path: Path) -> Iterator[tuple[str, str | Sequence[str]]]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise VocabularyError(f"the class list {path} is not UTF-8 text: {error.reason}") from error
    except OSError as error:
        raise VocabularyError(
            f"can't read the class list {path}: {error.strerror or error}. Give a text file with a line per class, "
            "or the classes themselves: 'cat; dog, puppy'"
        ) from error
    for number, line in enumerate(text.splitlines(), 1):
        stripped = line.strip()
        if stripped and not stripped.startswith("#"):
            yield f"line {number} of {path}", stripped


def _from_string(text: str) -> Iterator[tuple[str, str | Sequence[str]]]:
    parts = (part.strip() for part in text.replace("\n", ";").split(";"))
    for number, part in enumerate((part for part in parts if part), 1):
        yield f"class {number}", part


def _describe(source: ClassSource) -> str:
    if isinstance(source, os.PathLike):
        return f"the class list {source}"
    if isinstance(source, str):
        return f"the class list {source}" if _is_file(source) else f"{shorten(source)!r}"
    return "the list of classes"
