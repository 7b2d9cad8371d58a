"""Reading ground truth: label images of every kind to class indices."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from scclip_rt.errors import ImageError, OptionError
from scclip_rt.evaluation.errors import DatasetError
from scclip_rt.evaluation.metrics import IGNORE
from scclip_rt.image.geometry import check_pixels
from scclip_rt.image.load import open_pillow

if TYPE_CHECKING:
    from PIL import ImageFile

IGNORED = 65535
"""What `MaskRule.read` gives for pixels that do not count."""

_LABEL_MODES = ("1", "L", "P", "I;16", "I;16B", "I")


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskRule:
    """What the values of a dataset's masks mean.

    Attributes:
        num_classes: C.
        ignore: the value that does not count; None: all do.
        reduce_zero_label: the file's 0 does not count and its 1 is class 0, as mmsegmentation's
            `reduce_zero_label`.
        values: the file's value of each class, in turn; None: 0, 1, 2, …. Raises `OptionError` unless each has one.
    """

    num_classes: int
    ignore: int | None = IGNORE
    reduce_zero_label: bool = False
    values: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        values = self.values
        if values is None:
            return
        if self.reduce_zero_label:
            raise OptionError("--mask-values say what each value means: leave out --reduce-zero-label")
        if len(values) != self.num_classes or len(set(values)) != len(values):
            raise OptionError(
                f"--mask-values must name a different value for each of the {self.num_classes} classes; got "
                f"{', '.join(map(str, values))}",
                field="mask_values",
            )
        if any(not 0 <= value <= 65535 for value in values) or self.ignore in values:
            raise OptionError(
                f"--mask-values must be from 0 to 65535 and not the ignored label {self.ignore}; got "
                f"{', '.join(map(str, values))}",
                field="mask_values",
            )

    def read(self, path: Path) -> NDArray[np.uint16]:
        """Read one mask.

        Args:
            path: an image of one channel (palette images by index), 8 or 16 bits.

        Returns:
            (H, W) uint16: class indices, and `IGNORED`.

        Raises:
            DatasetError: missing, not such an image, or a label out of range; names the file and the value.
        """
        try:
            return self.classes_of(read_labels(path))
        except DatasetError as error:
            raise DatasetError(f"{path}: {error}") from error

    def classes_of(self, values: NDArray[Any]) -> NDArray[np.uint16]:
        """Class indices of a mask's values.

        Args:
            values: (H, W) integers as stored.

        Returns:
            (H, W) uint16: class indices, and `IGNORED`.

        Raises:
            DatasetError: a value that is neither a class nor ignored.
        """
        if self.values is not None:
            return self._listed(values, self.values)
        first = int(self.reduce_zero_label)
        skipped = values == self.ignore
        if self.reduce_zero_label:
            skipped |= values == 0
        wrong = ~skipped & ((values < first) | (values >= self.num_classes + first))
        if wrong.any():
            value = int(values[wrong].flat[0])
            rest = f"0 and {self.ignore} are" if self.reduce_zero_label else f"{self.ignore} is"
            raise DatasetError(
                f"label {value} is out of range: {self.num_classes} classes take {first} to "
                f"{self.num_classes + first - 1}, and {rest} ignored ({wrong.sum():,} pixels)"
            )
        return np.where(skipped, IGNORED, values.astype(np.int32) - first).astype(np.uint16)

    def _listed(self, values: NDArray[Any], listed: tuple[int, ...]) -> NDArray[np.uint16]:
        table = np.full(65536, IGNORED, np.uint16)
        table[list(listed)] = np.arange(len(listed), dtype=np.uint16)
        known = np.zeros(65536, bool)
        known[list(listed)] = True
        if self.ignore is not None:
            known[self.ignore] = True
        indices = np.clip(values, 0, 65535).astype(np.uint16)
        wrong = ~known[indices] | (indices != values)
        if wrong.any():
            raise DatasetError(
                f"value {int(values[wrong].flat[0])} is none of --mask-values {', '.join(map(str, listed))} "
                f"({wrong.sum():,} pixels)"
            )
        return np.asarray(table[indices], np.uint16)


def read_labels(path: Path) -> NDArray[Any]:
    """The values of a label image as stored: not stretched to 0..255, as viewers and Pillow do with 2 and 4 bits.

    Returns:
        (H, W) uint8, uint16 or int32; palette images give indices.

    Raises:
        DatasetError: missing, damaged, or an image of colours. The caller knows the file's name.
    """
    try:
        with open_pillow(path) as image:
            check_pixels(image.height, image.width)
            if image.mode not in _LABEL_MODES:
                raise DatasetError(
                    f"a mask has one channel of labels (grey or palette); this image is {image.mode}. "
                    "Colours must be turned into labels first"
                )
            levels = _stored_levels(image)
            values = np.asarray(image)
    except (DatasetError, MemoryError):
        raise
    except ImageError as error:
        if not path.exists():
            raise DatasetError("there is no such mask") from error
        raise DatasetError(f"can't read this mask: {str(error).partition(': ')[2] or error}") from error
    except Exception as error:  # decoders raise many kinds on damaged data
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise DatasetError(f"can't read this mask: {reason}") from error
    if values.dtype == np.bool_:
        return values.astype(np.uint8)
    if levels is None:
        return values
    most = 65535 if values.dtype.itemsize > 1 else 255
    return ((values.astype(np.uint32) * (levels - 1) + most // 2) // most).astype(values.dtype)


def _stored_levels(image: ImageFile.ImageFile) -> int | None:
    """How many grey levels the file has where Pillow stretches them over 8 or 16 bits; None where it does not."""
    tile = image.tile[0] if image.tile else None
    arguments = () if tile is None else tile[3] if isinstance(tile[3], tuple) else (tile[3],)
    if tile is not None and tile[0] in ("ppm", "ppm_plain") and isinstance(arguments[-1], int):
        return arguments[-1] + 1  # PGM with another maximum than 255 or 65535
    match = re.match(r"L;([24])", str(arguments[0])) if arguments else None
    return None if match is None else 1 << int(match.group(1))
