"""Rasters: tiles without seams, place kept, masks respected, runs resumed, polygons as the labels."""

import json
import shutil
import subprocess
from xml.etree import ElementTree as ET

import numpy as np
import pytest
import rasterio
import shapely
from pyogrio.raw import read as read_vectors
from rasterio.enums import ColorInterp, Resampling

from scclip_rt import Segmenter
from scclip_rt.errors import ImageError, OptionError, OutputError
from scclip_rt.raster import PolygonOptions, RasterOptions, segment_raster
from scclip_rt.raster.source import open_raster

HEIGHT, WIDTH = 300, 420
CLASSES = ["grass & moss", "wood", "brick", "sand"]
PLACE = rasterio.Affine(0.5, 0, 400_000, 0, -0.5, 5_500_000)
UTM = "EPSG:32633"


def picture():
    """Patches of 30 pixels: several classes, and borders everywhere."""
    rng = np.random.default_rng(5)
    patches = rng.integers(0, 256, (HEIGHT // 30, WIDTH // 30, 3))
    return patches.repeat(30, axis=0).repeat(30, axis=1).astype(np.uint8)


def write_raster(path, bands, **more):
    """(bands, H, W) as a tiled GeoTIFF in UTM."""
    profile = {
        "driver": "GTiff", "count": len(bands), "height": bands.shape[1], "width": bands.shape[2], "dtype": bands.dtype,
        "crs": UTM, "transform": PLACE, "tiled": True, "blockxsize": 128, "blockysize": 128,
    }  # fmt: skip
    with rasterio.open(path, "w", **profile | more) as dataset:
        dataset.write(bands)
    return path


@pytest.fixture(scope="module")
def segment():
    return Segmenter("demo", classes=CLASSES, short_side=HEIGHT)


@pytest.fixture(scope="module")
def raster(tmp_path_factory):
    return write_raster(tmp_path_factory.mktemp("raster") / "big.tif", picture().transpose(2, 0, 1))


@pytest.fixture(scope="module")
def done(segment, raster, tmp_path_factory):
    """One run in tiles that cut through windows, with polygons."""
    folder = tmp_path_factory.mktemp("out")
    polygons = PolygonOptions(path=folder / "big.gpkg")
    options = RasterOptions(tile=130)
    result = segment_raster(segment, raster, folder / "big.labels.tif", options=options, polygons=polygons)
    return result, labels_of(result.labels)


def labels_of(path):
    with rasterio.open(path) as dataset:
        return dataset.read(1)


def test_tiles_have_the_labels_of_one_run_over_the_whole(segment, done):
    result, labels = done
    assert (result.height, result.width, result.tiles) == (HEIGHT, WIDTH, 12)
    np.testing.assert_array_equal(labels, segment(picture()).labels)


def test_every_window_is_encoded_once(segment, done):
    result, _ = done
    assert result.encoded == len(segment.preparation(picture()).windows)


def test_shares_are_those_of_the_labels(segment, done):
    assert done[0].shares == pytest.approx(segment(picture()).shares())


def test_the_output_is_a_cog_with_place_classes_and_colours(done):
    with rasterio.open(done[0].labels) as dataset:
        assert dataset.crs.to_string() == UTM
        assert dataset.transform == PLACE
        assert (dataset.count, dataset.dtypes[0], dataset.nodata) == (1, "uint8", 255)
        assert dataset.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
        assert dataset.colorinterp[0] is ColorInterp.palette
        assert len({dataset.colormap(1)[label] for label in range(4)}) == 4
        assert dataset.colormap(1)[255][3] == 0
        assert json.loads(dataset.tags(1)["CLASSES"]) == CLASSES


def test_the_categories_lie_where_gdal_looks(done):
    document = ET.parse(f"{done[0].labels}.aux.xml")
    assert [
        node.text for node in document.iterfind("PAMRasterBand[@band='1']/CategoryNames/Category")
    ] == CLASSES


@pytest.mark.skipif(shutil.which("gdalinfo") is None, reason="gdalinfo is not installed (Debian: gdal-bin)")
def test_gdal_finds_the_categories(done):
    report = subprocess.run(["gdalinfo", done[0].labels], capture_output=True, text=True, check=True).stdout
    for label, name in enumerate(CLASSES):
        assert f"{label}: {name}" in report


def test_large_outputs_have_overviews(segment, tmp_path):
    source = write_raster(tmp_path / "wide.tif", np.zeros((3, 300, 1400), np.uint8), nodata=0)
    result = segment_raster(segment, source, tmp_path / "out.tif")
    with rasterio.open(result.labels) as dataset:
        assert dataset.overviews(1)


def vectors(path):
    meta, _, shapes, values = read_vectors(path)
    return meta, shapely.from_wkb(shapes), dict(zip(meta["fields"], values, strict=True))


def painted(shapes, fields, shape):
    """The labels at the middles of pixels, from polygons in the raster's CRS."""
    rows, columns = np.mgrid[: shape[0], : shape[1]] + 0.5
    x, y = PLACE.c + columns * PLACE.a, PLACE.f + rows * PLACE.e
    out = np.full(shape, 255)
    for polygon, label in zip(shapes, fields["label"], strict=True):
        inside = shapely.contains_xy(polygon, x, y)
        assert (out[inside] == 255).all(), "two polygons overlap"
        out[inside] = label
    return out


def test_polygons_are_the_labels_merged_over_seams(done):
    from skimage.measure import label as components

    meta, shapes, fields = vectors(done[0].polygons)
    assert "32633" in meta["crs"]
    assert shapely.is_valid(shapes).all()
    np.testing.assert_array_equal(painted(shapes, fields, done[1].shape), done[1])
    assert len(shapes) == components(done[1], connectivity=1, background=-1).max()
    np.testing.assert_allclose(fields["area"], shapely.area(shapes))
    assert [CLASSES[label] for label in fields["label"]] == list(fields["class"])


def test_simplified_polygons_leave_no_gaps_and_small_ones_go(segment, raster, done, tmp_path):
    options = PolygonOptions(path=tmp_path / "simple.gpkg", simplify=2)
    segment_raster(
        segment, raster, tmp_path / "simple.tif", options=RasterOptions(tile=130), polygons=options
    )
    _, shapes, fields = vectors(options.path)
    _, exact, _ = vectors(done[0].polygons)
    assert shapely.get_num_coordinates(shapes).sum() < 0.5 * shapely.get_num_coordinates(exact).sum()
    assert shapely.area(shapely.union_all(shapes)) == pytest.approx(HEIGHT * WIDTH / 4)
    assert shapely.area(shapes).sum() == pytest.approx(HEIGHT * WIDTH / 4)
    assert (painted(shapes, fields, done[1].shape) == done[1]).mean() > 0.95

    options = PolygonOptions(path=tmp_path / "large.gpkg", min_area=100)
    segment_raster(segment, raster, tmp_path / "large.tif", polygons=options)
    _, shapes, fields = vectors(options.path)
    assert 0 < len(shapes) < len(exact)
    assert min(fields["area"]) >= 100
    assert all(shapely.area(shapely.Polygon(hole)) >= 100 for shape in shapes for hole in shape.interiors)


def test_geojson_is_in_degrees(segment, raster, tmp_path):
    options = PolygonOptions(path=tmp_path / "big.geojson", min_area=50)
    segment_raster(segment, raster, tmp_path / "big.tif", polygons=options)
    data = json.loads(options.path.read_text())
    assert "crs" not in data
    longitude, latitude = data["features"][0]["geometry"]["coordinates"][0][0]
    assert (round(longitude), round(latitude)) == (14, 50)


def test_pixels_without_data_are_unlabelled_and_change_no_others(segment, tmp_path):
    image = picture()
    alpha = np.full((HEIGHT, WIDTH), 255, np.uint8)
    alpha[:, :150] = 0
    bands = np.concatenate([image.transpose(2, 0, 1), alpha[None]])
    hidden = bands.copy()
    hidden[:3, :, :150] = 99  # what lies under the mask must not matter
    results = []
    for name, content in (("one", bands), ("two", hidden)):
        source = write_raster(tmp_path / f"{name}.tif", content, photometric="RGB", alpha="YES")
        result = segment_raster(segment, source, tmp_path / f"{name}.labels.tif")
        results.append(labels_of(result.labels))
    np.testing.assert_array_equal(*results)
    assert (results[0][:, :150] == 255).all()
    assert (results[0][:, 150:] != 255).all()
    # The last windows, which alone reach beyond column 336, hold nothing but data and are as ever.
    np.testing.assert_array_equal(results[0][:, 336:], segment(image).labels[:, 336:])


def test_a_nodata_value_is_respected(segment, tmp_path):
    bands = np.maximum(picture().transpose(2, 0, 1), 1)
    bands[:, 40:70, 40:90] = 0
    result = segment_raster(segment, write_raster(tmp_path / "a.tif", bands, nodata=0), tmp_path / "b.tif")
    assert (labels_of(result.labels) == 255).sum() == 30 * 50


def test_an_empty_raster_is_encoded_nowhere(segment, tmp_path):
    source = write_raster(tmp_path / "a.tif", np.zeros((3, 300, 300), np.uint8), nodata=0)
    result = segment_raster(segment, source, tmp_path / "b.tif")
    assert (result.encoded, result.shares) == (0, {})


def rgb(path, **options):
    with open_raster(path, RasterOptions(**options)) as source:
        return source.read(0, 0, source.grid.height, source.grid.width)


def test_bands_are_chosen_and_named_ones_found(tmp_path):
    image = picture().transpose(2, 0, 1)
    path = write_raster(tmp_path / "four.tif", np.concatenate([image, image[:1] // 2]))
    np.testing.assert_array_equal(
        rgb(path, bands=(4, 2, 1))[0], np.stack([image[0] // 2, image[1], image[0]], axis=2)
    )
    with rasterio.open(path, "r+") as dataset:
        dataset.colorinterp = [ColorInterp.blue, ColorInterp.green, ColorInterp.red, ColorInterp.undefined]
    np.testing.assert_array_equal(rgb(path)[0], image[::-1].transpose(1, 2, 0))
    with pytest.raises(OptionError, match="has 4 bands; --bands asks for band 5"):
        rgb(path, bands=(1, 2, 5))


def test_sixteen_bits_are_scaled_by_range_or_percentiles(tmp_path):
    rng = np.random.default_rng(0)
    bands = rng.integers(500, 1500, (3, 260, 300)).astype(np.uint16)
    bands[:, :20] = 0
    path = write_raster(tmp_path / "deep.tif", bands, nodata=0)
    wanted = np.clip((bands - 600.0) / 800 * 255, 0, 255)
    pixels, valid = rgb(path, value_range=(600, 1400))
    assert not valid[:20].any()
    assert valid[20:].all()
    assert np.abs(pixels[20:].transpose(2, 0, 1) - wanted[:, 20:]).max() <= 0.51
    pixels, _ = rgb(path, percentiles=(10, 90))
    black, white = (pixels[20:] == 0).mean(), (pixels[20:] == 255).mean()
    assert (round(black, 2), round(white, 2)) == (0.1, 0.1)


def test_what_is_no_number_is_no_data(tmp_path):
    bands = np.random.default_rng(0).random((1, 260, 300)).astype(np.float32)
    bands[0, 5, 7] = np.nan
    pixels, valid = rgb(write_raster(tmp_path / "f.tif", bands))
    assert (~valid).sum() == 1
    assert (pixels[..., 0] == pixels[..., 2]).all()


def test_palettes_become_colours(tmp_path):
    path = tmp_path / "map.tif"
    write_raster(path, (np.arange(260 * 300) % 3).reshape(1, 260, 300).astype(np.uint8))
    with rasterio.open(path, "r+") as dataset:
        dataset.write_colormap(1, {0: (1, 2, 3), 1: (40, 50, 60), 2: (200, 210, 220)})
    np.testing.assert_array_equal(rgb(path)[0][0, :3], [[1, 2, 3], [40, 50, 60], [200, 210, 220]])


def test_a_coarser_resolution_averages_and_keeps_the_place(segment, raster, tmp_path):
    with open_raster(raster, RasterOptions(resolution=0.6)) as source:
        whole, _ = source.read(0, 0, 250, 350)
        part, _ = source.read(100, 130, 80, 90)
        np.testing.assert_array_equal(part, whole[100:180, 130:220])
    result = segment_raster(
        segment, raster, tmp_path / "coarse.tif", options=RasterOptions(resolution=0.6, tile=100)
    )
    with rasterio.open(result.labels) as dataset:
        assert (dataset.height, dataset.width) == (250, 350)
        np.testing.assert_allclose(dataset.bounds, (400_000, 5_500_000 - 150, 400_000 + 210, 5_500_000))
    coarse = Segmenter("demo", classes=CLASSES, short_side=250)
    np.testing.assert_array_equal(labels_of(result.labels), coarse(whole).labels)


def test_overviews_are_read_where_they_are_fine_enough(tmp_path):
    path = write_raster(tmp_path / "o.tif", picture().transpose(2, 0, 1))
    with rasterio.open(path, "r+") as dataset:
        dataset.build_overviews([2, 4], Resampling.average)
    overview, finer = rgb(path, resolution=2)[0], rgb(path, resolution=0.6)[0]
    with rasterio.open(path, "r+") as dataset:  # the overviews stay as they are
        dataset.write(np.zeros((3, HEIGHT, WIDTH), np.uint8))
    np.testing.assert_array_equal(rgb(path, resolution=2)[0], overview)
    assert overview.any()
    assert finer.any()
    assert not rgb(path, resolution=0.6)[0].any()


def test_a_mask_beside_the_bands_survives_a_coarser_resolution(tmp_path):
    path = write_raster(tmp_path / "m.tif", picture().transpose(2, 0, 1))
    with rasterio.open(path, "r+") as dataset:
        mask = np.full((HEIGHT, WIDTH), 255, np.uint8)
        mask[:, :210] = 0
        dataset.write_mask(mask)
    _, valid = rgb(path, resolution=1)
    assert not valid[:, :105].any()
    assert valid[:, 105:].all()


def test_a_stopped_run_goes_on(segment, raster, done, tmp_path):
    target, options = tmp_path / "big.labels.tif", RasterOptions(tile=130)

    def stop(finished, total):
        if finished == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        segment_raster(segment, raster, target, options=options, progress=stop)
    assert not target.exists()
    with pytest.raises(OutputError, match="another bundle, classes, raster or options"):
        segment_raster(segment, raster, target, options=RasterOptions(tile=131))
    result = segment_raster(segment, raster, target, options=options)
    assert result.resumed == 5
    np.testing.assert_array_equal(labels_of(target), done[1])
    assert {path.name for path in tmp_path.iterdir()} == {"big.labels.tif", "big.labels.tif.aux.xml"}
    with pytest.raises(OutputError, match="--force"):
        segment_raster(segment, raster, target, options=options)


def test_what_does_not_fit_is_said(segment, raster, tmp_path):
    small = write_raster(tmp_path / "small.tif", np.zeros((3, 100, 300), np.uint8))
    with pytest.raises(ImageError, match=r"300×100 pixels .* one window of 224"):
        segment_raster(segment, small, tmp_path / "out.tif")
    nowhere = write_raster(tmp_path / "n.tif", np.zeros((3, 300, 300), np.uint8), crs=None)
    with pytest.raises(OptionError, match="no CRS"):
        segment_raster(segment, nowhere, tmp_path / "out.tif", options=RasterOptions(resolution=2))
    (tmp_path / "text.tif").write_text("no raster")
    with pytest.raises(ImageError, match=r"can't read .*text\.tif as a raster"):
        segment_raster(segment, tmp_path / "text.tif", tmp_path / "out.tif")
    refined = Segmenter("demo", classes=CLASSES, refine="pamr")
    with pytest.raises(OptionError, match="refinement"):
        segment_raster(refined, raster, tmp_path / "out.tif")


@pytest.mark.parametrize(
    "wrong",
    [
        {"bands": (0, 1, 2)},
        {"value_range": (5, 5)},
        {"percentiles": (2, 102)},
        {"resolution": 0.0},
        {"tile": 0},
    ],
)
def test_options_check_themselves(wrong):
    with pytest.raises(OptionError, match=next(iter(wrong))):
        RasterOptions(**wrong)


def test_polygons_go_to_known_files(tmp_path):
    with pytest.raises(OptionError, match=r"\.gpkg or \.geojson"):
        PolygonOptions(path=tmp_path / "a.shp")
