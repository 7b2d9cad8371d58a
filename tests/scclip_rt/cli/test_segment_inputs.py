"""`scclip segment` with other formats, videos, cameras and rasters."""

import json

import av
import numpy as np
import pytest
import rasterio
from PIL import Image

from scclip_rt import Segmenter, cli
from scclip_rt.video import read_frames, read_masks

CLASSES = ["grass", "wood", "brick"]
OPTIONS = ("--classes", "; ".join(CLASSES), "--short-side", "224")


def scclip(*arguments):
    return cli.run([str(argument) for argument in arguments])


def segment(*arguments):
    return scclip("segment", "demo", *arguments, *OPTIONS)


def picture(width=224):
    patches = np.random.default_rng(2).integers(0, 256, (8, width // 28, 3))
    return patches.repeat(28, axis=0).repeat(28, axis=1).astype(np.uint8)


@pytest.fixture(scope="module")
def segmenter():
    return Segmenter("demo", classes=CLASSES, short_side=224)


@pytest.fixture
def photos(tmp_path):
    """Two images in a folder and one below it."""
    for name in ("b.png", "a.png", "more/c.png"):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture()).save(path)
    return tmp_path / "photos"


@pytest.fixture
def film(tmp_path):
    """Four frames; the second is the first again."""
    path = tmp_path / "film.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = 224, 224, "bgr0"
        for number in range(4):
            image = np.roll(picture(), 28 * (number // 2), axis=1)
            container.mux(
                stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24").reformat(format="bgr0"))
            )
        container.mux(stream.encode(None))
    return path


def test_a_folder_becomes_one_coco_file_in_order(photos, tmp_path, capsys):
    out = tmp_path / "out"
    assert segment(photos, "--output", out, "--format", "coco", "--json", tmp_path / "r.json") == 0
    assert [path.name for path in out.iterdir()] == ["coco.json"]
    data = json.loads((out / "coco.json").read_text())
    assert [image["file_name"] for image in data["images"]] == ["a.png", "b.png", "more/c.png"]
    assert [category["name"] for category in data["categories"]] == CLASSES
    rows = json.loads((tmp_path / "r.json").read_text())["images"]
    assert {row["labels"] for row in rows} == {str(out / "coco.json")}
    assert "Segmented 3 images" in capsys.readouterr().out
    assert segment(photos, "--output", out, "--format", "coco") == 2
    assert "--force" in capsys.readouterr().err


def test_an_image_that_fails_is_left_out_of_the_file(photos, tmp_path):
    (photos / "b.png").write_bytes(b"no image")
    options = ("--output", tmp_path, "--format", "coco")
    assert segment(photos, *options, "--fail-fast") == 2
    assert not (tmp_path / "coco.json").exists()
    assert segment(photos, *options) == 2
    assert len(json.loads((tmp_path / "coco.json").read_text())["images"]) == 2


def test_folders_are_kept_and_files_point_to_their_images(photos, tmp_path):
    out = tmp_path / "out"
    assert segment(photos, "--output", out, "--format", "labelme") == 0
    for name in ("a", "more/c"):
        file = out / f"{name}.json"
        assert (file.parent / json.loads(file.read_text())["imagePath"]).resolve() == photos / f"{name}.png"
    assert segment(photos, "--output", out, "--format", "yolo-seg") == 0
    assert (out / "labels" / "more" / "c.txt").exists()


def test_confidence_goes_with_formats_that_hold_it(photos, tmp_path, capsys):
    assert segment(photos / "a.png", "--output", tmp_path, "--format", "npz", "--confidence") == 0
    assert np.load(tmp_path / "a.labels.npz")["confidence"].dtype == np.float32
    assert segment(photos, "--output", tmp_path / "out", "--format", "cvat", "--confidence") == 2
    assert "--format png or npz" in capsys.readouterr().err


def test_a_film_becomes_a_video_of_labels_and_one_of_overlays(segmenter, film, tmp_path):
    masks, overlay, report = tmp_path / "film.masks.mkv", tmp_path / "show.mp4", tmp_path / "r.json"
    assert segment(film, "--output", masks, "--overlay", overlay, "--json", report) == 0
    frames = list(read_frames(film))
    for mask, frame in zip(read_masks(masks), frames, strict=True):
        assert mask.classes == tuple(CLASSES)
        np.testing.assert_array_equal(mask.labels, segmenter(frame.image).labels)
    assert len(list(read_frames(overlay))) == 4
    (row,) = json.loads(report.read_text())["images"]
    assert (row["frames"], row["windows"]) == (4, {"encoded": 2, "kept": 2})


def test_a_film_becomes_files_in_a_folder(film, tmp_path):
    out = tmp_path / "out"
    assert segment(film, "--output", out, "--every", 3) == 0
    assert sorted(path.name for path in out.iterdir()) == ["film.000000.labels.png", "film.000003.labels.png"]
    assert segment(film, "--output", out, "--every", 3, "--format", "coco") == 0
    names = [image["file_name"] for image in json.loads((out / "coco.json").read_text())["images"]]
    assert names == ["film.000000.png", "film.000003.png"]


def test_a_live_source_stops_after_so_many_frames(film, tmp_path):
    masks = tmp_path / "live.mkv"
    assert segment(film, "--camera", "--frames", 1, "--output", masks) == 0
    assert len(list(read_masks(masks))) == 1


def test_ctrl_c_ends_a_camera_and_keeps_what_was_written(film, tmp_path, monkeypatch):
    from scclip_rt.video.reuse import FrameSegmenter

    calls = []

    def interrupted(self, image, **options):
        calls.append(image)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return original(self, image, **options)

    original = FrameSegmenter.__call__
    monkeypatch.setattr(FrameSegmenter, "__call__", interrupted)
    monkeypatch.setattr("scclip_rt.video.LatestFrames.__next__", lambda _: next(frames))
    frames = iter(list(read_frames(film)))
    assert segment(film, "--camera", "--output", tmp_path / "live.mkv") == 0
    assert len(list(read_masks(tmp_path / "live.mkv"))) == 1
    calls.clear()
    assert segment(film, "--output", tmp_path / "film.masks.mkv") == 130
    assert not (tmp_path / "film.masks.mkv").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("film.mkv", "other.mp4"), "one video at a time"),
        (("film.mkv", "--skip-existing"), "--skip-existing is for images"),
        (("film.mkv", "--confidence"), "goes with --format npz"),
        (("big.tif", "--bands", "1,2,3", "--skip-existing"), "--skip-existing is for images"),
        (("film.mkv", "--reuse", "300"), "--reuse is exact, off or a number"),
        (("film.mkv", "--overlay", "show.avi"), "--overlay writes .mkv or .mp4"),
        (("film.mkv", "--output", "masks.mkv", "--format", "coco"), "a video of labels has no --format"),
        (("99", "--camera"), "can't read video from /dev/video99"),
        (("big.tif", "--bands", "1,2"), "--bands takes 3 numbers"),
        (("big.tif", "--range", "a,b"), "--range takes 2 numbers"),
        (("big.tif", "--min-area", "3"), "--polygons FILE, which is missing"),
        (("big.tif", "--resolution", "1", "--area-threshold", "0.1"), "leave out --area-threshold"),
        (("big.tif", "--polygons", "out.shp"), ".gpkg or .geojson"),
        (("big.tif", "small.tif", "--polygons", "out.gpkg"), "one raster at a time"),
        (("big.tif", "--resolution", "1", "--format", "coco"), "leave out --format"),
        (("big.tif", "--resolution", "1"), "big.tif: no such file"),
    ],
)
def test_what_does_not_go_together_is_said_in_one_line(options, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert segment("--output", "out", *options) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("scclip: error: ")
    assert message in error


def test_a_georeferenced_tiff_is_a_raster_and_another_an_image(segmenter, tmp_path):
    image = picture(280)
    plain, placed = tmp_path / "plain.tif", tmp_path / "placed.tif"
    Image.fromarray(image).save(plain)
    profile = {
        "driver": "GTiff",
        "height": 224,
        "width": 280,
        "count": 3,
        "dtype": "uint8",
        "crs": "EPSG:32633",
    }
    with rasterio.open(placed, "w", transform=rasterio.Affine(1, 0, 4e5, 0, -1, 5e6), **profile) as dataset:
        dataset.write(image.transpose(2, 0, 1))
    out, polygons = tmp_path / "out", tmp_path / "out" / "placed.gpkg"
    assert segment(plain, "--output", out) == 0
    assert (out / "plain.labels.png").exists()
    report = tmp_path / "r.json"
    assert segment(placed, "--output", out, "--polygons", polygons, "--json", report) == 0
    with rasterio.open(out / "placed.labels.tif") as dataset:
        np.testing.assert_array_equal(dataset.read(1), segmenter(image).labels)
    assert polygons.exists()
    (row,) = json.loads(report.read_text())["images"]
    assert sum(row["shares"].values()) == pytest.approx(1, abs=1e-4)
    # Asked for by an option, any image is a raster.
    assert segment(plain, "--output", out, "--bands", "3,2,1") == 0
    assert (out / "plain.labels.tif").exists()
