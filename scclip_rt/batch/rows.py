"""From images to rows: labels as PNG, shares, or what was wrong with the image."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from scclip_rt.batch.item import Item
from scclip_rt.errors import ImageError
from scclip_rt.image.png import encode_png

if TYPE_CHECKING:
    from scclip_rt.image.load import ImageSource
    from scclip_rt.segmentation import Segmentation
    from scclip_rt.segmenter import Segmenter

_NO_CELLS = ("item", "result")


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What becomes of one image. Every field always has a value: rows of all shards have one schema.

    Attributes:
        key: the image's.
        source: where it lay.
        height: of the image as a viewer shows it, pixels; 0 if it could not be read.
        width: likewise.
        labels_png: a grey PNG of 8 or 16 bits that holds the labels themselves; empty if the image could not be read.
        shares: JSON, the share of the pixels of each class that is present, largest first: `{"sky": 0.41}`.
        error: why there are no labels; empty if there are.
        item: the image itself, and
        result: its labels in memory, for formats that are made from them; no cells of the row.
    """

    key: str
    source: str
    height: int = 0
    width: int = 0
    labels_png: bytes = b""
    shares: str = "{}"
    error: str = ""
    item: Item | None = None
    result: Segmentation | None = None

    def cells(self) -> dict[str, Any]:
        """The row's values by name."""
        return {
            field.name: getattr(self, field.name) for field in fields(self) if field.name not in _NO_CELLS
        }

    @classmethod
    def of(cls, item: Item, result: Segmentation) -> Row:
        """The row of an image that was segmented."""
        height, width = result.labels.shape
        return cls(
            key=item.key,
            source=item.source,
            height=height,
            width=width,
            labels_png=encode_png(result.labels),
            shares=shares_json(result),
            item=item,
            result=result,
        )


def shares_json(result: Segmentation) -> str:
    """`Segmentation.shares` as JSON, to six digits."""
    shares = {name: round(share, 6) for name, share in result.shares().items()}
    return json.dumps(shares, ensure_ascii=False)


def segment_items(segmenter: Segmenter, items: Iterable[Item]) -> Iterator[Row]:
    """Segment images in order, with batches filled across them; a bad image becomes a row with its error."""
    waiting: deque[Item] = deque()

    def sources() -> Iterator[ImageSource]:
        for item in items:
            waiting.append(item)
            if item.image is not None:
                yield item.image

    for outcome in segmenter.outcomes(sources()):
        yield from _without_image(waiting)
        item = waiting.popleft()
        if isinstance(outcome.error, ImageError):
            yield Row(key=item.key, source=item.source, error=str(outcome.error))
        else:
            yield Row.of(item, outcome.unwrap())
    yield from _without_image(waiting)


def _without_image(waiting: deque[Item]) -> Iterator[Row]:
    while waiting and waiting[0].image is None:
        item = waiting.popleft()
        yield Row(key=item.key, source=item.source, error=item.error)
