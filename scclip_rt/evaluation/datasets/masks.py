"""Reading ground truth: label images of every kind to class indices."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scclip_rt.evaluation.errors import DatasetError
from scclip_rt.evaluation.metrics import IGNORE

IGNORED = 65535
"""What `MaskRule.read` gives for pixels that do not count."""

_LABEL_MODES = ("1", "L", "P", "I;16", "I;16B", "I")


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskRule:
    """What the values of a dataset's masks mean.

    Attributes:
        num_classes: C.
        ignore: the value that does not count.
        reduce_zero_label: the file's 0 does not count and its 1 is class 0, as mmsegmentation's
            `reduce_zero_label`.
    """

    num_classes: int
    ignore: int = IGNORE
    reduce_zero_label: bool = False

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


def read_labels(path: Path) -> NDArray[Any]:
    """The values of a label image as stored.

    Returns:
        (H, W) uint8, uint16 or int32; palette images give indices.

    Raises:
        DatasetError: missing, damaged, or an image of colours. The caller knows the file's name.
    """
    from PIL import Image

    try:
        with Image.open(path) as image:
            if image.mode not in _LABEL_MODES:
                raise DatasetError(
                    f"a mask has one channel of labels (grey or palette); this image is {image.mode}. "
                    "Colours must be turned into labels first"
                )
            values = np.asarray(image)
    except DatasetError:
        raise
    except FileNotFoundError as error:
        raise DatasetError("there is no such mask") from error
    except Exception as error:  # decoders raise many kinds on damaged data
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise DatasetError(f"can't read this mask: {reason}") from error
    return values.astype(np.uint8) if values.dtype == np.bool_ else values
