"""Which images a command line names, and what their outputs are called."""

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from scclip_rt.errors import ImageError
from scclip_rt.image.load import IMAGE_SUFFIXES

OUTPUT_SUFFIXES = (".labels.png", ".overlay.png", ".confidence.png")


@dataclass(frozen=True, slots=True, kw_only=True)
class InputImage:
    """An image, and its place below the folder that was named (its own name if it was named itself)."""

    path: Path
    relative: Path


def find_images(arguments: Iterable[str | Path]) -> list[InputImage]:
    """The images that files and folders name: files as given, folders searched through and sorted.

    Folders give files with an image's suffix, without hidden ones and without this command's own outputs. A
    path that is named twice counts once.

    Raises:
        ImageError: a path that does not exist, or a folder without images.
    """
    found: dict[str, InputImage] = {}
    for argument in arguments:
        path = Path(argument)
        if not os.path.lexists(path):
            raise ImageError(f"{path}: no such file or folder")
        inside = sorted(_walk(path)) if path.is_dir() else [path]
        if not inside:
            known = " ".join(sorted(IMAGE_SUFFIXES))
            raise ImageError(f"{path}: no images in this folder (looked for {known})")
        for file in inside:
            relative = file.relative_to(path) if file != path else Path(file.name)
            # Not resolve(): two links to one file are two names, and both get their outputs.
            key = os.path.abspath(file)  # noqa: PTH100
            found.setdefault(key, InputImage(path=file, relative=relative))
    return list(found.values())


def _walk(folder: Path) -> Iterator[Path]:
    for entry in folder.iterdir():
        if entry.name.startswith("."):
            continue
        if entry.is_dir() and not entry.is_symlink():  # a link may lead back up
            yield from _walk(entry)
        elif entry.suffix.lower() in IMAGE_SUFFIXES and not entry.name.endswith(OUTPUT_SUFFIXES):
            yield entry


def output_names(images: Sequence[InputImage]) -> list[str]:
    """A name for each image's outputs, all different, and the same whenever the same images are given.

    The stem if no other image has it; else the name with its suffix; else the folders below the one that was
    named, joined by `_`; else a number.

    Returns:
        Names without folders, in the order of `images`.
    """
    forms = [_forms(image) for image in images]
    level = [0] * len(images)
    while True:
        names = [form[min(depth, len(form) - 1)] for form, depth in zip(forms, level, strict=True)]
        counts = Counter(names)
        clashing = [i for i, name in enumerate(names) if counts[name] > 1 and level[i] < len(forms[i]) - 1]
        if not clashing:
            return _numbered(names)
        for i in clashing:
            level[i] += 1


def _forms(image: InputImage) -> list[str]:
    joined = "_".join(image.relative.parts)
    forms = [image.path.stem, image.path.name]
    return forms if joined == image.path.name else [*forms, joined]


def _numbered(names: list[str]) -> list[str]:
    taken = set(names)
    seen: set[str] = set()
    result = []
    for name in names:
        number, unique = 2, name
        while unique in seen or (unique != name and unique in taken):
            unique = f"{name}-{number}"
            number += 1
        seen.add(unique)
        result.append(unique)
    return result
