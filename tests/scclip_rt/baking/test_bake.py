"""A baked file gives the segmenter's labels, in every runtime at hand."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

from scclip_rt import Segmenter
from scclip_rt.baking.bake import bake
from scclip_rt.baking.options import BakeOptions
from scclip_rt.baking.parity import as_input
from scclip_rt.errors import OptionError, OutputError
from scclip_rt.image.geometry import resize
from scclip_rt.image.load import load_image
from tiny_bundle import EMBED, blocks_image, build_bundle, edit_manifest, relist

SCENE = Path(__file__).parents[3] / "scclip_rt/demo/scene.png"
CLASSES = ["sky", "grass, lawn, meadow", "dog", "background"]
Array = NDArray[Any]
Bake = Callable[..., Path]


class GatherElements(OpRun):
    """onnx's own reference fails above 63 entries (findings/onnx_reference_gather_elements.sh)."""

    op_domain = ""

    def _run(self, data: Array, indices: Array, axis: int = 0) -> tuple[Array]:
        return (np.take_along_axis(data, indices, axis=axis),)


@pytest.fixture(scope="module")
def demo() -> Segmenter:
    return Segmenter("demo", backend="onnxruntime", precision="fp32", threads=1)


@pytest.fixture
def tiny(bundle_path: Path) -> Segmenter:
    return Segmenter(bundle_path, classes=CLASSES, backend="onnxruntime", threads=1)


def run(path: Path, image: Array) -> Array:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"image": image})[0])


def clear(maps: Array) -> Array:
    """(H, W) bool: where the best of logits (C, H, W) is ahead by more than rounding."""
    best = np.sort(maps, axis=0)
    return np.asarray(best[-1] - best[-2] > 1e-3)


def scene(size: tuple[int, int]) -> Array:
    return resize(load_image(SCENE), size)


@pytest.mark.parametrize("size", [(336, 336), (250, 410)])
def test_maps_have_the_segmenters_labels(demo: Segmenter, tmp_path: Path, size: tuple[int, int]) -> None:
    options = BakeOptions(size=size, result="logits")
    bake(demo, tmp_path / "a.onnx", options)
    image = scene(size)
    maps = run(tmp_path / "a.onnx", as_input(image, options))[0]
    wanted = demo(image).labels
    where = clear(maps)
    assert where.mean() > 0.95
    assert np.array_equal(maps.argmax(axis=0)[where], wanted[where])


def test_other_runtimes_give_the_same_labels(demo: Segmenter, tmp_path: Path) -> None:
    openvino = pytest.importorskip("openvino")
    size = (224, 240)
    few = demo.with_classes(["grass", "sky", "zebra", "water"])
    options = BakeOptions(size=size, result="logits", batch=1)
    path = tmp_path / "a.onnx"
    bake(few, path, options)
    image = scene(size)
    given = as_input(image, options)
    compiled = openvino.Core().compile_model(str(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    reference = ReferenceEvaluator(str(path), new_ops=[GatherElements])
    wanted = few(image).labels
    for maps in (np.asarray(compiled(given)[0][0]), reference.run(None, {"image": given})[0][0]):
        where = clear(maps)
        assert np.array_equal(maps.argmax(axis=0)[where], wanted[where])


def test_probabilities_are_those_of_decoding(demo: Segmenter, tmp_path: Path) -> None:
    options = BakeOptions()
    bake(demo, tmp_path / "a.onnx", options)
    image = scene((336, 336))
    shares = run(tmp_path / "a.onnx", as_input(image, options))[0]
    confidence = demo(image, confidence=True).confidence
    assert confidence is not None
    np.testing.assert_allclose(shares.max(axis=0), confidence, atol=2e-4)
    np.testing.assert_allclose(shares.sum(axis=0), 1, atol=1e-5)


def test_classes_that_a_text_model_cannot_tell_apart_are_one(demo: Segmenter, tmp_path: Path) -> None:
    """The demo's has no words for a roof or a tree: rounding chooses between the two."""
    alike = demo.with_classes(["roof", "tree", "grass"])
    assert np.array_equal(*alike.vocabulary.embeddings[:2])
    for result in ("labels", "probabilities"):
        options = BakeOptions(size=(250, 410), result=result)  # type: ignore[arg-type]
        assert bake(alike, tmp_path / f"{result}.onnx", options).labels_agreement > 0.9999


def test_int8_encoder_is_baked(tmp_path: Path) -> None:
    segmenter = Segmenter("demo", backend="onnxruntime", precision="int8", threads=1)
    report = bake(segmenter, tmp_path / "a.onnx", BakeOptions(result="labels"))
    model = onnx.load(tmp_path / "a.onnx")
    assert "DequantizeLinear" in {node.op_type for node in model.graph.node}
    assert report.bytes < 6e6


def test_old_opset_has_old_forms(demo: Segmenter, tmp_path: Path) -> None:
    bake(demo, tmp_path / "a.onnx", BakeOptions(opset=17, ir=8))
    model = onnx.load(tmp_path / "a.onnx")
    assert (model.ir_version, model.opset_import[0].version) == (8, 17)
    onnx.checker.check_model(model, full_check=True)
    for node in model.graph.node:
        if node.op_type in ("ReduceMax", "ReduceMean", "ReduceL2"):
            assert len(node.input) == 1
            assert any(item.name == "axes" for item in node.attribute)


def test_newer_opset_than_the_encoders_is_refused(demo: Segmenter, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="the encoder has opset 20, and 22 was asked for"):
        bake(demo, tmp_path / "a.onnx", BakeOptions(opset=22))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("pixels", ["unit", "byte", "uint8"])
def test_pixels_are_taken_in_three_forms(tiny: Segmenter, tmp_path: Path, pixels: Any) -> None:
    options = BakeOptions(size=(150, 170), pixels=pixels, result="labels")
    bake(tiny, tmp_path / "a.onnx", options)
    image = blocks_image(150, 170)
    labels = run(tmp_path / "a.onnx", as_input(image, options))
    assert labels.dtype == np.uint8
    assert np.array_equal(labels[0], tiny(image).labels)


def test_batch_equals_its_singles(tiny: Segmenter, tmp_path: Path) -> None:
    options = BakeOptions(size=(150, 170))
    bake(tiny, tmp_path / "a.onnx", options)
    singles = [as_input(blocks_image(150, 170, seed), options) for seed in range(3)]
    together = run(tmp_path / "a.onnx", np.concatenate(singles))
    for single, shares in zip(singles, together, strict=True):
        np.testing.assert_allclose(run(tmp_path / "a.onnx", single)[0], shares, atol=1e-6)


def test_images_smaller_than_a_window_are_enlarged(tiny: Segmenter, tmp_path: Path) -> None:
    options = BakeOptions(size=(40, 64), result="labels")
    bake(tiny, tmp_path / "a.onnx", options)
    image = blocks_image(40, 64)
    assert np.array_equal(run(tmp_path / "a.onnx", as_input(image, options))[0], tiny(image).labels)


def test_whole_images_are_baked(bundle_path: Path, tmp_path: Path) -> None:
    whole = Segmenter(bundle_path, classes=CLASSES, backend="onnxruntime", whole_image=True, threads=1)
    options = BakeOptions(size=(140, 200), result="labels")
    assert bake(whole, tmp_path / "a.onnx", options).windows == 1
    image = blocks_image(140, 200)
    assert np.array_equal(run(tmp_path / "a.onnx", as_input(image, options))[0], whole(image).labels)


RULES: dict[str, dict[str, Any]] = {
    "probability": {"prob_threshold": 0.5},
    "area": {"area_threshold": 0.2},
    "class": {"class_threshold": 0.6},
    "all": {"prob_threshold": 0.4, "area_threshold": 0.1, "class_threshold": 0.5},
    "stretched": {"maps": "minmax", "prob_threshold": 0.3},
    "nothing left": {"area_threshold": 1.0},
}


CASES = [
    (rule, background, result)
    for rule, settings in RULES.items()
    for background in ("background", "none")
    for result in ("labels", "probabilities")
    # A map per class has no place for pixels without a class.
    if (result, background) != ("probabilities", "none")
    or ("prob_threshold" not in settings and rule != "nothing left")
]


@pytest.mark.parametrize(("rule", "background", "result"), CASES)
def test_rules_are_in_the_graph(
    tiny: Segmenter, tmp_path: Path, rule: str, background: str, result: Any
) -> None:
    strict = tiny.with_classes(CLASSES, background=background)
    strict = strict.with_options(dataclasses.replace(strict.options, logit_scale=15.0, **RULES[rule]))
    options = BakeOptions(size=(150, 170), result=result)
    bake(strict, tmp_path / "a.onnx", options)
    image = blocks_image(150, 170)
    found = run(tmp_path / "a.onnx", as_input(image, options))[0]
    wanted = strict(image).labels
    assert not np.array_equal(wanted, tiny(image).labels)  # the rule does something
    labels = found if result == "labels" else found.argmax(axis=0)
    assert (labels == wanted).mean() > 0.9999


def test_thresholds_without_a_place_are_refused(tiny: Segmenter, tmp_path: Path) -> None:
    plain = tiny.with_classes(CLASSES, background="none")
    strict = plain.with_options(dataclasses.replace(plain.options, prob_threshold=0.5))
    with pytest.raises(OptionError, match="no class takes the pixels under prob_threshold"):
        bake(strict, tmp_path / "a.onnx")
    with pytest.raises(OptionError, match="thresholds need probabilities"):
        bake(strict, tmp_path / "a.onnx", BakeOptions(result="logits"))
    refined = tiny.with_options(dataclasses.replace(tiny.options, refine="pamr"))
    with pytest.raises(OptionError, match="a baked graph has no PAMR"):
        bake(refined, tmp_path / "a.onnx")
    assert not list(tmp_path.iterdir())


@pytest.fixture
def surgery_bundle(tmp_path: Path) -> Path:
    """A tiny bundle with a class row: the mean of the patches."""
    root = build_bundle(tmp_path / "surgery.scclip")
    file = root / "encoder.fp32.onnx"
    model = onnx.load(file, load_external_data=False)
    nodes = {node.op_type: node for node in model.graph.node}
    nodes["LpNormalization"].output[0] = "patches"
    place = list(model.graph.node).index(nodes["LpNormalization"]) + 1
    rest = list(model.graph.node)[place:]
    del model.graph.node[place:]
    model.graph.node.extend(
        [
            helper.make_node("ReduceMean", ["patches", "one"], ["mean"], keepdims=1),
            helper.make_node("LpNormalization", ["mean"], ["token"], axis=-1, p=2),
            helper.make_node("Concat", ["token", "patches"], ["features"], axis=1),
            *rest,
        ]
    )
    model.graph.initializer.append(numpy_helper.from_array(np.array([1], np.int64), "one"))
    for output in model.graph.output:
        output.type.tensor_type.shape.dim[1].dim_value = 37
    onnx.save(model, file)

    def edit(document: dict[str, Any]) -> None:
        document["format_version"] = 2
        document["decoding"]["class_weighting"] = "surgery"
        del document["encoders"][1:]
        for output in document["encoders"][0]["outputs"]:
            output["shape"][1] = 37

    edit_manifest(root, edit)
    relist(root)
    return root


@pytest.mark.parametrize("classes", [CLASSES, ["dog"]])
def test_surgerys_weights_are_in_the_graph(surgery_bundle: Path, tmp_path: Path, classes: list[str]) -> None:
    segmenter = Segmenter(surgery_bundle, classes=classes, backend="onnxruntime", threads=1)
    assert segmenter.bundle.model.embed_dim == EMBED
    options = BakeOptions(size=(150, 170), batch=2)
    bake(segmenter, tmp_path / "a.onnx", options)
    images = [blocks_image(150, 170, seed) for seed in (1, 2)]
    given = np.concatenate([as_input(image, BakeOptions()) for image in images])
    for image, shares in zip(images, run(tmp_path / "a.onnx", given), strict=True):
        result = segmenter(image, confidence=True)
        assert result.confidence is not None
        np.testing.assert_allclose(shares.max(axis=0), result.confidence, atol=1e-4)
        assert (shares.argmax(axis=0) == result.labels).mean() > 0.9999


def test_weights_lie_beside_the_file(demo: Segmenter, tmp_path: Path) -> None:
    report = bake(demo, tmp_path / "a.onnx", BakeOptions(weights="beside", result="labels"))
    assert [file.name for file in report.files] == ["a.onnx", "a.onnx.data", "a.mlm.json"]
    assert (tmp_path / "a.onnx").stat().st_size < 1e6
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    for file in report.files:
        file.rename(moved / file.name)
    assert run(moved / "a.onnx", as_input(scene((336, 336)), BakeOptions())).shape == (1, 336, 336)


def test_deepness_finds_what_it_reads(tiny: Segmenter, tmp_path: Path) -> None:
    """What Deepness does with a file, stated anew: which metadata it reads and how, what it feeds, and how it
    makes a map of bytes of several tiles."""
    path = tmp_path / "a.onnx"
    bake(tiny, path, BakeOptions(size=(160, 160), resolution=10))
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (given,), (output,) = session.get_inputs(), session.get_outputs()
    assert isinstance(given.shape[0], str), "else the batch is fixed"
    assert (given.shape[1:], output.shape[1:]) == ([3, 160, 160], [4, 160, 160])
    read = {name: json.loads(text) for name, text in session.get_modelmeta().custom_metadata_map.items()}
    assert str(read["model_type"]).capitalize() == "Segmentor"
    assert (int(read["tile_size"]), float(read["resolution"])) == (160, 10.0)
    names = sorted(read["class_names"].items(), key=lambda item: int(item[0]))
    assert names == [("0", "sky"), ("1", "grass"), ("2", "dog"), ("3", "background")]
    # A box is unticked only where its value is there and 0; the window ticks both: 0.5, and a median of 9 pixels.
    assert (float(read["seg_thresh"]), int(read["seg_small_segment"])) == (0.0, 0)
    mean, spread = (np.array(read[f"standardization_{name}"], np.float32) for name in ("mean", "std"))
    tiles = np.stack([blocks_image(160, 160, seed) for seed in (1, 2)])
    batch = (np.float32(tiles * 1.0 / 255.0) - mean) / spread
    shares = session.run(None, {given.name: batch.transpose(0, 3, 1, 2)})[0]
    bytes_ = np.zeros((160, 320), np.uint8)
    for at, tile in enumerate(shares.argmax(axis=1)):
        bytes_[:, 160 * at : 160 * (at + 1)] = tile
    assert np.array_equal(bytes_, np.concatenate([tiny(tile).labels for tile in tiles], axis=1))


@pytest.mark.parametrize(("number", "known"), [(255, True), (256, False)])
def test_deepness_is_not_offered_more_classes_than_its_bytes_hold(
    bundle_path: Path, tmp_path: Path, number: int, known: bool
) -> None:
    names = [f"thing {index}" for index in range(number)]
    segmenter = Segmenter(bundle_path, classes=names, templates="none", backend="onnxruntime", threads=1)
    bake(segmenter, tmp_path / "a.onnx", BakeOptions(size=(32, 32)))
    properties = {item.key for item in onnx.load(tmp_path / "a.onnx").metadata_props}
    assert ("model_type" in properties) is known


def test_geoai_and_stac_find_their_sidecars(tiny: Segmenter, tmp_path: Path) -> None:
    bake(tiny, tmp_path / "a.onnx", BakeOptions(size=(150, 170)))
    sidecar = json.loads((tmp_path / "a.onnx.json").read_text())
    assert sidecar["task"] == "semantic-segmentation"
    assert sidecar["id2label"]["1"] == "grass"
    assert (sidecar["input_height"], sidecar["input_width"]) == (150, 170)
    item = json.loads((tmp_path / "a.mlm.json").read_text())
    assert item["assets"]["model"]["href"] == "./a.onnx"
    assert item["properties"]["mlm:input"][0]["input"]["shape"] == [-1, 3, 150, 170]
    assert item["properties"]["mlm:output"][0]["result"]["shape"] == [-1, 4, 150, 170]


def test_existing_files_are_kept(tiny: Segmenter, tmp_path: Path) -> None:
    (tmp_path / "a.mlm.json").write_text("mine")
    with pytest.raises(OutputError, match=r"a\.mlm\.json exists; pass --force"):
        bake(tiny, tmp_path / "a.onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["a.mlm.json"]


def test_force_leaves_no_sidecar_of_an_earlier_file(tiny: Segmenter, tmp_path: Path) -> None:
    bake(tiny, tmp_path / "a.onnx", BakeOptions(weights="beside"))
    bake(tiny, tmp_path / "a.onnx", BakeOptions(result="labels"), force=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.mlm.json", "a.onnx"]
