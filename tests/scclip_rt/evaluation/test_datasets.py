"""Readers on miniature trees in the documented layouts, and every complaint they make."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from scclip_rt.bundle.bundle import Bundle
from scclip_rt.demo.scenes import CLASSES, test_scene
from scclip_rt.errors import OptionError, ScclipError, VocabularyError
from scclip_rt.evaluation import BENCHMARKS, DATASETS, DatasetError, open_dataset, open_segmenter
from scclip_rt.evaluation.datasets import IGNORED, MaskRule

PUBLISHED = {  # short side, logit scale, probability threshold of B/16 and L/14, area threshold
    "voc21": (336, 50, 0.15, 0.2, 0.1),
    "voc20": (336, 40, 0, 0, 0),
    "context60": (336, 40, 0.15, 0.15, 0),
    "context59": (336, 40, 0, 0, 0),
    "coco-object": (336, 55, 0.35, 0.25, 0),
    "coco-stuff": (336, 40, 0, 0, 0),
    "cityscapes": (560, 40, 0, 0, 0),
    "ade20k": (336, 40, 0, 0, 0),
}
TREES = {
    "voc21": ("voc", False),
    "voc20": ("voc", True),
    "context60": ("context", False),
    "context59": ("context", True),
    "coco-object": ("coco_object", False),
    "coco-stuff": ("stuff", False),
    "cityscapes": ("cityscapes", False),
    "ade20k": ("ade", True),
}
SIZES = {
    "voc21": 21,
    "voc20": 20,
    "context60": 60,
    "context59": 59,
    "coco-object": 81,
    "coco-stuff": 171,
    "cityscapes": 19,
    "ade20k": 150,
}


def expected(values: np.ndarray, *, reduce_zero_label: bool) -> np.ndarray:
    """The truth by mmsegmentation's rule, pixel by pixel."""
    out = np.empty(values.shape, np.uint16)
    for place, value in np.ndenumerate(values):
        if value == 255 or (reduce_zero_label and value == 0):
            out[place] = IGNORED
        else:
            out[place] = value - reduce_zero_label
    return out


@pytest.mark.parametrize("name", TREES)
def test_a_benchmark_is_read_from_its_documented_layout(name: str, request: pytest.FixtureRequest) -> None:
    fixture, reduce_zero_label = TREES[name]
    tree = request.getfixturevalue(fixture)
    dataset = open_dataset(name, root=tree.data)
    assert {sample.name for sample in dataset.samples} == set(tree.masks)
    assert dataset.num_classes == SIZES[name]
    for sample in dataset.samples:
        truth = sample.truth()
        assert truth.dtype == np.uint16
        np.testing.assert_array_equal(
            truth, expected(tree.masks[sample.name], reduce_zero_label=reduce_zero_label)
        )
        assert Path(str(sample.image)).is_file()
        assert truth[truth != IGNORED].max() == dataset.num_classes - 1  # every tree has the last class


@pytest.mark.parametrize("name", TREES)
def test_the_root_may_be_any_level(name: str, request: pytest.FixtureRequest) -> None:
    tree = request.getfixturevalue(TREES[name][0])
    level = tree.base
    while True:
        dataset = open_dataset(name, root=level)
        assert len(dataset) == len(tree.masks)
        if level == tree.data:
            break
        level = level.parent


def test_a_split_keeps_its_order(voc) -> None:
    dataset = open_dataset("voc21", root=voc.data)
    assert [sample.name for sample in dataset.samples] == list(reversed(voc.masks))


def test_without_a_split_samples_are_sorted(cityscapes) -> None:
    names = [sample.name for sample in open_dataset("cityscapes", root=cityscapes.data).samples]
    assert names == sorted(cityscapes.masks)


@pytest.mark.parametrize("name", SIZES)
def test_class_lists_have_their_benchmarks_size(name: str) -> None:
    prompts = BENCHMARKS[name].prompts()
    assert len(prompts) == SIZES[name]


@pytest.mark.parametrize(("with_background", "without"), [("voc21", "voc20"), ("context60", "context59")])
def test_lists_with_and_without_background_agree(with_background: str, without: str) -> None:
    assert BENCHMARKS[with_background].prompts()[1:] == BENCHMARKS[without].prompts()


def test_coco_lists_agree_on_the_things() -> None:
    things = [names[0] for names in BENCHMARKS["coco-object"].prompts()[1:]]
    assert things == [names[0] for names in BENCHMARKS["coco-stuff"].prompts()[:80]]


def test_background_is_called_so_whatever_it_is_found_by(voc) -> None:
    dataset = open_dataset("voc21", root=voc.data)
    assert dataset.classes[0] == "background"
    assert dataset.background == dataset.prompts[0][0] == "sky"


@pytest.mark.parametrize("name", PUBLISHED)
@pytest.mark.parametrize("large", [False, True])
def test_presets_are_the_published_settings(name: str, large: bool, bundle_path: Path) -> None:
    from dataclasses import replace

    model = replace(Bundle.open(bundle_path).model, layers=24 if large else 12, width=1024 if large else 768)
    settings = BENCHMARKS[name].preset.settings(model)
    short_side, logit_scale, small_threshold, large_threshold, area = PUBLISHED[name]
    assert settings.short_side == short_side
    assert settings.logit_scale == logit_scale
    assert settings.prob_threshold == (large_threshold if large else small_threshold)
    assert settings.area_threshold == area


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_documented_settings_are_the_presets(name: str) -> None:
    text = (Path(__file__).parents[3] / "docs" / "evaluation.md").read_text("utf-8")
    row = next(line for line in text.splitlines() if line.startswith(f"| `{name}` |"))
    classes, _, side, scale, prob, area = [cell.strip() for cell in row.split("|")[2:-1]]
    preset = BENCHMARKS[name].preset
    assert (int(classes), int(side), float(scale)) == (SIZES[name], preset.short_side, preset.logit_scale)
    assert preset.prob_threshold == ((0, 0) if prob == "–" else tuple(map(float, prob.split(";"))))
    assert preset.area_threshold == (0 if area == "–" else float(area))


def test_a_segmenter_takes_the_preset_and_what_is_given_goes_first(bundle_path: Path, voc) -> None:
    dataset = open_dataset("voc21", root=voc.data)
    segmenter = open_segmenter(bundle_path, dataset, templates="none", logit_scale=7.0)
    assert segmenter.options.logit_scale == 7.0
    assert (segmenter.options.prob_threshold, segmenter.options.area_threshold) == (0.15, 0.1)
    assert segmenter.vocabulary.background == 0
    off = open_segmenter(bundle_path, dataset, templates="none", prob_threshold=0.0, area_threshold=0.0)
    assert (off.options.prob_threshold, off.options.area_threshold) == (0, 0)


def test_a_method_s_own_settings_of_a_benchmark_replace_those_of_sc_clip(bundle_path: Path, voc) -> None:
    from dataclasses import replace

    from scclip_rt.bundle.manifest import BenchmarkSpec

    opened = Bundle.open(bundle_path)
    own = {"voc21": BenchmarkSpec(logit_scale=65.0, prob_threshold=0.1, area_threshold=0.1)}
    bundle = replace(opened, manifest=replace(opened.manifest, format_version=2, benchmarks=own))
    with_own = open_segmenter(bundle, open_dataset("voc21", root=voc.data), templates="none").options
    assert (with_own.logit_scale, with_own.prob_threshold, with_own.area_threshold) == (65.0, 0.1, 0.1)
    given = open_segmenter(bundle, open_dataset("voc21", root=voc.data), templates="none", logit_scale=7.0)
    assert (given.options.logit_scale, given.options.prob_threshold) == (7.0, 0.1)
    # A benchmark that the method says nothing of: the bundle's numbers, not SC-CLIP's.
    other = open_segmenter(bundle, open_dataset("voc20", root=voc.data), templates="none")
    assert other.options.logit_scale == bundle.decoding.logit_scale
    assert other.preparation.short_side == bundle.preprocessing.short_side
    asked = open_segmenter(bundle, open_dataset("voc20", root=voc.data), templates="none", preset="voc21")
    assert asked.options.logit_scale == 65.0
    with pytest.raises(OptionError, match="in this bundle benchmarks voc21"):
        open_segmenter(bundle, open_dataset("voc20", root=voc.data), templates="none", preset="potsdam")


def test_maskclip_with_its_residual_has_the_settings_that_maskclip_has(bundle_path: Path, voc) -> None:
    """It is of format 2, and has no settings of its own either: both are there to compare with SC-CLIP."""
    from dataclasses import replace

    opened, dataset = Bundle.open(bundle_path), open_dataset("voc21", root=voc.data)
    plain, whole = (
        replace(
            opened,
            manifest=replace(
                opened.manifest, format_version=version, calibration={"method": "maskclip", **more}
            ),
        )
        for version, more in ((1, {}), (2, {"residual": True}))
    )
    wanted = open_segmenter(plain, dataset, templates="none").options
    assert wanted.logit_scale == 50
    assert open_segmenter(whole, dataset, templates="none").options == wanted


def test_other_names_for_the_classes(voc, tmp_path: Path) -> None:
    listing = tmp_path / "mine.txt"
    listing.write_text("background\n" + "".join(f"thing {i}, object {i}\n" for i in range(20)))
    dataset = open_dataset("voc21", root=voc.data, classes=listing)
    assert dataset.classes[1] == "thing 0"
    assert dataset.background == "background"
    listing.write_text("background\nthing\n")
    with pytest.raises(DatasetError, match=r"voc21 has 21 classes; .*mine\.txt has 2"):
        open_dataset("voc21", root=voc.data, classes=listing)


def names_of(name: str, root: Path, listing: Path) -> list[str]:
    return [sample.name for sample in open_dataset(name, root=root, names=listing).samples]


def test_lists_as_text_and_json(stuff, voc, tmp_path: Path) -> None:
    listing = tmp_path / "some.json"
    listing.write_text(json.dumps({"images": [{"file_name": "000000000285.jpg", "id": 285}]}))
    assert names_of("coco-stuff", stuff.data, listing) == ["000000000285"]
    listing.write_text('["000000000285", "000000000139.jpg"]')
    assert names_of("coco-stuff", stuff.data, listing) == ["000000000285", "000000000139"]
    text = tmp_path / "some.txt"
    text.write_text("2007_000042\n\n 2007_000033.JPG \r\n")
    assert names_of("voc20", voc.data, text) == ["2007_000042", "2007_000033"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not JSON"),
        ("{}", "JSON list of images is"),
        ('{"images": [{}]}', "JSON list of images is"),
        ("[1]", "JSON list of images is"),
        ("[]", "has no images"),
        ('["a", "a.jpg"]', "'a' is in this list twice"),
        ('["../a"]', "leads out of"),
        ('["/a"]', "leads out of"),
    ],
)
def test_unusable_lists(text: str, message: str, stuff, tmp_path: Path) -> None:
    listing = tmp_path / "some.json"
    listing.write_text(text)
    with pytest.raises(DatasetError, match=f"some.json: .*{message}"):
        open_dataset("coco-stuff", root=stuff.data, names=listing)


def test_a_missing_list_is_named(stuff, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"gone\.txt: can't read this list of images: No such file"):
        open_dataset("coco-stuff", root=stuff.data, names=tmp_path / "gone.txt")


@pytest.mark.parametrize(
    ("name", "remove", "message"),
    [
        ("voc21", "JPEGImages/2007_000042.jpg", "2007_000042.jpg: no such image of PASCAL VOC 2012"),
        ("voc21", "SegmentationClass/2007_000042.png", "2007_000042.png: no such mask of PASCAL VOC 2012"),
        ("voc20", "ImageSets/Segmentation/val.txt", "ImageSets/Segmentation/val.txt is missing"),
        ("context60", "ImageSets/SegmentationContext/val.txt", "pascal_context.py makes"),
        ("coco-stuff", "annotations/val2017/000000000139_labelTrainIds.png", "coco_stuff164k.py makes"),
        (
            "coco-object",
            "annotations/val2017/000000000139_instanceTrainIds.png",
            "scclip convert-coco-object",
        ),
        (
            "cityscapes",
            "gtFine/val/lindau/lindau_000000_000019_gtFine_labelTrainIds.png",
            "csCreateTrainIdLabelImgs",
        ),
        ("ade20k", "annotations/validation/ADE_val_00000002.png", "ADE_val_00000002.png: no such mask"),
    ],
)
def test_a_missing_file_is_named(
    name: str, remove: str, message: str, request: pytest.FixtureRequest
) -> None:
    tree = request.getfixturevalue(TREES[name][0])
    (tree.base / remove).unlink()
    with pytest.raises(DatasetError, match=re.escape(message)) as caught:
        open_dataset(name, root=tree.data)
    assert Path(remove).name in str(caught.value)


def test_how_many_files_are_missing(ade) -> None:
    for path in (ade.base / "annotations" / "validation").iterdir():
        path.unlink()
    with pytest.raises(DatasetError, match="and 1 more: no such mask of ADE20K"):
        open_dataset("ade20k", root=ade.data)


def test_a_dataset_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="nowhere: no such folder; --root names"):
        open_dataset("voc21", root=tmp_path / "nowhere")
    with pytest.raises(DatasetError, match=r"no Cityscapes in .*leftImg8bit/val is missing \(looked in"):
        open_dataset("cityscapes", root=tmp_path)


def test_a_dataset_without_images(tmp_path: Path) -> None:
    for folder in ("images/validation", "annotations/validation"):
        (tmp_path / folder).mkdir(parents=True)
    with pytest.raises(DatasetError, match=r"images/validation: no images of ADE20K"):
        open_dataset("ade20k", root=tmp_path)


def test_an_empty_split(voc) -> None:
    (voc.base / "ImageSets" / "Segmentation" / "val.txt").write_text("\n")
    with pytest.raises(DatasetError, match=r"val\.txt: this list has no images"):
        open_dataset("voc21", root=voc.data)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("voc12", {}, "unknown dataset 'voc12'; did you mean voc21; known: voc21, voc20"),
        ("ade20k", {}, "needs --root: the folder that ADE20K is in"),
        ("demo", {"root": Path()}, "demo takes no --root"),
        ("voc21", {"root": Path(), "masks": Path()}, "voc21 takes no --masks"),
        ("voc21", {"root": Path(), "background": "sky"}, "voc21 takes no --background"),
        ("folder", {"images": Path()}, "needs --images DIR, --masks DIR and --classes FILE"),
    ],
)
def test_options_that_do_not_fit(name: str, options: dict[str, object], message: str) -> None:
    with pytest.raises(OptionError, match=re.escape(message)):
        open_dataset(name, **options)  # type: ignore[arg-type]


def test_every_dataset_is_known_by_its_name() -> None:
    assert set(DATASETS) == {*SIZES, "demo", "folder"}


def test_own_folders(own) -> None:
    dataset = open_dataset(
        "folder", images=own.base / "images", masks=own.base / "masks", classes=own.base / "classes.txt"
    )
    assert [sample.name for sample in dataset.samples] == ["a", "b", "c", "d", "sub/e"]
    assert dataset.classes == ("red", "green", "blue")
    for sample in dataset.samples:
        np.testing.assert_array_equal(
            sample.truth(), expected(own.masks[sample.name], reduce_zero_label=False)
        )


def test_own_folders_with_other_conventions(own) -> None:
    (own.base / "classes.txt").write_text("one\ntwo\n")
    dataset = open_dataset(
        "folder",
        images=own.base / "images",
        masks=own.base / "masks",
        classes=own.base / "classes.txt",
        reduce_zero_label=True,
        ignore=255,
    )
    np.testing.assert_array_equal(
        dataset.samples[0].truth(), expected(own.masks["a"], reduce_zero_label=True)
    )


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda base: (base / "masks" / "c.png").unlink(),
            r"masks/c\.png: no such mask, and .*c\.png needs one",
        ),
        (
            lambda base: (base / "images").rename(base / "x"),
            r"images: no such folder; --images names a folder",
        ),
        (
            lambda base: Image.new("RGB", (4, 4)).save(base / "images" / "a.jpg"),
            r"a\.jpg and .*a\.png have one name",
        ),
    ],
)
def test_own_folders_with_holes(damage, message: str, own) -> None:
    damage(own.base)
    with pytest.raises(DatasetError, match=message):
        open_dataset(
            "folder",
            images=own.base / "images",
            masks=own.base / "masks",
            classes=own.base / "classes.txt",
        )


def test_own_folder_without_images(own, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DatasetError, match="empty: no images in this folder"):
        open_dataset("folder", images=tmp_path / "empty", masks=own.base / "masks", classes="a; b")


def test_own_list_of_images(own, tmp_path: Path) -> None:
    listing = tmp_path / "some.txt"
    for folder in ("images", "masks"):
        (own.base / folder / "b.png").rename(own.base / folder / "my b.png")
    listing.write_text("sub/e\nmy b.png\n")
    options = {"images": own.base / "images", "masks": own.base / "masks", "classes": "a; b; c"}
    dataset = open_dataset("folder", names=listing, **options)  # type: ignore[arg-type]
    assert [sample.name for sample in dataset.samples] == ["sub/e", "my b"]
    listing.write_text("nobody\n")
    with pytest.raises(DatasetError, match=r"images/nobody: no such image, but .*some\.txt lists it"):
        open_dataset("folder", names=listing, **options)  # type: ignore[arg-type]


def test_a_missing_class_list(own) -> None:
    with pytest.raises(VocabularyError, match=r"gone\.txt"):
        open_dataset(
            "folder",
            images=own.base / "images",
            masks=own.base / "masks",
            classes=own.base / "gone.txt",
        )


def test_demo_scenes() -> None:
    dataset = open_dataset("demo")
    assert dataset.classes == CLASSES
    sample = dataset.samples[3]
    np.testing.assert_array_equal(sample.truth(), test_scene(3).mask)
    np.testing.assert_array_equal(sample.image, test_scene(3).image)
    assert [item.name for item in dataset.samples[1:3]] == ["scene-001", "scene-002"]
    with pytest.raises(IndexError):
        dataset.samples[len(dataset)]
    with pytest.raises(DatasetError, match="demo scenes have 24 classes; the list has 2"):
        open_dataset("demo", classes="a; b")


# --- masks ---


@pytest.fixture
def mask_file(tmp_path: Path) -> Path:
    return tmp_path / "mask.png"


@pytest.mark.parametrize(
    ("values", "rule", "message"),
    [
        (
            [[0, 7]],
            {},
            r"mask\.png: label 7 is out of range: 3 classes take 0 to 2, and 255 is ignored \(1 pixels\)",
        ),
        (
            [[4, 4]],
            {"reduce_zero_label": True},
            r"label 4 .* take 1 to 3, and 0 and 255 are ignored \(2 pixels\)",
        ),
        ([[255, 0]], {"ignore": 9}, r"label 255 .* and 9 is ignored"),
    ],
)
def test_a_label_out_of_range_is_named(
    values: list[list[int]], rule: dict[str, int], message: str, mask_file: Path
) -> None:
    Image.fromarray(np.array(values, np.uint8)).save(mask_file)
    with pytest.raises(DatasetError, match=message):
        MaskRule(num_classes=3, **rule).read(mask_file)  # type: ignore[arg-type]


def test_masks_of_16_bits(mask_file: Path) -> None:
    values = np.array([[0, 299, 65535]], np.uint16)
    Image.fromarray(values).save(mask_file)
    truth = MaskRule(num_classes=300, ignore=65535).read(mask_file)
    np.testing.assert_array_equal(truth, [[0, 299, IGNORED]])


def test_masks_of_two_values(mask_file: Path) -> None:
    Image.fromarray(np.array([[False, True]])).save(mask_file)
    np.testing.assert_array_equal(MaskRule(num_classes=2).read(mask_file), [[0, 1]])


def test_a_coloured_mask_is_refused(mask_file: Path) -> None:
    Image.new("RGB", (4, 4)).save(mask_file)
    with pytest.raises(DatasetError, match=r"mask\.png: a mask has one channel .* this image is RGB"):
        MaskRule(num_classes=2).read(mask_file)


def test_missing_and_damaged_masks(mask_file: Path) -> None:
    with pytest.raises(DatasetError, match=r"mask\.png: there is no such mask"):
        MaskRule(num_classes=2).read(mask_file)
    mask_file.write_bytes(b"not an image")
    with pytest.raises(DatasetError, match=r"mask\.png: can't read this mask"):
        MaskRule(num_classes=2).read(mask_file)
    Image.fromarray(np.zeros((50, 50), np.uint8)).save(mask_file)
    mask_file.write_bytes(mask_file.read_bytes()[:60])
    with pytest.raises(DatasetError, match=r"mask\.png: can't read this mask"):
        MaskRule(num_classes=2).read(mask_file)


def test_a_mask_of_another_size_names_both(voc) -> None:
    sample = open_dataset("voc21", root=voc.data).samples[0]
    with pytest.raises(DatasetError, match=r"2011_003271\.jpg is 80×60 and the image 81×60"):
        sample.truth_for((60, 81))
    with pytest.raises(DatasetError, match="EXIF"):
        sample.truth_for((80, 60))


def test_dataset_errors_are_the_runtimes_errors() -> None:
    assert issubclass(DatasetError, ScclipError)
