"""Label maps in the files that other tools read: `scclip segment --format`, and the same from Python.

One module a format, one table of them (`FORMATS`). `open_writer` writes a run of images into a folder, `encode` one
image into memory.
"""

from __future__ import annotations

import importlib
import io
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

from scclip_rt.errors import OptionError
from scclip_rt.formats.base import ClassTable, Folder, FormatWriter, ImageName, LabelFormat, Memory

if TYPE_CHECKING:
    from scclip_rt.segmentation import Segmentation

__all__ = [
    "FORMATS",
    "ClassTable",
    "EncodedLabels",
    "FormatWriter",
    "ImageName",
    "LabelFormat",
    "encode",
    "find_format",
    "open_writer",
]


class _Formats(Mapping[str, LabelFormat]):
    """Imports a format's module when it is asked for: all of them take as long as a small image."""

    _modules = (
        *("png", "coco", "coco_panoptic", "cvat", "labelstudio", "labelme", "fiftyone", "geojson"),
        *("yolo_seg", "npz"),
    )

    def __getitem__(self, name: str) -> LabelFormat:
        if name not in tuple(self):
            raise KeyError(name)
        module: Any = importlib.import_module(f"{__name__}.{name.replace('-', '_')}")
        found: LabelFormat = module.FORMAT
        return found

    def __iter__(self) -> Iterator[str]:
        return (module.replace("_", "-") for module in self._modules)

    def __len__(self) -> int:
        return len(self._modules)


FORMATS: Mapping[str, LabelFormat] = _Formats()
"""Every format by its name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedLabels:
    """One image's labels in a format.

    Attributes:
        data: the file.
        media_type: of it.
        suffix: for its name, with the dot.
    """

    data: bytes
    media_type: str
    suffix: str


def find_format(name: str) -> LabelFormat:
    """The format of that name.

    Raises:
        OptionError: there is none.
    """
    if (found := FORMATS.get(name)) is None:
        raise OptionError(f"unknown format {name!r}; known: {', '.join(FORMATS)}")
    return found


@contextmanager
def open_writer(
    name: str, directory: str | os.PathLike[str], table: ClassTable, *, force: bool = False
) -> Iterator[FormatWriter]:
    """Write many images in one format; files that hold all of them appear when the body ends without an error.

    Args:
        name: of the format.
        directory: made if it doesn't exist.
        table: the classes of all images.
        force: replace existing files.

    Raises:
        OptionError: no such format.
        OutputError: a file exists and `force` is not given, or can't be written.

    Example:
        >>> table = ClassTable(names=segment.vocabulary.classes, background=segment.vocabulary.background)
        >>> with open_writer("coco", "out", table) as writer:
        ...     for result in segment.stream(paths):
        ...         path = Path(result.name)
        ...         writer.add(result, ImageName(stem=path.stem, file=path.name))
    """
    writer = find_format(name).writer(Folder(Path(directory), force), table)
    yield writer
    writer.finish()


def encode(name: str, result: Segmentation, *, file_name: str) -> EncodedLabels:
    """One image's labels as one file: the format's own, or a ZIP archive where it takes several.

    Args:
        name: of the format.
        result: of the image.
        file_name: how the tool is to find the image: its path, `/` between folders.

    Raises:
        OptionError: no such format.
    """
    kind, memory = find_format(name), Memory()
    writer = kind.writer(memory, ClassTable(names=result.classes, background=result.background))
    writer.add(result, ImageName(stem=PurePath(file_name).stem, file=file_name))
    writer.finish()
    files = list(memory.files.items())
    data = files[0][1] if kind.media_type != "application/zip" else _zipped(files)
    return EncodedLabels(data=data, media_type=kind.media_type, suffix=kind.suffix)


def _zipped(files: list[tuple[str, bytes]]) -> bytes:
    import zipfile  # for formats of several files, asked for one image

    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files:
            archive.writestr(name, data)
    return out.getvalue()
