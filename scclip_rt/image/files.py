"""What counts as an image or a video: one list of formats and suffixes, and folders searched by it."""

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "DIB", "TIFF", "AVIF", "JPEG2000", "PPM")
"""Pillow's decoders that may open a file. Its others are rarely needed, and one of them starts a program."""
FORMAT_NAMES = "JPEG, PNG, WebP, GIF, BMP, TIFF, AVIF, JPEG 2000 and PNM"
IMAGE_SUFFIXES = frozenset(
    {
        *(".jpg", ".jpeg", ".jpe", ".jfif", ".jif", ".mpo"),
        *(".png", ".apng", ".webp", ".gif", ".bmp", ".dib", ".tif", ".tiff", ".avif"),
        *(".jp2", ".j2k", ".j2c", ".jpc", ".jpx", ".jpf", ".pgm", ".ppm", ".pnm", ".pbm"),
    }
)
"""What files in a folder must end in to count as images, in lower case: those of `FORMATS`."""
VIDEO_SUFFIXES = frozenset({".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpg", ".mpeg", ".ts", ".webm", ".wmv"})
"""What files must end in to be taken for videos, in lower case."""
MASK_SUFFIXES = (".png", ".tif", ".tiff", ".bmp", ".gif", ".pgm")
"""What masks end in, in lower case, the likeliest first: formats that keep every value."""
OUTPUT_SUFFIXES = (".labels.png", ".overlay.png", ".confidence.png")
"""Files that `scclip segment` writes; a folder that holds them is not segmented again."""
_SYSTEM_FILES = frozenset({"thumbs.db", "desktop.ini", "__macosx"})


def is_hidden(name: str) -> bool:
    """Whether a name in a folder is passed over without a word: `.DS_Store`, `._photo.jpg`, `Thumbs.db`."""
    return name.startswith(".") or name.lower() in _SYSTEM_FILES


@dataclass(slots=True, kw_only=True)
class FolderImages:
    """The images below a folder, sorted, and what else is there.

    Attributes:
        images: in the order of their paths.
        skipped: files that are no images by their suffix, and what could not be read, each with the reason.
    """

    images: list[Path] = field(default_factory=list)
    skipped: list[tuple[Path, str]] = field(default_factory=list)


def images_below(folder: Path) -> FolderImages:
    """Search a folder and all below it, linked folders too (each folder once, so that a loop ends).

    Hidden files and folders are passed over, and so are outputs of `scclip segment`.
    """
    found = FolderImages()
    seen: set[tuple[int, int]] = set()
    stack = [folder]
    while stack:  # not recursive: folders may be nested deeper than Python's stack
        current = stack.pop()
        try:
            status = current.stat()
            entries = sorted(os.scandir(current), key=lambda entry: entry.name)
        except OSError as error:
            found.skipped.append((current, error.strerror or str(error)))
            continue
        if (status.st_dev, status.st_ino) in seen:
            found.skipped.append((current, "a link to a folder that is searched already"))
            continue
        seen.add((status.st_dev, status.st_ino))
        stack += [current / entry.name for entry in reversed(entries) if _is_folder(entry)]
        for path, reason in _files(current, entries):
            if reason is None:
                found.images.append(path)
            else:
                found.skipped.append((path, reason))
    found.images.sort()
    found.skipped.sort()
    return found


def _is_folder(entry: "os.DirEntry[str]") -> bool:
    try:
        return not is_hidden(entry.name) and entry.is_dir()
    except OSError:
        return False


def _files(folder: Path, entries: "list[os.DirEntry[str]]") -> Iterator[tuple[Path, str | None]]:
    for entry in entries:
        if is_hidden(entry.name) or entry.name.endswith(OUTPUT_SUFFIXES) or _is_folder(entry):
            continue
        image = os.path.splitext(entry.name)[1].lower() in IMAGE_SUFFIXES  # noqa: PTH122 (100 times as fast)
        yield folder / entry.name, None if image else "not an image by its suffix"


def skipped_words(count: int) -> str:
    """`skipped 3 files that are no images`, or nothing for none."""
    return (
        f"skipped {count:,} file{'s' if count != 1 else ''} that {'are' if count != 1 else 'is'} no image"
        + ("s" if count != 1 else "")
    )
