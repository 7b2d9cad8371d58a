"""Segmenting as a callable from rows to rows, for Ray Data, Spark, Daft and whatever else maps batches."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from scclip_rt.batch.arrow_columns import image_value
from scclip_rt.batch.item import Item
from scclip_rt.batch.rows import Row, segment_items
from scclip_rt.errors import OptionError

if TYPE_CHECKING:
    from scclip_rt.vocabulary.file import Vocabulary

COLUMNS = ("height", "width", "labels_png", "shares", "error")
"""What is added to a batch; see `Row`."""
_USUAL = ("image", "bytes", "jpg", "jpeg", "png", "content")


class SegmentRows:
    """Segment the images of batches of rows.

    Made once in each actor, executor or process: making one opens the bundle. Rows hold images as bytes of a file, as
    a path, or as Hugging Face's `{"bytes": …, "path": …}`, and never as pixels: such engines handle arrays of different
    sizes badly, and these have lost the EXIF orientation. Rows come out with bytes, numbers and texts.

    Args:
        bundle: as for `Segmenter`.
        classes: as for `Segmenter`.
        vocabulary: instead of `classes`: embedded once by the caller, where `classes` are embedded in every process.
        column: of the images; None takes the first of image, bytes, jpg, jpeg, png and content that there is.
        keep: columns to pass through; None passes all but the images'.
        options: further options of `Segmenter`: `threads`, `precision`, `short_side`, …

    Example:
        >>> rows = SegmentRows("vitb16.scclip", classes=["sky", "grass", "dog"])
        >>> rows({"id": [1], "bytes": [Path("photo.jpg").read_bytes()]})
        {'id': [1], 'height': [375], 'width': [500], 'labels_png': [b'…'], 'shares': ['{"sky": 0.41, …}'], …}
    """

    def __init__(
        self,
        bundle: str | os.PathLike[str],
        classes: str | os.PathLike[str] | Sequence[str] | None = None,
        *,
        vocabulary: str | os.PathLike[str] | Vocabulary | None = None,
        column: str | None = None,
        keep: Sequence[str] | None = None,
        **options: Any,
    ) -> None:
        from scclip_rt.segmenter import Segmenter

        self._segmenter = Segmenter(bundle, classes=classes, vocabulary=vocabulary, **options)
        self._column = column
        self._keep = keep

    def __call__(self, batch: Mapping[str, Sequence[Any]]) -> dict[str, Any]:
        """Segment one batch.

        Args:
            batch: columns of equal length, by name: lists, numpy arrays, or a pandas DataFrame.

        Returns:
            The columns that are kept, as they came, and `height`, `width`, `labels_png`, `shares` and `error` as lists;
            see `Row`. A bad image is a row with its error.

        Raises:
            OptionError: there is no such column, or it holds pixels.
        """
        names = list(batch)
        column = self._find(names)
        kept = [name for name in names if name != column] if self._keep is None else self._keep
        for name in kept:
            if name not in names:
                raise OptionError(f"no column {name!r} to keep; there are {', '.join(names)}")
        added: dict[str, list[Any]] = {name: [] for name in COLUMNS}
        for row in segment_items(self._segmenter, _items(batch[column], column)):
            for name, values in added.items():
                values.append(getattr(row, name))
        return {name: batch[name] for name in kept} | added

    def _find(self, names: Sequence[str]) -> str:
        for name in (self._column,) if self._column else _USUAL:
            if name in names:
                return name
        wanted = repr(self._column) if self._column else " or ".join(_USUAL)
        raise OptionError(
            f"no column {wanted} in the batch; it has {', '.join(names)}. Name the images' with column="
        )


def _items(values: Iterable[Any], column: str) -> Iterable[Item]:
    for number, value in enumerate(values):
        if isinstance(value, np.ndarray):
            raise OptionError(
                f"column {column!r} holds pixels, {value.dtype} {value.shape}; give the bytes of the files, which also "
                "hold the orientation (Ray: read_binary_files, not read_images)"
            )
        image, error = image_value(value, None)
        yield Item(key=str(number), source=column, image=image, error=error)


__all__ = ["COLUMNS", "Row", "SegmentRows"]
