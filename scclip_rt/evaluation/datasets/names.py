"""Lists of images: text with a name per line, or JSON."""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

from scclip_rt.evaluation.errors import DatasetError


def read_names(path: Path, suffixes: Collection[str] = ()) -> list[str]:
    """The names in a list.

    Args:
        path: text with a name per line, or `.json`: a list of names, or COCO's form,
            `{"images": [{"file_name": …}, …]}`.
        suffixes: endings to remove where a name has one.

    Returns:
        Names in the list's order.

    Raises:
        DatasetError: missing, empty, of another form, a name twice, or one that leaves the folder.
    """
    try:
        text = path.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8 text"
        raise DatasetError(f"{path}: can't read this list of images: {reason}") from error
    raw = _from_json(text, path) if path.suffix.lower() == ".json" else _from_lines(text)
    names = [_without(name, suffixes) for name in raw]
    if not names:
        raise DatasetError(f"{path}: this list has no images")
    seen: set[str] = set()
    for name in names:
        if name.startswith("/") or ".." in name.split("/"):
            raise DatasetError(f"{path}: {name!r} leads out of the dataset's folder")
        if name in seen:
            raise DatasetError(f"{path}: {name!r} is in this list twice")
        seen.add(name)
    return names


def _from_lines(text: str) -> list[str]:
    return [line.strip() for line in text.split("\n") if line.strip()]


def _from_json(text: str, path: Path) -> list[str]:
    try:
        document: Any = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DatasetError(f"{path}: not JSON ({error})") from error
    if isinstance(document, dict) and isinstance(document.get("images"), list):
        document = [
            entry.get("file_name") if isinstance(entry, dict) else None for entry in document["images"]
        ]
    if not isinstance(document, list) or not all(isinstance(name, str) and name for name in document):
        raise DatasetError(
            f'{path}: a JSON list of images is ["name", …] or {{"images": [{{"file_name": "name.jpg"}}, …]}}'
        )
    return document


def _without(name: str, suffixes: Collection[str]) -> str:
    for suffix in sorted(suffixes, key=len, reverse=True):
        if name.lower().endswith(suffix.lower()) and len(name) > len(suffix):
            return name[: -len(suffix)]
    return name
