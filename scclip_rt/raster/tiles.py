"""Labels of a raster tile by tile, equal to those of one run over the whole.

Windows lie as METHOD §1 lays them over the whole raster at the resolution to work at. The label of a pixel depends on
the windows that cover it and on nothing else, so a tile is decoded with every window that touches it, and nothing is
left to blend: there are no seams.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, cast

import numpy as np
from numpy.typing import NDArray

from scclip_rt.decode.decode import decode
from scclip_rt.decode.plan import decode_plan, label_type
from scclip_rt.image.geometry import Tiling

if TYPE_CHECKING:
    from scclip_rt.decode.best import Labels
    from scclip_rt.raster.source import RasterSource
    from scclip_rt.segmenter import Segmenter

_FEATURE_BYTES = 384 << 20
"""Most memory for features that a later tile needs again; what is beyond is encoded again."""
_ENCODED_AT_ONCE = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Tile:
    """A part of the raster, and the windows that touch it.

    Attributes:
        name: of its file.
        top: first row of pixels.
        left: first column.
        height: pixels.
        width: pixels.
        rows: of windows, from `rows[0]` up to before `rows[1]`.
        columns: the same.
    """

    name: str
    top: int
    left: int
    height: int
    width: int
    rows: tuple[int, int]
    columns: tuple[int, int]


def cut_tiles(tiling: Tiling, side: int, stride: int) -> list[list[Tile]]:
    """Tiles of at most `side` pixels, row by row; the last ones are smaller.

    Others are whole strides, so that windows lie alike in all of them and one decode plan serves.
    """
    side = max(side // stride, 1) * stride
    window_h, window_w = tiling.window
    bands = [(top, min(side, tiling.height - top)) for top in range(0, tiling.height, side)]
    stripes = [(left, min(side, tiling.width - left)) for left in range(0, tiling.width, side)]
    return [
        [
            Tile(
                name=f"{row:05d}_{column:05d}",
                top=top,
                left=left,
                height=height,
                width=width,
                rows=_touching(tiling.rows, window_h, top, top + height),
                columns=_touching(tiling.columns, window_w, left, left + width),
            )
            for column, (left, width) in enumerate(stripes)
        ]
        for row, (top, height) in enumerate(bands)
    ]


def _touching(starts: tuple[int, ...], window: int, start: int, stop: int) -> tuple[int, int]:
    """First window that reaches into pixels start..stop, and the one after the last."""
    begins = np.asarray(starts)
    return int(np.searchsorted(begins + window, start, side="right")), int(np.searchsorted(begins, stop))


class TileLabeller:
    """Labels tiles in the order of `cut_tiles`; some may be left out.

    Args:
        segmenter: with its classes and options.
        source: the raster.
        tiling: of the whole raster.
        tiles: all of them.

    Attributes:
        encoded: windows encoded so far.
    """

    def __init__(
        self, segmenter: Segmenter, source: RasterSource, tiling: Tiling, tiles: list[list[Tile]]
    ) -> None:
        self._segmenter = segmenter
        self._source = source
        self._tiling = tiling
        self._tiles = tiles
        self._vocabulary = segmenter.vocabulary
        patch = segmenter.preparation.patch
        self._grid = (tiling.window[0] // patch, tiling.window[1] // patch)
        mean = np.asarray(segmenter.bundle.preprocessing.mean)
        self._neutral = np.round(mean * 255).astype(np.uint8)
        self._features: dict[tuple[int, int], NDArray[np.float32]] = {}
        self.encoded = 0

    def label(self, row: int, column: int) -> Labels:
        """(height, width) labels of a tile; unlabelled where the raster holds nothing."""
        tile = self._tiles[row][column]
        dtype, unlabelled = label_type(len(self._vocabulary.classes))
        part = self._part(tile)
        pixels, valid = self._source.read(
            self._tiling.rows[tile.rows[0]], self._tiling.columns[tile.columns[0]], part.height, part.width
        )
        inside = (
            slice(tile.top - self._tiling.rows[tile.rows[0]], None),
            slice(tile.left - self._tiling.columns[tile.columns[0]], None),
        )
        core = valid[inside][: tile.height, : tile.width]
        if not core.any():
            return cast("Labels", np.full(core.shape, unlabelled, dtype))
        pixels[~valid] = self._neutral
        features = self._window_features(tile, part, pixels, valid)
        labels = self._decode(features, part)[inside][: tile.height, : tile.width]
        self._forget(row, column)
        return cast("Labels", np.where(core, labels, dtype(unlabelled)))

    def _part(self, tile: Tile) -> Tiling:
        """The tile's windows by themselves, counted from the first one's corner."""
        rows = self._tiling.rows[slice(*tile.rows)]
        columns = self._tiling.columns[slice(*tile.columns)]
        window_h, window_w = self._tiling.window
        return Tiling(
            height=rows[-1] - rows[0] + window_h,
            width=columns[-1] - columns[0] + window_w,
            rows=tuple(start - rows[0] for start in rows),
            columns=tuple(start - columns[0] for start in columns),
            window=self._tiling.window,
        )

    def _window_features(
        self, tile: Tile, part: Tiling, pixels: NDArray[np.uint8], valid: NDArray[np.bool_]
    ) -> NDArray[np.float32]:
        """(windows, N, E), encoded or kept from earlier tiles; zeros for windows without data, which label nothing."""
        places = [(row, column) for row in range(*tile.rows) for column in range(*tile.columns)]
        height, width = part.window
        corners = [(top, left) for top in part.rows for left in part.columns]
        missing = [
            number
            for number, (place, (top, left)) in enumerate(zip(places, corners, strict=True))
            if place not in self._features and valid[top : top + height, left : left + width].any()
        ]
        for start in range(0, len(missing), _ENCODED_AT_ONCE):
            some = missing[start : start + _ENCODED_AT_ONCE]
            windows = np.stack([pixels[y : y + height, x : x + width] for y, x in (corners[n] for n in some)])
            for number, features in zip(some, self._segmenter.backend.features(windows), strict=True):
                self._features[places[number]] = features.copy()
        self.encoded += len(missing)
        out = np.zeros(
            (len(places), self._grid[0] * self._grid[1], self._segmenter.preparation.embed_dim), np.float32
        )
        for number, place in enumerate(places):
            if (kept := self._features.get(place)) is not None:
                out[number] = kept
        return out

    def _decode(self, features: NDArray[np.float32], part: Tiling) -> Labels:
        options, vocabulary = replace(self._segmenter.options, area_threshold=0.0), self._vocabulary
        decoded = decode(
            features,
            vocabulary.embeddings,
            decode_plan(part, self._grid, (part.height, part.width)),
            vocabulary.decode_settings(options),
        )
        return decoded.labels

    def _forget(self, row: int, column: int) -> None:
        """Drop what no later tile touches, and the oldest of the rest beyond the limit."""
        below = self._tiles[row + 1][0].rows[0] if row + 1 < len(self._tiles) else len(self._tiling.rows)
        right = (
            self._tiles[row][column + 1].columns[0]
            if column + 1 < len(self._tiles[row])
            else len(self._tiling.columns)
        )
        for place in [place for place in self._features if place[0] < below and place[1] < right]:
            del self._features[place]
        while sum(features.nbytes for features in self._features.values()) > _FEATURE_BYTES:
            del self._features[next(iter(self._features))]


def walk(tiles: list[list[Tile]]) -> Iterator[tuple[int, int, Tile]]:
    """Row, column and tile, in the order to work in."""
    for row, stripe in enumerate(tiles):
        for column, tile in enumerate(stripe):
            yield row, column, tile
