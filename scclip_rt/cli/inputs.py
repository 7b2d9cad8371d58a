"""Which images a command line names, and what their outputs are called."""

import hashlib
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from scclip_rt.errors import ImageError
from scclip_rt.image.files import IMAGE_SUFFIXES, OUTPUT_SUFFIXES, images_below

STANDARD_INPUT = "-"
_MAX_NAME_BYTES = 255 - max(len(suffix) for suffix in OUTPUT_SUFFIXES)


@dataclass(frozen=True, slots=True, kw_only=True)
class InputImage:
    """An image, and its place below the folder that was named (its own name if it was named itself)."""

    path: Path
    relative: Path

    @property
    def is_standard_input(self) -> bool:
        """Whether it is read from standard input."""
        return str(self.path) == STANDARD_INPUT


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """The images of a command line, and the files in its folders that are none, with the reason."""

    images: list[InputImage]
    skipped: list[tuple[Path, str]] = field(default_factory=list)


def find_inputs(arguments: Iterable[str | Path]) -> Inputs:
    """The images that files and folders name: files as given, folders searched through and sorted.

    Folders give files with an image's suffix, linked folders included, without hidden ones and without this
    command's own outputs. A path that is named twice counts once. `-` is standard input.

    Raises:
        ImageError: a path that does not exist, or a folder without images.
    """
    found: dict[str, InputImage] = {}
    skipped: list[tuple[Path, str]] = []
    for argument in arguments:
        path = Path(argument)
        if str(path) == STANDARD_INPUT:
            found.setdefault(STANDARD_INPUT, InputImage(path=path, relative=Path("stdin")))
            continue
        if not os.path.lexists(path):
            raise ImageError(f"{path}: no such file or folder", field="image")
        inside = [path]
        if path.is_dir():
            below = images_below(path)
            inside, skipped = below.images, skipped + below.skipped
        if not inside:
            known = " ".join(sorted(IMAGE_SUFFIXES))
            raise ImageError(f"{path}: no images in this folder (looked for {known})", field="image")
        for file in inside:
            relative = file.relative_to(path) if file != path else Path(file.name)
            # Not resolve(): two links to one file are two names, and both get their outputs.
            key = os.path.abspath(file)  # noqa: PTH100
            found.setdefault(key, InputImage(path=file, relative=relative))
    return Inputs(images=list(found.values()), skipped=skipped)


def find_images(arguments: Iterable[str | Path]) -> list[InputImage]:
    """`find_inputs` without what was skipped."""
    return find_inputs(arguments).images


def output_names(images: Sequence[InputImage]) -> list[str]:
    """A name for each image's outputs, all different, and the same whenever the same images are given.

    Folders below the one that was named are kept: `sub/photo`. Where two images would share a name, both keep
    their suffix (`photo.jpg`, `photo.png`), else the folder that was named goes before it, else a number follows.
    A name that the file system would refuse as too long is cut, and ends in eight digits of its hash.

    Returns:
        Names relative to the output folder, with `/`, in the order of `images`.
    """
    forms = [_forms(image) for image in images]
    level = [0] * len(images)
    while True:
        names = [form[min(depth, len(form) - 1)] for form, depth in zip(forms, level, strict=True)]
        counts = Counter(names)
        clashing = [i for i, name in enumerate(names) if counts[name] > 1 and level[i] < len(forms[i]) - 1]
        if not clashing:
            return [_fitting(name) for name in _numbered(names)]
        for i in clashing:
            level[i] += 1


def _forms(image: InputImage) -> list[str]:
    relative = image.relative.as_posix()
    root = image.path.parents[len(image.relative.parts) - 1].name
    forms = [image.relative.with_suffix("").as_posix() if image.relative.suffix else relative, relative]
    return [*forms, f"{root}/{relative}"] if root not in ("", "..") else forms


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


def _fitting(name: str) -> str:
    folder, slash, last = name.rpartition("/")
    if len(os.fsencode(last)) <= _MAX_NAME_BYTES:
        return name
    digest = hashlib.sha256(os.fsencode(name)).hexdigest()[:8]
    kept = os.fsencode(last)[: _MAX_NAME_BYTES - 9].decode("utf-8", "ignore")
    return f"{folder}{slash}{kept}-{digest}"
