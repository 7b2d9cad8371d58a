import numpy as np
import pytest

from scclip_rt.demo.materials import MATERIALS, Canvas
from scclip_rt.demo.scenes import (
    CLASSES,
    HELD_OUT_PAIRS,
    SMALLEST_REGION,
    TEST_SIZE,
    caption,
    render,
    test_scene,
    tuning_scene,
)


@pytest.mark.parametrize("split", ["train", "tune", "test"])
def test_a_seed_always_gives_the_same_scene(split):
    first, again = render(5, split=split, size=(96, 128)), render(5, split=split, size=(96, 128))
    assert np.array_equal(first.image, again.image)
    assert np.array_equal(first.mask, again.mask)
    assert first.classes == again.classes


def test_other_scenes_in_between_change_nothing():
    first = render(7, size=(64, 64))
    render(8, size=(64, 64))
    assert np.array_equal(first.image, render(7, size=(64, 64)).image)


def test_splits_share_no_scene_for_the_same_seed():
    images = [render(3, split=split, size=(64, 64), count=2).image for split in ("train", "tune", "test")]
    assert not np.array_equal(images[0], images[1])
    assert not np.array_equal(images[1], images[2])
    assert not np.array_equal(images[0], images[2])


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_the_mask_holds_exactly_the_named_classes_each_large_enough(count):
    for seed in range(40):
        scene = render(seed, size=(80, 112), count=count)
        present, pixels = np.unique(scene.mask, return_counts=True)
        assert tuple(present.tolist()) == scene.classes
        assert len(scene.classes) == count
        assert pixels.min() >= SMALLEST_REGION * 80 * 112 or count == 4


def test_images_and_masks_have_the_documented_form():
    scene = test_scene(0)
    assert scene.image.shape == (*TEST_SIZE, 3)
    assert scene.mask.shape == TEST_SIZE
    assert scene.image.dtype == scene.mask.dtype == np.uint8
    assert len(scene.classes) == 3


def test_every_region_is_painted():
    # A region that a material fails to paint stays black throughout.
    for seed in range(60):
        scene = render(seed, size=(96, 96))
        for index in scene.classes:
            assert scene.image[scene.mask == index].max() > 20, CLASSES[index]


def test_training_never_shows_a_held_out_pair_and_other_splits_do():
    def pairs(split):
        seen = set()
        for seed in range(400):
            names = [CLASSES[i] for i in render(seed, split=split, size=(32, 32), count=3).classes]
            seen |= {frozenset((a, b)) for a in names for b in names if a < b}
        return seen

    assert not pairs("train") & HELD_OUT_PAIRS
    assert pairs("test") & HELD_OUT_PAIRS


def test_tuning_and_test_scenes_differ():
    assert not np.array_equal(tuning_scene(0).image, test_scene(0).image)


@pytest.mark.parametrize("material", MATERIALS, ids=lambda m: m.name)
def test_materials_paint_float32_of_the_canvas_size_and_vary_with_the_seed(material):
    def paint(seed):
        return material.paint(
            Canvas.create(np.random.default_rng(seed), 48, 64, tilt=material.tilt, scale=1.0)
        )

    assert paint(0).shape == (48, 64, 3)
    assert paint(0).dtype == np.float32
    assert np.isfinite(paint(0)).all()
    assert np.array_equal(paint(0), paint(0))
    assert not np.array_equal(paint(0), paint(1))


def test_captions_name_every_material_and_use_templates():
    rng = np.random.default_rng(0)
    texts = [
        caption((0, 5, 11), rng, templates=[lambda c: f"TEMPLATE {c}."], synonyms=0.0) for _ in range(40)
    ]
    assert all(CLASSES[i] in text for i in (0, 5, 11) for text in texts)
    assert any(text.startswith("TEMPLATE") for text in texts)
    assert not all(text.startswith("TEMPLATE") for text in texts)


def test_synonyms_replace_names():
    rng = np.random.default_rng(0)
    assert any("lawn" in caption((0,), rng, synonyms=1.0) for _ in range(3))


@pytest.mark.parametrize(
    ("arguments", "message"), [({"seed": -1}, "seed"), ({"seed": 0, "count": 5}, "count")]
)
def test_arguments_out_of_range_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        render(**arguments)


def test_class_names_are_unique():
    assert len(set(CLASSES)) == len(CLASSES) == len(MATERIALS) == 24
