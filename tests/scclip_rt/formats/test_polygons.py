"""Regions as polygons, against shapely's rules, a flood fill and OpenCV's contours."""

import cv2
import numpy as np
import pytest
import shapely
from skimage.measure import label as components

from label_maps import patches
from scclip_rt.formats.polygons import border_pixels, label_polygons


def maps():
    rng = np.random.default_rng(1)
    yield np.zeros((1, 1), np.uint8)
    for shape in ((1, 9), (9, 1), (6, 8), (13, 11)):
        for classes in (1, 2, 3):
            yield rng.integers(0, classes, shape).astype(np.uint8)
    yield patches(rng, (40, 50), [0, 1, 70_000], side=4)
    island = np.zeros((9, 9), np.uint8)
    island[1:8, 1:8] = 1
    island[2:7, 2:7] = 0
    island[4, 4] = 1
    yield island


@pytest.mark.parametrize("labels", [pytest.param(m, id=f"{i}-{m.shape}") for i, m in enumerate(maps())])
def test_polygons_are_the_regions_and_valid(labels):
    rows, columns = np.mgrid[: labels.shape[0], : labels.shape[1]] + 0.5
    seen = np.zeros(labels.shape, int)
    polygons = label_polygons(labels)
    for polygon in polygons:
        shape = shapely.Polygon(polygon.rings[0], polygon.rings[1:])
        assert shape.is_valid, shapely.is_valid_reason(shape)
        inside = shapely.contains_xy(shape, columns, rows)
        assert (labels[inside] == polygon.label).all()
        assert shape.area == polygon.area == inside.sum()
        seen += inside
    assert (seen == 1).all()
    assert len(polygons) == components(labels, connectivity=1, background=-1).max()


def one_way(ring):
    """A ring from the same pixel and in the same direction, wherever it began."""
    points = [tuple(point) for point in ring.tolist()]
    turns = [
        way[start:] + way[:start]
        for way in (points, points[::-1])
        for start in range(len(way))
        if way[start] == min(points)
    ]
    return tuple(min(turns))


def contours(labels):
    """Label, outline and holes of every region, by OpenCV."""
    for label in np.unique(labels).tolist():
        mask = (labels == label).astype(np.uint8)
        found, tree = cv2.findContours(mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
        rings = [one_way(ring[:, 0]) for ring in found]
        for index, parent in enumerate(tree[0, :, 3]):
            if parent < 0:
                holes = np.flatnonzero(tree[0, :, 3] == index)
                yield label, rings[index], frozenset(rings[hole] for hole in holes)


@pytest.mark.parametrize("labels", [pytest.param(m, id=f"{i}-{m.shape}") for i, m in enumerate(maps())])
def test_border_pixels_are_those_of_opencv(labels):
    found = {
        (label, one_way(outline), frozenset(map(one_way, holes)))
        for label, (outline, *holes) in border_pixels(labels)
    }
    assert found == set(contours(labels))
