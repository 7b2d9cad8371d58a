"""Where a benchmark's files are: the folders that mmsegmentation documents, from any sensible level."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from scclip_rt.evaluation.datasets.base import Sample
from scclip_rt.evaluation.datasets.masks import MaskRule
from scclip_rt.evaluation.datasets.names import read_names
from scclip_rt.evaluation.errors import DatasetError


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """A dataset's folders and file names.

    An image is `images/NAME + image_suffix`, its mask `masks/NAME + mask_suffix`; a NAME may contain folders.

    Attributes:
        title: the dataset's own name.
        folders: where it may lie below the root that the user gives, the likeliest first.
        images: folder of the images.
        masks: folder of the masks.
        image_suffix: what follows an image's name.
        mask_suffix: what follows a mask's.
        split: text file with the names to use; None takes every image.
        hint: how to make what is missing.
    """

    title: str
    folders: tuple[str, ...]
    images: str
    masks: str
    image_suffix: str = ".jpg"
    mask_suffix: str = ".png"
    split: str | None = None
    hint: str = "docs/evaluation.md shows the layout"

    def find(self, root: Path) -> Path:
        """The folder that `images` and `masks` are in.

        Raises:
            DatasetError: there is none below `root`; names what is missing.
        """
        if not root.is_dir():
            reason = "is a file" if root.exists() else "no such folder"
            raise DatasetError(f"{root}: {reason}; --root names the folder with {self.title} in it")
        bases = [root / folder for folder in self.folders]
        missing = {base: self._missing(base) for base in bases}
        best = min(bases, key=lambda base: len(missing[base]))
        if missing[best]:
            places = ", ".join(str(base) for base in bases)
            raise DatasetError(
                f"no {self.title} in {root}: {best / missing[best][0]} is missing (looked in {places}); {self.hint}"
            )
        return best

    def samples(self, root: Path, rule: MaskRule, names: Path | None = None) -> list[Sample]:
        """All samples, in the order of the list or sorted.

        Args:
            root: any level that `folders` knows.
            rule: what the masks' values mean.
            names: a list of names to use instead of `split`.

        Raises:
            DatasetError: a folder, the list, an image or a mask is missing; names it.
        """
        base = self.find(root)
        chosen = self._names(base, names)
        paths = [
            (
                base / self.images / f"{name}{self.image_suffix}",
                base / self.masks / f"{name}{self.mask_suffix}",
            )
            for name in chosen
        ]
        check_files([image for image, _ in paths], "image", self.title, "")
        check_files([mask for _, mask in paths], "mask", self.title, self.hint)
        return [
            Sample(name=name, image=image, truth=functools.partial(rule.read, mask))
            for name, (image, mask) in zip(chosen, paths, strict=True)
        ]

    def _missing(self, base: Path) -> list[str]:
        parts = [self.images, self.masks, *([self.split] if self.split else [])]
        return [part for part in parts if not (base / part).exists()]

    def _names(self, base: Path, names: Path | None) -> list[str]:
        if names is not None:
            return read_names(names, (self.image_suffix, self.mask_suffix))
        if self.split is not None:
            return read_names(base / self.split, (self.image_suffix,))
        folder = base / self.images
        found = sorted(_walk(folder, self.image_suffix))
        if not found:
            raise DatasetError(f"{folder}: no images of {self.title} (looked for *{self.image_suffix})")
        return [path.relative_to(folder).as_posix().removesuffix(self.image_suffix) for path in found]


def check_files(paths: Sequence[Path], what: str, title: str, hint: str) -> None:
    """Refuse a dataset with holes before any work.

    Raises:
        DatasetError: the first file that is missing, and how many are.
    """
    missing = [path for path in paths if not path.is_file()]
    if missing:
        more = f" and {len(missing) - 1:,} more" if len(missing) > 1 else ""
        tail = f"; {hint}" if hint else ""
        raise DatasetError(f"{missing[0]}{more}: no such {what} of {title}{tail}")


def _walk(folder: Path, suffix: str) -> Iterator[Path]:
    """Files that end in `suffix`, in the folder and those right below it (Cityscapes has one per city)."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                with os.scandir(entry.path) as inner:
                    yield from (Path(file.path) for file in inner if _is_image(file, suffix))
            elif _is_image(entry, suffix):
                yield Path(entry.path)


def _is_image(entry: os.DirEntry[str], suffix: str) -> bool:
    return entry.name.endswith(suffix) and not entry.name.startswith(".") and entry.is_file()
