"""Run lengths of label maps in the three codings that labelling tools use, without a mask per class.

A label map is flattened once and cut into runs of equal labels; sorted by label, these are the runs of every class. The
codings differ in more than their writing:

- **COCO**: column by column, counts of zeros and ones in turn, as a string of characters (5 bits and a sign each);
- **CVAT**: row by row inside the mask's tight box, counts of zeros and ones in turn, then the box;
- **Label Studio**: row by row over four values a pixel (0 or 255), bits as thi.ng's rle-pack lays them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from scclip_rt.decode.best import Labels

_STUDIO_SIZES = (3, 4, 8, 16)
"""Bits that a count may take; the first that holds it is used."""
_STUDIO_LONGEST = 1 << 16
_BAND = 128
"""Rows turned at a time: they stay in the cache, and a map of megapixels takes a fifth of the time of all at once."""
_STUDIO_VALUES = 4
"""Values a pixel: red, green, blue and alpha, all the same."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LabelRuns:
    """The runs of equal labels in a flattened map, sorted by label and then by place.

    Attributes:
        size: pixels of the map.
        labels: those that occur, ascending.
        first: (len(labels) + 1,), where each label's runs begin in `starts`; the last is their number.
        starts: first pixel of each run.
        stops: the pixel after each run's last.
    """

    size: int
    labels: tuple[int, ...]
    first: NDArray[np.int64]
    starts: NDArray[np.int64]
    stops: NDArray[np.int64]

    @classmethod
    def of(cls, flat: NDArray[Any], cuts: NDArray[np.int64] | None = None) -> LabelRuns:
        """Cut a flat map into runs.

        Args:
            flat: (pixels,), at least one.
            cuts: further places where a run must end, ascending.
        """
        starts = np.flatnonzero(flat[1:] != flat[:-1]) + 1
        starts = np.concatenate(([0], starts if cuts is None else np.union1d(starts, cuts)))
        stops = np.concatenate((starts[1:], [flat.size]))
        values = flat[starts]
        order = np.argsort(values, kind="stable")
        values = values[order]
        first = np.concatenate(([0], np.flatnonzero(values[1:] != values[:-1]) + 1, [len(values)]))
        return cls(
            size=flat.size,
            labels=tuple(values[first[:-1]].tolist()),
            first=first,
            starts=starts[order],
            stops=stops[order],
        )

    def each(self) -> Iterator[tuple[int, NDArray[np.int64], NDArray[np.int64]]]:
        """Label, starts and stops of its runs; label by label."""
        for label, begin, end in zip(self.labels, self.first[:-1], self.first[1:], strict=True):
            yield label, self.starts[begin:end], self.stops[begin:end]


def run_counts(starts: NDArray[np.int64], stops: NDArray[np.int64], size: int) -> NDArray[np.int64]:
    """Lengths of zeros and ones in turn, from zeros; runs that touch become one, zeros at the end count.

    Args:
        starts: of the runs of ones, ascending.
        stops: of the same.
        size: of the whole.
    """
    apart = starts[1:] != stops[:-1]
    edges = np.empty((1 + int(apart.sum()), 2), np.int64)
    edges[0, 0], edges[1:, 0] = starts[0], starts[1:][apart]
    edges[-1, 1], edges[:-1, 1] = stops[-1], stops[:-1][apart]
    counts = np.diff(edges.ravel(), prepend=0)
    left = size - int(stops[-1])
    return np.append(counts, left) if left else counts


@dataclass(frozen=True, slots=True, kw_only=True)
class CocoMask:
    """One label's mask as COCO writes it.

    Attributes:
        label: in the map.
        counts: the compressed run lengths.
        area: pixels.
        box: (left, top, width, height), pixels.
    """

    label: int
    counts: str
    area: int
    box: tuple[int, int, int, int]


def coco_masks(labels: Labels) -> Iterator[CocoMask]:
    """The mask of every label that occurs, in COCO's coding: the strings are pycocotools' own.

    Args:
        labels: (H, W).

    Yields:
        One mask a label, ascending.
    """
    height = labels.shape[0]
    runs = LabelRuns.of(_columns_first(labels))
    for label, starts, stops in runs.each():
        left, right = int(starts[0]) // height, int(stops[-1] - 1) // height
        columns = (stops - 1) // height
        whole = starts // height != columns  # goes on in the next column: touches both borders
        top = 0 if whole.any() else int((starts % height).min())
        bottom = height - 1 if whole.any() else int((stops - 1 - columns * height).max())
        yield CocoMask(
            label=label,
            counts=coco_string(run_counts(starts, stops, runs.size)),
            area=int((stops - starts).sum()),
            box=(left, top, right - left + 1, bottom - top + 1),
        )


def coco_string(counts: NDArray[np.int64]) -> str:
    """Run lengths as COCO's string: from the fourth on as the difference to the last but one, five bits a character."""
    values = counts.copy()
    values[3:] -= counts[1:-2]
    characters = [values & 31]
    rest = values >> 5
    # A number ends where what is left is only its sign, and the sign is the last group's highest bit.
    more = [rest != -((characters[0] >> 4) & 1)]
    while more[-1].any():
        characters.append(rest & 31)
        rest = rest >> 5
        more.append(more[-1] & (rest != -((characters[-1] >> 4) & 1)))
    table = np.stack(characters, axis=1)
    continued = np.stack(more, axis=1)
    table += 48 + 32 * continued
    used = np.ones_like(continued)
    used[:, 1:] = continued[:, :-1]
    return str(table[used].astype(np.uint8).tobytes(), "ascii")


@dataclass(frozen=True, slots=True, kw_only=True)
class CvatMask:
    """One label's mask as CVAT writes it.

    Attributes:
        label: in the map.
        counts: of zeros and ones in turn, row by row inside the box.
        box: (left, top, right, bottom), pixels, the last ones included.
    """

    label: int
    counts: tuple[int, ...]
    box: tuple[int, int, int, int]


def cvat_masks(labels: Labels) -> Iterator[CvatMask]:
    """The mask of every label that occurs, in CVAT's coding.

    Args:
        labels: (H, W).

    Yields:
        One mask a label, ascending.
    """
    height, width = labels.shape
    runs = LabelRuns.of(_rows_first(labels), cuts=np.arange(width, height * width, width))
    for label, starts, stops in runs.each():
        rows = starts // width
        columns = starts - rows * width
        ends = stops - rows * width
        left, right = int(columns.min()), int(ends.max()) - 1
        top, bottom = int(rows[0]), int(rows[-1])
        inside = right - left + 1
        base = (rows - top) * inside - left
        counts = run_counts(base + columns, base + ends, inside * (bottom - top + 1))
        yield CvatMask(label=label, counts=tuple(counts.tolist()), box=(left, top, right, bottom))


def label_studio_masks(labels: Labels) -> Iterator[tuple[int, bytes]]:
    """The mask of every label that occurs, in Label Studio's coding.

    Args:
        labels: (H, W).

    Yields:
        Label and bytes, ascending; Label Studio wants the bytes as a list of numbers.
    """
    runs = LabelRuns.of(_rows_first(labels))
    for label, starts, stops in runs.each():
        yield label, _rle_pack(run_counts(starts, stops, runs.size))


def _rle_pack(counts: NDArray[np.int64]) -> bytes:
    """thi.ng rle-pack of a mask of 0 and 255, four values a pixel: header, then count and value of each run."""
    lengths = counts * _STUDIO_VALUES
    pieces = -(-lengths // _STUDIO_LONGEST)  # a run of none (a mask from the first pixel on) has no piece
    ones = np.repeat(np.arange(len(counts)) & 1, pieces)
    rest = lengths - (pieces - 1) * _STUDIO_LONGEST
    last = np.cumsum(pieces)[pieces > 0] - 1
    extra = np.full(len(ones), _STUDIO_LONGEST - 1)
    extra[last] = rest[pieces > 0] - 1

    kind = np.searchsorted([1 << bits for bits in _STUDIO_SIZES], extra, side="right")
    bits = np.array(_STUDIO_SIZES)[kind]
    # 1: a run; two bits for the count's size; the count less one; eight bits of value.
    code = ((((4 | kind) << bits) | extra) << 8) | (ones * 255)
    header = [(int(lengths.sum()), 32), (7, 5), *((size - 1, 4) for size in _STUDIO_SIZES)]
    codes = np.concatenate(([value for value, _ in header], code))
    widths = np.concatenate(([width for _, width in header], bits + 11))
    return _pack_bits(codes, widths)


def _pack_bits(codes: NDArray[np.int64], widths: NDArray[np.int64]) -> bytes:
    """Numbers of so many bits each, highest bit first, one after the other; zeros fill the last byte."""
    ends = np.cumsum(widths)
    shift = np.repeat(ends, widths) - 1 - np.arange(ends[-1])
    return np.packbits(((np.repeat(codes, widths) >> shift) & 1).astype(np.uint8)).tobytes()


def _rows_first(labels: Labels) -> NDArray[Any]:
    """The map row by row, (H · W,)."""
    return np.ascontiguousarray(labels).ravel()


def _columns_first(labels: Labels) -> NDArray[Any]:
    """The map column by column, (H · W,)."""
    turned = np.empty(labels.shape[::-1], labels.dtype)
    for top in range(0, len(labels), _BAND):
        turned[:, top : top + _BAND] = labels[top : top + _BAND].T
    return turned.ravel()
