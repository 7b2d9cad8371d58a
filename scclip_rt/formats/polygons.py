"""The regions of a label map as polygons along the edges of pixels: exact, with holes, neighbours without gaps.

A region is a set of pixels of one label that touch along edges (`border_pixels`: or at corners). Its outline turns at
corners only, and which way it comes and goes there follows from the four pixels around. Corners are found for all
labels at once, and paired along rows and columns by sorting; no mask per label exists.

Coordinates are of pixel corners: x to the right from 0 to the width, y down from 0 to the height.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

RIGHT, DOWN, LEFT, UP = range(4)
_OUTSIDE = -1

# Incoming and outgoing directions at a corner, the region on the right hand, for the quadrants NW, NE, SE, SW of it.
_CONVEX = ((DOWN, LEFT), (LEFT, UP), (UP, RIGHT), (RIGHT, DOWN))
"""Where only the pixel of that quadrant is the region's (a diagonal neighbour may be of it too, on its own)."""
_CONCAVE = ((RIGHT, UP), (DOWN, RIGHT), (LEFT, DOWN), (UP, LEFT))
"""Where only the pixel of that quadrant is not the region's."""
_STRAIGHT = (LEFT, UP, RIGHT, DOWN)
"""The direction where that quadrant and the next one are the region's, and the other two are of two other regions."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Polygon:
    """One region.

    Attributes:
        label: of its pixels.
        rings: outline, then holes, each (corners, 2) int64 of x and y, not closed; the outline goes clockwise as one
            sees it, holes the other way.
        area: pixels.
    """

    label: int
    rings: tuple[NDArray[np.int64], ...]
    area: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Corners:
    """All corners of all regions: place, label, and the directions they are entered and left in."""

    x: NDArray[np.int64]
    y: NDArray[np.int64]
    label: NDArray[np.int64]
    enters: NDArray[np.int64]
    leaves: NDArray[np.int64]


def label_polygons(labels: NDArray[Any], *, junctions: bool = False) -> list[Polygon]:
    """Every region of a label map.

    Args:
        labels: (H, W), whole numbers from 0.
        junctions: rings also have the points where they go straight on and two other regions meet: the polygons are
            then a coverage, in which neighbours share every edge.

    Returns:
        The polygons in the order of their topmost, then leftmost corners.
    """
    corners = _corners(labels, junctions)
    return _polygons(labels, corners, _rings(_cycles(_successors(corners)), corners))


def border_pixels(labels: NDArray[Any]) -> Iterator[tuple[int, list[NDArray[np.int64]]]]:
    """Every region of pixels that touch along edges or at corners, as OpenCV's `findContours` gives it.

    Args:
        labels: (H, W), whole numbers from 0.

    Yields:
        The region's label, and its rings of pixels, each (pixels, 2) of x and y, not closed: those along the outline,
        then those along each hole. A pixel that is passed twice is in a ring twice.
    """
    corners = _joined_at_corners(_corners(labels, junctions=False))
    for polygon in _polygons(labels, corners, _cycles(_successors(corners))):
        yield polygon.label, [_pixels_inside(ring) for ring in polygon.rings]


def _polygons(labels: NDArray[Any], corners: _Corners, paths: list[list[int]]) -> list[Polygon]:
    """Closed paths of corners as outlines with their holes."""
    rings = [np.stack((corners.x[path], corners.y[path]), axis=1) for path in paths]
    areas = [_signed_area(ring) for ring in rings]
    owner = _outlines(labels, rings, areas)
    holes: dict[int, list[int]] = {}
    for index, outline in enumerate(owner):
        if outline != index:
            holes.setdefault(outline, []).append(index)
    return [
        Polygon(
            label=int(corners.label[paths[index][0]]),
            rings=(rings[index], *(rings[hole] for hole in holes.get(index, []))),
            area=area + sum(areas[hole] for hole in holes.get(index, [])),
        )
        for index, area in enumerate(areas)
        if area > 0
    ]


def _corners(labels: NDArray[Any], junctions: bool) -> _Corners:
    padded = np.full((labels.shape[0] + 2, labels.shape[1] + 2), _OUTSIDE, np.int32)
    padded[1:-1, 1:-1] = labels
    across = padded[:, 1:] != padded[:, :-1]
    below = padded[1:] != padded[:-1]
    # A corner needs a horizontal and a vertical border that meet.
    y, x = np.nonzero((across[1:] | across[:-1]) & (below[:, 1:] | below[:, :-1]))
    around = [padded[y, x], padded[y, x + 1], padded[y + 1, x + 1], padded[y + 1, x]]
    found = []
    for quadrant, label in enumerate(around):
        before, after, opposite = (around[(quadrant + turn) % 4] for turn in (-1, 1, 2))
        inside = label != _OUTSIDE
        convex = inside & (before != label) & (after != label)
        found.append((convex, label, _CONVEX[quadrant]))
        concave = inside & (before == label) & (after == label) & (opposite != label)
        found.append((concave, label, _CONCAVE[(quadrant + 2) % 4]))
        if junctions:
            straight = (
                inside & (after == label) & (before != label) & (opposite != label) & (before != opposite)
            )
            found.append((straight, label, (_STRAIGHT[quadrant], _STRAIGHT[quadrant])))
    where = [np.flatnonzero(mask) for mask, _, _ in found]
    order = np.argsort(np.concatenate(where), kind="stable")
    places = np.concatenate(where)[order]

    def joined(values: list[NDArray[Any]]) -> NDArray[np.int64]:
        return np.concatenate(values)[order].astype(np.int64)

    return _Corners(
        x=x[places],
        y=y[places],
        label=joined([label[at] for at, (_, label, _) in zip(where, found, strict=True)]),
        enters=joined(
            [np.full(len(at), enters) for at, (_, _, (enters, _)) in zip(where, found, strict=True)]
        ),
        leaves=joined(
            [np.full(len(at), leaves) for at, (_, _, (_, leaves)) in zip(where, found, strict=True)]
        ),
    )


def _joined_at_corners(corners: _Corners) -> _Corners:
    """Where two pixels of a region touch at a corner alone, its outline goes on from the one to the other."""
    order = np.lexsort((corners.label, corners.x, corners.y))
    same = np.ones(max(0, len(order) - 1), bool)
    for values in (corners.x, corners.y, corners.label):
        same &= values[order[1:]] == values[order[:-1]]
    first = np.flatnonzero(same)
    leaves = corners.leaves.copy()
    leaves[order[first]], leaves[order[first + 1]] = leaves[order[first + 1]], leaves[order[first]]
    return replace(corners, leaves=leaves)


def _pixels_inside(ring: NDArray[np.int64]) -> NDArray[np.int64]:
    """The pixels on the right hand of a ring, each once in a row."""
    way = np.roll(ring, -1, axis=0) - ring
    lengths, step = np.abs(way).sum(axis=1), np.sign(way)
    # From a corner to the pixel on the right hand: itself at RIGHT, left of it at DOWN, and so on.
    first = ring + np.minimum(0, np.stack((step[:, 0] - step[:, 1], step[:, 0] + step[:, 1]), axis=1))
    along = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    pixels = np.repeat(first, lengths, axis=0) + along[:, None] * np.repeat(step, lengths, axis=0)
    new = (pixels != np.roll(pixels, 1, axis=0)).any(axis=1)
    kept: NDArray[np.int64] = pixels[new] if new.any() else pixels[:1]
    return kept


def _successors(corners: _Corners) -> list[int]:
    """The corner after each: along a line, those that begin an edge and those that end one take turns."""
    following = np.empty(len(corners.x), np.int64)
    for direction in range(4):
        along, line = (corners.x, corners.y) if direction in (RIGHT, LEFT) else (corners.y, corners.x)
        begin = np.flatnonzero(corners.leaves == direction)
        end = np.flatnonzero(corners.enters == direction)
        begin = begin[np.lexsort((along[begin], line[begin], corners.label[begin]))]
        end = end[np.lexsort((along[end], line[end], corners.label[end]))]
        following[begin] = end
    return following.tolist()


def _cycles(following: list[int]) -> list[list[int]]:
    """Closed paths of corners, whole."""
    seen = bytearray(len(following))
    cycles = []
    for first in range(len(following)):
        path: list[int] = []
        corner = first
        while not seen[corner]:
            seen[corner] = 1
            path.append(corner)
            corner = following[corner]
        if path:
            cycles.append(path)
    return cycles


def _rings(cycles: list[list[int]], corners: _Corners) -> list[list[int]]:
    """Paths that come to a point again are cut there, so that no ring touches itself."""
    places = (corners.y << 32 | corners.x).tolist()
    rings = []
    for cycle in cycles:
        path: list[int] = []
        position: dict[int, int] = {}
        for corner in cycle:
            place = places[corner]
            if (start := position.get(place)) is not None:
                rings.append(path[start:])
                for cut in path[start:]:
                    position.pop(places[cut], None)
                del path[start:]
            position[place] = len(path)
            path.append(corner)
        rings.append(path)
    return rings


def _signed_area(ring: NDArray[np.int64]) -> int:
    """Pixels inside, negative for holes."""
    x, y = ring[:, 0], ring[:, 1]
    return int((x * (np.roll(y, -1) - np.roll(y, 1))).sum()) // 2


def _outlines(labels: NDArray[Any], rings: list[NDArray[np.int64]], areas: list[int]) -> list[int]:
    """The outline that each ring belongs to, itself for outlines.

    Left of a hole's leftmost corner lies a run of the region's pixels; the edge where that run begins is of the
    outline, or of another hole further left.
    """
    holes = [index for index, area in enumerate(areas) if area < 0]
    owner = list(range(len(rings)))
    if not holes:
        return owner
    height, width = labels.shape
    rising = _RisingEdges.of(rings, height + 1)
    starts = np.ones(labels.shape, bool)
    starts[:, 1:] = labels[:, 1:] != labels[:, :-1]
    run_starts = np.flatnonzero(starts)
    first = np.array([_leftmost(rings[hole]) for hole in holes])
    beside = first[:, 1] * width + first[:, 0] - 1
    begins = run_starts[np.searchsorted(run_starts, beside, side="right") - 1]
    parents = rising.ring_at(begins % width, first[:, 1])
    order = np.argsort(first[:, 0], kind="stable")
    for place in order.tolist():  # from the left: what lies further left is known already
        owner[holes[place]] = owner[int(parents[place])]
    return owner


def _leftmost(ring: NDArray[np.int64]) -> NDArray[np.int64]:
    """Its leftmost corner, the top one of several: the pixel below its row is left of the ring's edge."""
    corner: NDArray[np.int64] = ring[np.lexsort((ring[:, 1], ring[:, 0]))[0]]
    return corner


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _RisingEdges:
    """Vertical edges that have their region on the right, sorted by place."""

    keys: NDArray[np.int64]
    rings: NDArray[np.int64]
    rows: int

    @classmethod
    def of(cls, rings: list[NDArray[np.int64]], rows: int) -> _RisingEdges:
        points = np.concatenate(rings)
        lengths = np.array([len(ring) for ring in rings])
        ends = np.cumsum(lengths)
        following = np.arange(1, len(points) + 1)
        following[ends - 1] = ends - lengths
        after = points[following]
        rising = np.flatnonzero(after[:, 1] < points[:, 1])
        keys = after[rising, 0] * rows + after[rising, 1]
        order = np.argsort(keys)
        return cls(
            keys=keys[order], rings=np.repeat(np.arange(len(rings)), lengths)[rising][order], rows=rows
        )

    def ring_at(self, x: NDArray[np.int64], y: NDArray[np.int64]) -> NDArray[np.int64]:
        """The ring whose edge at `x` passes pixel row `y`."""
        return self.rings[np.searchsorted(self.keys, x * self.rows + y, side="right") - 1]
