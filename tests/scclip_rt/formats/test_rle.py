"""The three codings of masks, read back by decoders written from the formats' own descriptions."""

import numpy as np
import pytest
from pycocotools import mask as pycocotools

from label_maps import patches, rle_unpack
from scclip_rt.formats.rle import coco_masks, cvat_masks, label_studio_masks

SHAPES = [(1, 1), (1, 7), (7, 1), (5, 6), (64, 200)]


def maps():
    rng = np.random.default_rng(0)
    for shape in SHAPES:
        yield np.zeros(shape, np.uint8)
        yield rng.integers(0, 3, shape).astype(np.uint8)
        yield rng.integers(0, 400, shape).astype(np.uint16)
        yield patches(rng, shape, [0, 7, 255]).astype(np.uint8)
    yield np.pad(
        np.ones((300, 200), np.uint8), 40
    )  # runs of more than 65,536 values in Label Studio's coding


CASES = [pytest.param(labels, id=f"{number}-{labels.shape}") for number, labels in enumerate(maps())]


@pytest.mark.parametrize("labels", CASES)
def test_coco_strings_areas_and_boxes_are_pycocotools(labels):
    masks = list(coco_masks(labels))
    assert [mask.label for mask in masks] == np.unique(labels).tolist()
    for mask in masks:
        theirs = pycocotools.encode(np.asfortranarray((labels == mask.label).astype(np.uint8)))
        assert mask.counts == theirs["counts"].decode()
        assert mask.area == pycocotools.area(theirs)
        assert list(mask.box) == pycocotools.toBbox(theirs).tolist()


@pytest.mark.parametrize("labels", CASES)
def test_cvat_counts_fill_a_tight_box_row_by_row(labels):
    rebuilt = np.full(labels.shape, -1)
    for mask in cvat_masks(labels):
        rows, columns = np.nonzero(labels == mask.label)
        assert mask.box == (columns.min(), rows.min(), columns.max(), rows.max())
        left, top, right, bottom = mask.box
        inside = np.repeat(np.arange(len(mask.counts)) % 2 == 1, mask.counts)
        box = rebuilt[top : bottom + 1, left : right + 1]
        box[inside.reshape(box.shape)] = mask.label
        assert min(mask.counts[1:]) > 0
    np.testing.assert_array_equal(rebuilt, labels)


@pytest.mark.parametrize("labels", CASES)
def test_label_studio_bits_unpack_to_four_values_a_pixel(labels):
    rebuilt = np.full(labels.shape, -1)
    for label, data in label_studio_masks(labels):
        values = rle_unpack(data).reshape(*labels.shape, 4)
        assert (values == values[..., :1]).all()
        assert set(np.unique(values)) <= {0, 255}
        rebuilt[values[..., 0] == 255] = label
    np.testing.assert_array_equal(rebuilt, labels)
