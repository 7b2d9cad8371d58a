"""Class lists: from a file, a string or a list to names with synonyms."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypeAlias

from scclip_rt.errors import VocabularyError, did_you_mean, printable
from scclip_rt.vocabulary.tokenizer import clean

Classes: TypeAlias = tuple[tuple[str, ...], ...]
"""For each class its names; the first one is the class's."""
ClassSource: TypeAlias = "str | os.PathLike[str] | Sequence[str | Sequence[str]]"

EMPTY_TEXT = ("",)
"""CLIP Surgery's background of a single class, which is made without being named."""
MAX_NAME = 1000
"""Characters of a name: CLIP reads 77 tokens, so whatever is longer is no name."""
_MAX_FILE_BYTES = 64 << 20
_FILE_SUFFIXES = (".txt", ".csv", ".names", ".list")
_FILE_BEGINNINGS = ("/", "./", "../", "~/")


def parse_classes(source: ClassSource) -> Classes:
    """Read a class list.

    Spellings that CLIP can't tell apart are one name: case, white space, HTML entities, composed and decomposed
    accents.

    Args:
        source: a `Path` of a file with a line per class and synonyms after commas (blank lines and lines that start
            with `#` are skipped; `.csv` files are read as such, a row per class); or a string such as
            `cat; dog, puppy`, which is never taken for a file; or a list of such lines or of lists of names.

    Raises:
        VocabularyError: empty, an empty name, a name that two classes claim, or a string that looks like a file.
    """
    classes: list[tuple[str, ...]] = []
    owners: dict[str, tuple[int, str]] = {}
    for place, entry in _entries(source):
        unique: dict[str, str] = {}
        for name in _names(entry, place):
            unique.setdefault(name_key(name), name)
        for key, name in unique.items():
            index, where = owners.setdefault(key, (len(classes), place))
            if index != len(classes):
                raise VocabularyError(
                    f"{shorten(name)!r} is in two classes: {where} and {place}. Remove it from one of them",
                    field="classes",
                )
        classes.append(tuple(unique.values()))
    if not classes:
        raise VocabularyError(
            f"no classes in {_describe(source)}; give a line per class, synonyms after commas",
            field="classes",
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
    keys = [name_key(name) for name in classes]
    wanted = "background" if background is None else name_key(background)
    if wanted in keys:
        return keys.index(wanted)
    if background is None or wanted == "none":
        return None
    raise VocabularyError(
        f"no class is called {shorten(background)!r}{did_you_mean(wanted, [shorten(key) for key in keys])}. Give a "
        "class's first name, or none for no background",
        field="background",
    )


def only_class(names: Sequence[str], what: str | None = None) -> str:
    """The warning for a list of one class: every pixel gets it, whatever the image shows.

    Args:
        names: of the class, the first one and its synonyms.
        what: becomes of pixels, where it is not that.
    """
    if len(names) > 1:
        several = "; ".join(shorten(name) for name in names[:4])
        more = "; …" if len(names) > 4 else ""
        synonyms = "1 synonym" if len(names) == 2 else f"{len(names) - 1} synonyms"
        return (
            f"one class, {shorten(names[0])!r}, with {synonyms}: commas separate synonyms, semicolons "
            f"separate classes. {what or f'Every pixel will be {shorten(names[0])!r}'}; for {len(names)} classes write "
            f'"{several}{more}"'
        )
    return (
        f"one class, {shorten(names[0])!r}, and no background: every pixel will be {shorten(names[0])!r}. Name what "
        f'else there is: "{shorten(names[0])}; background"'
    )


def shorten(name: str, length: int = 40) -> str:
    """A name that fits a message or a legend, without control characters."""
    short = name if len(name) <= length else name[: length - 1].rstrip() + "…"
    return printable(short)


def name_key(name: str) -> str:
    """Names that CLIP can't tell apart have one key: what its tokenizer makes of them before it cuts them up."""
    if name.isascii() and name.isprintable() and "&" not in name:
        return " ".join(name.split()).lower()  # the same, without loading what repairs text
    return clean(name)


def _entries(source: ClassSource) -> Iterator[tuple[str, str | Sequence[str]]]:
    if isinstance(source, os.PathLike):
        yield from _from_file(Path(source))
    elif isinstance(source, str):
        yield from _from_string(source)
    elif isinstance(source, bytes | bytearray) or not isinstance(source, Iterable):
        raise VocabularyError(f"classes must be names or a path; got {source!r}", field="classes")
    else:
        for number, entry in enumerate(source, 1):
            yield f"class {number}", entry


def _names(entry: str | Sequence[str], place: str) -> list[str]:
    if isinstance(entry, str):
        parts = _unescaped(entry).split(",")
    else:
        parts = [*entry] if isinstance(entry, Iterable) else [entry]
    if any(not isinstance(part, str) for part in parts):
        raise VocabularyError(f"{place}: class names must be strings; got {parts!r}", field="classes")
    names = [part.strip() for part in parts]
    if isinstance(entry, str) and len(names) > 1 and not names[-1]:
        names.pop()  # a trailing comma
    if not names or not all(names):
        raise VocabularyError(f"{place} has an empty name: {shorten(str(entry))!r}", field="classes")
    for name in names:
        if len(name) > MAX_NAME:
            raise VocabularyError(
                f"{place}: the class name {shorten(name)!r} is too long: {len(name):,} characters, the limit is "
                f"{MAX_NAME:,}",
                field="classes",
            )
    return names


def _unescaped(text: str) -> str:
    """HTML entities resolved as CLIP's tokenizer does, twice: before the text is split, as they end in semicolons."""
    if "&" not in text:
        return text
    import html

    return html.unescape(html.unescape(text))


def _from_file(path: Path) -> Iterator[tuple[str, str | Sequence[str]]]:
    text = _read(path)
    if path.suffix.lower() == ".csv":
        yield from _from_csv(text, path)
        return
    # Not splitlines(): that also splits at U+0085 and U+2028, which are white space within a name.
    for number, line in enumerate(text.split("\n"), 1):
        stripped = line.strip()
        if stripped and not stripped.startswith("#"):
            for part in _parts(stripped):
                yield f"line {number} of {path}", part


def _read(path: Path) -> str:
    try:
        with path.open("rb") as stream:
            data = stream.read(_MAX_FILE_BYTES + 1)
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise VocabularyError(
            f"the class list {path} is not UTF-8 text: {error.reason}", field="classes"
        ) from error
    except (OSError, ValueError) as error:
        raise VocabularyError(
            f"can't read the class list {path}: {getattr(error, 'strerror', None) or error}. Give a text file with a "
            "line per class, or the classes themselves: 'cat; dog, puppy'",
            field="classes",
        ) from error
    if len(data) > _MAX_FILE_BYTES:
        raise VocabularyError(
            f"the class list {path} is larger than {_MAX_FILE_BYTES >> 20} MiB: not a class list",
            field="classes",
        )
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _from_csv(text: str, path: Path) -> Iterator[tuple[str, str | Sequence[str]]]:
    """A row per class, a cell per name; a quoted cell may hold several, separated by commas."""
    import csv

    rows = csv.reader(text.split("\n"), strict=True, skipinitialspace=True)
    try:
        found = [
            (f"row {rows.line_num} of {path}", ", ".join(cell for cell in row if cell.strip()))
            for row in rows
            if any(cell.strip() for cell in row) and not row[0].lstrip().startswith("#")
        ]
    except csv.Error as error:
        raise VocabularyError(f"row {rows.line_num} of {path}: not CSV: {error}", field="classes") from error
    if len(found) > 1 and all("," in cells and cells.split(",")[0].strip().isdigit() for _, cells in found):
        raise VocabularyError(
            f"{path}: its first column holds numbers. Keep the names alone, a row per class",
            field="classes",
        )
    for place, cells in found:
        for part in _parts(cells):
            yield place, part


def _from_string(text: str) -> Iterator[tuple[str, str | Sequence[str]]]:
    stripped = text.strip()
    if (
        ";" not in text
        and "\n" not in text
        and (stripped.lower().endswith(_FILE_SUFFIXES) or stripped.startswith(_FILE_BEGINNINGS))
    ):
        raise VocabularyError(
            f"the classes {shorten(stripped)!r} look like a file, and a string is always names: pass a Path, or "
            "classes_file= (--classes-file)",
            field="classes",
        )
    number = 0
    for line in text.split("\n"):
        for part in _parts(line):
            number += 1
            yield f"class {number}", part


def _parts(line: str) -> list[str]:
    """The classes on a line: semicolons separate them, in files as on the command line."""
    return [part.strip() for part in _unescaped(line).split(";") if part.strip()]


def _describe(source: ClassSource) -> str:
    if isinstance(source, os.PathLike):
        return f"the class list {source}"
    return f"{shorten(source)!r}" if isinstance(source, str) else "the list of classes"
