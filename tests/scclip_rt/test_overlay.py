"""Results: shares, colours, legends that stay readable, files that are all or nothing."""

import numpy as np
import pytest
from PIL import Image

from scclip_rt.errors import ImageError, OptionError, OutputError
from scclip_rt.overlay import LegendEntry, add_legend, class_colours, paint, palette
from scclip_rt.segmentation import UNLABELLED, Segmentation

CLASSES = ("background", "cat", "dog")


def result(height: int = 60, width: int = 80, **changes: object) -> Segmentation:
    labels = np.zeros((height, width), np.uint8)
    labels[:, width // 2 :] = 2
    labels[: height // 4] = 255
    image = np.full((height, width, 3), 100, np.uint8)
    values = {"labels": labels, "classes": CLASSES, "unlabelled": 255, "background": 0, "image": image}
    return Segmentation(**(values | changes))


def test_shares_are_of_what_is_present_and_add_up():
    assert result().shares() == {"background": 0.375, "dog": 0.375, UNLABELLED: 0.25}


def test_first_colours_differ_and_later_ones_do_not_repeat_at_once():
    colours = palette(range(60)).astype(int)
    assert len({tuple(colour) for colour in colours}) == 60
    assert np.abs(np.diff(colours, axis=0)).sum(axis=1).min() > 60


def test_a_class_keeps_its_colour_whatever_else_is_present():
    alone = class_colours([7], background=0, unlabelled=255)
    among = class_colours([0, 7, 30, 255], background=0, unlabelled=255)
    assert np.array_equal(alone[0], among[1])
    assert len({tuple(colour) for colour in among.tolist()}) == 4


def test_overlay_mixes_the_colour_with_the_image():
    seg = result(20, 20)
    painted = seg.overlay(alpha=0.5, legend=False)
    expected = (np.array(palette([2])[0], int) + 100) / 2
    assert np.abs(painted[-1, -1] - expected).max() <= 1
    assert np.array_equal(seg.overlay(alpha=0.0, legend=False), seg.image)
    bright = seg.overlay(np.full((20, 20, 3), 255, np.uint8), alpha=0.5, legend=False)
    assert bright.min() >= 127  # nothing wraps around


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_painting_equals_the_formula(dtype):
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (40, 30, 3), np.uint8)
    labels = rng.choice([0, 2, np.iinfo(dtype).max], (40, 30)).astype(dtype)
    present = [0, 2, int(np.iinfo(dtype).max)]
    colours = class_colours(present, background=None, unlabelled=present[-1])
    painted = paint(image, labels, present, colours, 0.55)  # too small for borders
    wanted = np.round(np.arange(256) * (1 - 0.55))[image]
    for label, colour in zip(present, colours, strict=True):
        wanted[labels == label] += np.round(colour * 0.55)
    assert np.array_equal(painted, np.minimum(wanted, 255))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("size", [(7, 5), (4100, 4200)])  # the second has more pixels than float32 can count
def test_shares_count_every_pixel(dtype, size):
    labels = np.zeros(size, dtype)
    labels[0, :3] = np.iinfo(dtype).max
    seg = Segmentation(labels=labels, classes=CLASSES, unlabelled=int(np.iinfo(dtype).max))
    assert seg.label_shares() == [(0, 1 - 3 / labels.size), (seg.unlabelled, 3 / labels.size)]


def test_borders_are_drawn_between_classes():
    painted = result().overlay(legend=False)
    assert painted[40, 40].min() > painted[40, 45].min()


@pytest.mark.parametrize(
    "size", [(1, 1), (375, 500), (640, 427), (8, 3000), (3000, 8), (30, 40), (1080, 1920)]
)
@pytest.mark.parametrize("number", [1, 5, 40])
def test_legend_fits_any_picture(size, number):
    picture = np.zeros((*size, 3), np.uint8)
    entries = [LegendEntry(f"name {i} " * (1 + 20 * (i % 2)), 1 / number, (250, 0, i)) for i in range(number)]
    out = add_legend(picture, entries)
    assert out.dtype == np.uint8
    assert out.shape[0] >= size[0]
    assert out.shape[1] >= size[1]
    assert out.size < 20 * max(picture.size, 600 * 600 * 3)
    pixels = out.reshape(-1, 3)
    shown = np.unique(pixels[(pixels[:, 0] == 250) & (pixels[:, 1] == 0), 2])
    assert 0 in shown
    if number <= 5 and min(size) > 300:
        assert len(shown) >= number


def test_many_thousands_of_classes_are_counted_not_drawn():
    entries = [LegendEntry("x" * 300, 1e-4, (0, 0, 0))] * 10_000
    assert add_legend(np.zeros((300, 400, 3), np.uint8), entries).shape[0] < 600


def test_unusual_names_do_not_break_the_legend():
    for name in ("", "汉字 🐱", "two\nlines", "a" * 5000):
        assert add_legend(np.zeros((50, 50, 3), np.uint8), [LegendEntry(name, 1.0, (9, 9, 9))]).size


def test_files_hold_the_labels_and_the_picture(tmp_path):
    seg = result(name="holiday/photo.jpeg")
    labels, overlay = seg.save(tmp_path / "new")
    assert [labels.name, overlay.name] == ["photo.labels.png", "photo.overlay.png"]
    assert np.array_equal(np.asarray(Image.open(labels)), seg.labels)
    assert np.array_equal(np.asarray(Image.open(overlay)), seg.overlay())
    assert seg.save(tmp_path, "b", overlay=False) == [tmp_path / "b.labels.png"]


@pytest.mark.parametrize("side", [0, -1, 1.5, "9"])
def test_a_long_side_that_is_no_length_is_refused(side):
    with pytest.raises(OptionError, match="long_side must be a whole number of at least 1"):
        result().overlay(long_side=side)


@pytest.mark.parametrize(("size", "shown"), [((30, 4001), (10, 1334)), ((1600, 20), (1600, 20))])
def test_overlay_of_a_large_image_is_for_people(tmp_path, size, shown):
    seg = result(*size)
    labels, picture = seg.save(tmp_path, "large")
    assert Image.open(labels).size == size[::-1]
    painted = seg.overlay(legend=False, long_side=1600)
    assert painted.shape == (*shown, 3)
    assert np.array_equal(painted[-1, -1], seg.overlay(legend=False)[-1, -1])
    assert np.array_equal(painted, seg.overlay(legend=False)) == (shown == size)
    with Image.open(picture) as written:
        assert max(written.size[0], shown[1]) == written.size[0] < 2 * 1600


def test_16_bit_labels_survive_the_file(tmp_path):
    labels = np.array([[0, 300], [65535, 1]], np.uint16)
    seg = Segmentation(labels=labels, classes=tuple(map(str, range(400))), unlabelled=65535)
    (path,) = seg.save(tmp_path, "a")
    assert np.array_equal(np.asarray(Image.open(path)), labels)


def test_existing_files_stay_without_force(tmp_path):
    (tmp_path / "a.overlay.png").write_text("mine")
    with pytest.raises(OutputError, match="--force"):
        result().save(tmp_path, "a")
    assert [path.name for path in tmp_path.iterdir()] == ["a.overlay.png"]
    result().save(tmp_path, "a", force=True)
    assert len(list(tmp_path.iterdir())) == 2


def test_wrong_images_and_options_are_refused():
    with pytest.raises(ImageError, match="doesn't hold"):
        result(image=None).overlay()
    with pytest.raises(ImageError, match="segmented image"):
        result().overlay(np.zeros((5, 5, 3), np.uint8))
    with pytest.raises(OptionError, match="alpha"):
        result().overlay(alpha=2)
