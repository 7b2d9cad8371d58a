"""What every dataset is: images in a fixed order, each with its truth, and the classes to look for."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from scclip_rt.evaluation.errors import DatasetError
from scclip_rt.evaluation.presets import Preset
from scclip_rt.vocabulary.classes import Classes

if TYPE_CHECKING:
    from scclip_rt.image.load import ImageSource


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One image with its truth.

    Attributes:
        name: unique in its dataset, without suffix.
        image: what a `Segmenter` takes: a path, or pixels.
        truth: reads the mask: (H, W) uint16 class indices, `IGNORED` where nothing counts. Raises
            `DatasetError`.
    """

    name: str
    image: ImageSource
    truth: Callable[[], NDArray[np.uint16]]

    @property
    def source(self) -> str:
        """What to call the image in a message: its file if it has one."""
        return self.name if isinstance(self.image, np.ndarray) else str(self.image)

    def truth_for(self, shape: tuple[int, ...]) -> NDArray[np.uint16]:
        """The truth of the image with these (height, width).

        Raises:
            DatasetError: unreadable, a label out of range, or another size than the image; names the files.
        """
        mask = self.truth()
        if mask.shape != shape:
            turned = " (after turning it as its EXIF data says)" if mask.shape == shape[::-1] else ""
            raise DatasetError(
                f"the mask of {self.source} is {mask.shape[1]}×{mask.shape[0]} and the image "
                f"{shape[1]}×{shape[0]}{turned}: a mask must have its image's size"
            )
        return mask


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset:
    """Images, truth and classes.

    Attributes:
        name: as on the command line, for example `voc21`.
        title: for reports.
        prompts: for each class the names it is looked for by.
        classes: what each class is called in reports.
        samples: in a fixed order; may render or read on access.
        preset: the settings that benchmarks are run with.
        background: the prompts name a class that takes what no other claims: the first synonym of it.
        skipped: files of the images' folder that are no images.
        identity: what distinguishes the samples, for resuming: their names' hash if None.
    """

    name: str
    title: str
    prompts: Classes
    classes: tuple[str, ...]
    samples: Sequence[Sample]
    preset: Preset = field(default_factory=Preset)
    background: str | None = None
    identity: str | None = None
    skipped: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not len(self.samples):
            raise DatasetError(f"{self.title} has no images")
        if len(self.prompts) != len(self.classes):
            raise DatasetError(f"{len(self.prompts)} classes to look for and {len(self.classes)} names")

    def __len__(self) -> int:
        return len(self.samples)

    @property
    def num_classes(self) -> int:
        """C."""
        return len(self.classes)

    @property
    def class_lines(self) -> list[str]:
        """The prompts as `Segmenter` takes them: a line per class, synonyms after commas."""
        return [", ".join(names) for names in self.prompts]

    def fingerprint(self) -> str:
        """SHA-256 over what makes another evaluation: the classes and the samples, in order."""
        names = self.identity or [sample.name for sample in self.samples]
        document = json.dumps([self.name, self.class_lines, names], ensure_ascii=False)
        return hashlib.sha256(document.encode()).hexdigest()
