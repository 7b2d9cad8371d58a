"""Every method against what its official code computes: features of windows, and labels through the runtime's decode.

The arrays in tests/data/family are of the official codes on tests/synthetic.py's weights and images (float32, CPU).
"""

import json
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.numpy import save_file

from oracles.family import NaiveMethod
from scclip_export.checkpoint.load_model import Source, load_model
from scclip_export.errors import ExportError
from scclip_export.methods import METHODS
from scclip_export.model.encoder import CalibratedEncoder
from scclip_export.options import ExportConfig
from scclip_rt import Segmenter
from scclip_rt.bundle.bundle import Bundle
from scclip_rt.bundle.manifest import GridSpec
from scclip_rt.decode.decode import decode
from scclip_rt.decode.pamr import pixel_weights
from scclip_rt.decode.plan import decode_plan
from scclip_rt.decode.settings import DecodeSettings
from scclip_rt.encoded import class_weights
from scclip_rt.image.geometry import resize, resize_shape
from scclip_rt.image.preparation import Preparation
from synthetic import clip_state_dict, scene

DATA = Path(__file__).parents[1] / "data" / "family"
FLOAT16 = 4e-4  # rounding of the stored arrays: half a unit in the last place of values up to 0.5

# Options of `scclip-export` for the arrays of METHOD_features_variants.npz; "" is the method's own default.
VARIANTS: dict[str, dict[str, dict[str, Any]]] = {
    "naclip": {
        "reduced_naclip_1": {"sigma": 1.0},
        "reduced_naclip_10": {"sigma": 10.0},
        "vanilla_naclip_5": {"architecture": "vanilla"},
        "reduced_kk": {"attention": "kk"},
        "vanilla_kk": {"architecture": "vanilla", "attention": "kk"},
        "reduced_nonly_5": {"attention": "nonly"},
        "vanilla_nonly_5": {"architecture": "vanilla", "attention": "nonly"},
        "vanilla_csa": {"architecture": "vanilla", "attention": "csa"},
        "vanilla_vanilla": {"architecture": "vanilla", "attention": "vanilla"},
        "reduced_vanilla": {"attention": "vanilla"},
    },
    "clearclip": {
        f"w224_{name}_{kept}": {"attention": name.lower(), "residual": kept == "residual"}
        for name in ("ClearCLIP", "vanilla", "MaskCLIP", "SCLIP")
        for kept in ("none", "residual")
    },
    "sclip": {"plain": {"attention": "vanilla"}},
    "segearth": {
        **{
            name: {"attention": name.lower()}
            for name in ("SegEarth", "ClearCLIP", "SCLIP", "NACLIP", "NOnly", "GAV", "MaskCLIP", "vanilla")
        },
        "SegEarth_residual": {"residual": True},
    },
    "resclip": {
        "resclip_0.2": {"cross_weight": 0.2},
        "resclip_0.4": {"cross_weight": 0.4},
        "resclip_0.6": {"cross_weight": 0.6},
        "naclip_wo_resi_rcs": {},
        "clearclip_wo_resi_rcs": {"base": "clearclip"},
        "vanilla_wo_resi_rcs": {"base": "vanilla"},
        "sclip_w_resi_rcs": {"base": "sclip"},
        "vanilla_w_resi_rcs": {"base": "vanilla-residual"},
    },
    "sfp": {
        "SOM_rho0.3": {},
        "SOM_rho0.1": {"cls_residual": 0.1},
        "L2_rho0.3": {"detector": "norm"},
        "LOF_rho0.3": {"detector": "lof"},
        "SOM_few6": {"salience": 0.0428212},
        "SOM_few4": {"salience": 0.0261731},
        "SOM_few0": {"salience": 0.00659487},
    },
}


@pytest.fixture(scope="module")
def visual(tmp_path_factory: pytest.TempPathFactory) -> Any:
    path = tmp_path_factory.mktemp("tiny") / "tiny.safetensors"
    save_file(clip_state_dict("tiny"), path)
    return load_model(Source(checkpoint=path, heads=2, activation="quickgelu"), lambda _: None).clip.visual


def picture(height: int, width: int, seed: int) -> NDArray[np.uint8]:
    return scene(height, width, seed) // 32 * 32 + 16


def arrays(name: str) -> dict[str, Any]:
    with np.load(DATA / f"{name}.npz") as file:
        found = dict(file)
    return found | {"meta": json.loads(str(found["meta"]))}


def encoder(visual: Any, method: str, options: dict[str, Any], **further: Any) -> CalibratedEncoder:
    if method == "segearth":
        options = {"class_weight": 0.0, **options}  # the arrays hold f alone
    parts = METHODS[method].options(**options).parts(layers=12, patch_size=16)
    return CalibratedEncoder(visual, parts, grid=None, **further).eval()


def features(model: CalibratedEncoder, window: NDArray[np.uint8]) -> NDArray[np.float32]:
    with torch.inference_mode():
        found = model(torch.from_numpy(np.ascontiguousarray(window))[None], torch.eye(64)[:1])
    return np.asarray(found[0][0].numpy())


def assert_close(got: NDArray[np.float32], expected: NDArray[Any]) -> None:
    np.testing.assert_allclose(
        got, expected.astype(np.float32), rtol=0, atol=2e-5 if expected.dtype == np.float32 else FLOAT16
    )


def resized(image: NDArray[np.uint8], scale: list[int]) -> NDArray[np.uint8]:
    short, long = min(scale), max(scale)
    return resize(image, resize_shape(*image.shape[:2], short_side=short, long_side=long, min_side=0))


def box(image: NDArray[np.uint8], corners: list[int]) -> NDArray[np.uint8]:
    top, left, bottom, right = corners
    return image[top:bottom, left:right]


@pytest.mark.parametrize("method", [*VARIANTS, "surgery", "gem"])
def test_windows_have_the_official_features(method: str, visual: Any) -> None:
    case = arrays(f"{method}_tiny")
    image = resized(picture(375, 500, 0), case["meta"]["resize_scale"])
    model = encoder(visual, method, {})
    start = int(method == "surgery")  # its class row
    assert_close(features(model, box(image, case["meta"]["crop_box"]))[start:], case["crop_features"])
    assert_close(features(model, box(image, case["meta"]["crop2_box"]))[start:], case["crop2_features"])


@pytest.mark.parametrize("method", VARIANTS)
def test_options_are_the_official_switches(method: str, visual: Any) -> None:
    case, variants = arrays(f"{method}_tiny"), arrays(f"{method}_features_variants")
    image = resized(picture(375, 500, 0), case["meta"]["resize_scale"])
    for name, options in VARIANTS[method].items():
        model = encoder(visual, method, options, debug_outputs=True)
        with torch.inference_mode():
            found = model(torch.from_numpy(image[None, :224, :224].copy()), torch.eye(64)[:1])
        try:
            assert_close(found[0][0].numpy(), variants[name])
        except AssertionError as error:
            raise AssertionError(f"{method}, {name}") from error
        if f"{name}_outliers" in variants:
            outliers = [index for index in found[2][0].tolist() if index >= 0]
            assert outliers == sorted(variants[f"{name}_outliers"].tolist())


def test_windows_are_padded_after_normalisation(visual: Any) -> None:
    clear, earth = arrays("clearclip_features_variants"), arrays("segearth_features_variants")
    image = resized(picture(375, 500, 0), [2048, 448])
    assert_close(features(encoder(visual, "clearclip", {}), image[:440, :440]), clear["padded_features"])
    strip = resized(picture(200, 500, 6), [448, 448])
    assert_close(features(encoder(visual, "segearth", {}), strip[:, :224]), earth["strip_features"])


def test_whole_images_leave_the_remainder_out(visual: Any) -> None:
    variants, model = arrays("naclip_features_variants"), encoder(visual, "naclip", {})
    assert_close(features(model, resized(picture(375, 500, 0), [2048, 336])), variants["whole_features"])
    odd = resized(picture(367, 500, 3), [2048, 336])
    assert odd.shape == (336, 458, 3)
    assert_close(features(model, odd[:, :448]), variants["whole_odd_features"])


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("rect_features", {}),
        ("depth3_features", {"blocks": 2}),
        ("iter2_features", {"iterations": 2}),
        ("iter0_features", {"iterations": 0}),
        ("temp10_features", {"temperature": 10.0}),
    ],
)
def test_gem_has_the_official_options(name: str, options: dict[str, Any], visual: Any) -> None:
    case = arrays("gem_tiny")
    image = resized(picture(375, 500, 0), [2048, 336])
    corners = case["meta"]["rect_box" if name == "rect_features" else "crop_box"]
    assert_close(features(encoder(visual, "gem", options), box(image, corners)), case[name])


def test_surgery_weighs_classes_by_the_class_token(visual: Any) -> None:
    case = arrays("surgery_tiny")
    image = resized(picture(375, 500, 0), [2048, 336])
    found = features(encoder(visual, "surgery", {}), box(image, case["meta"]["crop_box"]))
    np.testing.assert_allclose(found[0], case["crop_class"], atol=2e-5)
    similarity = class_weights(found[None, 0], case["text"]) * (found @ case["text"].T)
    similarity -= similarity.mean(axis=1, keepdims=True)
    np.testing.assert_allclose(similarity[1:], case["similarity"][1:], atol=2e-5)
    # One class: the sign of this is its place against the empty text, without weights.
    alone = found @ (case["text"][:1] - case["empty_text"]).T
    np.testing.assert_allclose(alone[1:], case["similarity_single"][1:], atol=2e-5)


def test_triton_is_warned_of_where_a_method_has_no_kernel(
    visual: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scclip_export.model.encoder.check_kernels", lambda _: None)  # also without Triton
    for method, warned in (("naclip", True), ("sfp", True), ("scclip", False)):
        caplog.clear()
        parts = METHODS[method].options().parts(layers=12, patch_size=16)
        CalibratedEncoder(visual, parts, grid=None, kernels="triton")
        assert [record.levelname for record in caplog.records] == ["WARNING"] * warned


# Of METHOD_tiny.npz and the label maps of METHOD_features_variants.npz: settings that differ from the case's own.
LABELS: list[tuple[str, str, dict[str, Any]]] = [
    ("naclip", "labels", {}),
    ("naclip", "whole_labels", {"whole": True}),
    ("naclip", "pamr_labels", {"pamr": True, "image": scene(375, 500, 0)}),
    ("clearclip", "labels", {}),
    ("clearclip", "cityscapes_labels", {"window": 224, "stride": 224, "prob_threshold": 0.0}),
    ("clearclip", "padded_labels", {"window": 440, "prob_threshold": 0.0}),
    ("sclip", "labels", {}),
    ("sclip", "plain_post_labels", {"logit_scale": 40.0, "prob_threshold": 0.0, "area_threshold": 0.0}),
    ("sclip", "area05_labels", {"area_threshold": 0.05}),
    ("segearth", "labels", {"class_weight": -0.3}),
    ("segearth", "lambda0_labels", {"prob_threshold": 0.0}),
    ("segearth", "potsdam_labels", {"class_weight": -0.3, "background": 5}),
    ("segearth", "loveda_labels", {"class_weight": -0.3, "prob_threshold": 0.3}),
    ("segearth", "strip_labels", {"class_weight": -0.3, "image": picture(200, 500, 6)}),
    ("resclip", "labels", {}),
    ("sfp", "labels", {}),
    ("sfp", "plain_post_labels", {"logit_scale": 40.0, "prob_threshold": 0.0, "area_threshold": 0.0}),
    ("gem", "labels_224", {}),
]


@pytest.mark.parametrize(("method", "name", "changes"), LABELS, ids=[f"{m}-{n}" for m, n, _ in LABELS])
def test_labels_are_the_official_ones(method: str, name: str, changes: dict[str, Any], visual: Any) -> None:
    case = arrays(f"{method}_tiny")
    found = case if name in case else arrays(f"{method}_features_variants")
    official = case["meta"].get("official_defaults", {})
    defaults = METHODS[method].options().defaults(layers=12, patch_size=16)
    image = changes.get("image", picture(375, 500, 0))
    if method == "gem":
        image = np.ascontiguousarray(resized(image, [2048, 336])[:224, :224])
    options = {"class_weight": changes["class_weight"]} if "class_weight" in changes else {}
    model = encoder(visual, method, options)
    side = changes.get("window", defaults.window or 224)
    prepare = Preparation(
        grid=GridSpec(kind="dynamic" if changes.get("whole") else "window"),
        patch=16,
        embed_dim=64,
        short_side=224 if method == "gem" else defaults.short_side,
        long_side=defaults.long_side,
        window=side,
        stride=changes.get("stride", side // 2 if "window" not in changes else defaults.stride),
        padding="patch" if model.parts.pads else "none",
        whole_image=defaults.whole_image,
    )
    prepared = prepare(image)
    encoded = np.stack([features(model, window) for window in prepared.windows])
    queries = case.get("query_idx", np.arange(len(case["text"])))
    decoded = decode(
        encoded,
        case["text"],
        decode_plan(prepared.tiling, prepared.grid, image.shape[:2]),
        DecodeSettings(
            query_class=queries,
            num_classes=int(queries.max()) + 1,
            logit_scale=changes.get("logit_scale", official.get("logit_scale", defaults.logit_scale)),
            prob_threshold=changes.get("prob_threshold", official.get("prob_thd") or 0.0),
            area_threshold=changes.get("area_threshold", official.get("area_thd") or 0.0),
            background=changes.get("background", official.get("bg_idx")),
            maps=defaults.maps,
        ),
        refine=pixel_weights(prepared.resized, image.shape[:2], mean=MEAN, std=STD)
        if changes.get("pamr")
        else None,
    )
    wrong = decoded.labels != found[name]
    tied_name = name.replace("labels", "tied")
    tied = np.unpackbits(found[tied_name], count=wrong.size).reshape(wrong.shape).astype(bool)
    assert wrong.mean() <= 1e-4
    # PAMR's sums run in another order over ten steps, as for SC-CLIP's own case.
    assert changes.get("pamr") or not wrong[~tied].any()


@pytest.mark.parametrize("method", [*VARIANTS, "surgery", "gem"])
def test_the_benchmarks_naive_form_is_the_method(method: str, visual: Any) -> None:
    """What speed is measured against computes what the official codes do."""
    case = arrays(f"{method}_tiny")
    window = box(resized(picture(375, 500, 0), case["meta"]["resize_scale"]), case["meta"]["crop_box"])
    if window.shape[:2] != (224, 224):  # the naive form has windows of the trained size only
        window = np.ascontiguousarray(window[:224, :224])
        start = int(method == "surgery")
        expected: Any = features(encoder(visual, method, {}), window)[start:]
    else:
        expected = case["crop_features"]
    naive = NaiveMethod(
        clip=SimpleNamespace(visual=visual), pre=0, post=0, multi=(0, 1), res_cls=0.0, method=method
    )
    pixels = torch.from_numpy(window.copy()).float().permute(2, 0, 1)
    mean, std = (torch.tensor(v).reshape(3, 1, 1) for v in (MEAN, STD))
    with torch.no_grad():
        found = naive.window_features((pixels - mean) / std).numpy()
    if method == "segearth":
        assert np.abs(np.linalg.norm(found, axis=1) - 1).max() > 1e-2
        expected = features(encoder(visual, method, {"class_weight": -0.3}), window)
    assert_close(found, expected)


MEAN, STD = (122.771, 116.746, 104.094), (68.501, 66.632, 70.323)


# Window, stride and sides in pixels, then the scale; what a benchmark changes. None: the model's window, half of it.
PUBLISHED: dict[str, tuple[tuple[Any, ...], dict[str, dict[str, Any]]]] = {
    "sfp": (
        (None, None, 336, 2048, 40.0),
        {
            "voc21": {"logit_scale": 50.0, "prob_threshold": 0.15, "area_threshold": 0.1},
            "context60": {"prob_threshold": 0.15},
            "coco-object": {"logit_scale": 55.0, "prob_threshold": 0.35},
            "cityscapes": {"short_side": 560},
            "ade20k": {"short_side": 384},
        },
    ),
    "naclip": (
        (None, None, 336, 2048, 40.0),
        {
            "voc21": {"whole_image": True, "prob_threshold": 0.1},
            "voc20": {"whole_image": True},
            "context60": {"prob_threshold": 0.1},
            "coco-object": {"prob_threshold": 0.1},
            "cityscapes": {"short_side": 560},
        },
    ),
    "clearclip": (
        (448, 224, 448, 2048, 50.0),
        {
            "voc21": {"prob_threshold": 0.5},
            "context60": {"prob_threshold": 0.15},
            "coco-object": {"prob_threshold": 0.4},
        },
    ),
    "sclip": (
        (None, None, 336, 2048, 40.0),
        {
            "voc21": {"logit_scale": 65.0, "prob_threshold": 0.1, "area_threshold": 0.1},
            "context60": {"logit_scale": 50.0, "prob_threshold": 0.1},
            "coco-object": {"logit_scale": 50.0, "prob_threshold": 0.1},
            "cityscapes": {"short_side": 560},
            "coco-stuff": {"short_side": 448},
        },
    ),
    "segearth": (
        (224, 112, 448, 448, 50.0),
        {
            "potsdam": {"prob_threshold": 0.1, "rest_class": 5},
            "udd5": {"prob_threshold": 0.4, "rest_class": 4},
            "loveda": {"prob_threshold": 0.3, "rest_class": 0},
            "chn6-cug": {"prob_threshold": 0.8, "rest_class": 0},
            "xbd": {"prob_threshold": 0.0, "rest_class": 0},
        },
    ),
    "resclip": (
        (None, None, 336, 2048, 40.0),
        {
            "voc21": {"whole_image": True, "prob_threshold": 0.1},
            "context60": {"prob_threshold": 0.1},
            "cityscapes": {"short_side": 560},
        },
    ),
}


@pytest.mark.parametrize("method", PUBLISHED)
def test_defaults_are_the_published_ones(method: str) -> None:
    found = METHODS[method].options().defaults(layers=12, patch_size=16)
    numbers, benchmarks = PUBLISHED[method]
    assert (found.window, found.stride, found.short_side, found.long_side, found.logit_scale) == numbers
    assert {name: dict(found.benchmarks[name]) for name in benchmarks} == benchmarks
    assert found.refine == ("pamr" if method == "naclip" else None)
    assert (found.prob_threshold, found.area_threshold) == (0.0, None)


def test_sfp_has_other_thresholds_for_large_models() -> None:
    large = METHODS["sfp"].options().defaults(layers=24, patch_size=14).benchmarks
    assert (large["voc21"]["prob_threshold"], large["coco-object"]["prob_threshold"]) == (0.2, 0.25)


def test_shallow_models_have_the_taps_scaled() -> None:
    """The demo model has nine blocks; official codes have no such case."""
    sfp = METHODS["sfp"].options()
    published, shallow = (sfp.parts(layers=layers, patch_size=16) for layers in (12, 9))
    assert (published.pre_layer, published.post_layer, published.fusion_layers) == (8, 3, (3, 10))
    assert (published.source, shallow.source) == ("published", "extrapolated")
    for layers in range(4, 12):
        sfp.parts(layers=layers, patch_size=16).check(layers=layers, num_patches=196)
        METHODS["resclip"].options().parts(layers=layers, patch_size=16).check(layers=layers, num_patches=196)
    taps = METHODS["resclip"].options().parts(layers=12, patch_size=16).taps(12)
    assert taps == METHODS["resclip"].options().parts(layers=24, patch_size=14).taps(24) == {5, 6, 7, 8}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--max-outliers", "40", "--dynamic-grid"], "40 outliers need .* the smallest have 36"),
        (["--max-outliers", "20", "--window", "64"], "20 outliers need .* the smallest have 16"),
        (["--detector", "lof", "--window", "64"], "30 outlier neighbours need .* the smallest have 16"),
    ],
)
def test_options_beyond_the_smallest_grid_are_refused(
    options: list[str],
    words: str,
    tiny_checkpoint: Path,
    export_cli: Callable[..., int],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / "a.scclip"
    arguments = ["--checkpoint", tiny_checkpoint, "--calibration", "sfp", *options, "--output", path]
    assert export_cli(*arguments) == 2
    assert re.search(words, capsys.readouterr().err)
    assert not path.exists()


@pytest.mark.parametrize(
    ("method", "options", "words"),
    [
        (
            "naclip",
            {"attention": "kk", "sigma": 5.0},
            "--sigma changes nothing: --attention kk has no neighbourhood",
        ),
        ("segearth", {"sigma": 2.0}, "--sigma changes nothing: --attention segearth has no neighbourhood"),
        (
            "resclip",
            {"base": "sclip", "sigma": 2.0},
            "--sigma changes nothing: --base sclip has no neighbourhood",
        ),
        (
            "sfp",
            {"detector": "norm", "salience": 2.0},
            "--salience changes nothing: --detector norm does not",
        ),
        (
            "sfp",
            {"detector": "lof", "max_outliers": 5},
            "--max-outliers changes nothing: --detector lof does not",
        ),
    ],
)
def test_an_option_that_changes_nothing_beside_the_others_is_refused(
    method: str, options: dict[str, Any], words: str
) -> None:
    config = ExportConfig(source=Source(checkpoint="a.pt"), method=method, calibration=options)
    with pytest.raises(ExportError, match=words):
        config.method_options()


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("naclip", {"sigma": 2.0}),
        ("segearth", {"attention": "gav", "sigma": 2.0}),
        ("resclip", {"sigma": 2.0}),
        ("sfp", {"detector": "norm", "max_outliers": 5}),
    ],
)
def test_an_option_that_is_read_is_taken(method: str, options: dict[str, Any]) -> None:
    config = ExportConfig(source=Source(checkpoint="a.pt"), method=method, calibration=options)
    taken = config.method_options()
    assert {name: getattr(taken, name) for name in options} == options


def test_a_floor_that_rounding_may_put_above_a_patch_itself_is_refused() -> None:
    """A patch that isn't even similar to itself attends to nothing: 0 / 0."""
    with pytest.raises(ValueError, match=r"similarity_floor must be a number from -1 to 0\.999"):
        METHODS["sfp"].options(similarity_floor=1.0).parts(layers=12, patch_size=16)


@pytest.mark.parametrize("method", METHODS)
def test_a_model_of_one_block_is_refused(method: str) -> None:
    with pytest.raises(ValueError, match=r"block"):
        METHODS[method].options().parts(layers=1, patch_size=16).check(layers=1, num_patches=196)


@pytest.mark.parametrize("method", METHODS)
def test_a_batch_equals_its_singles(method: str, visual: Any) -> None:
    parts = METHODS[method].options().parts(layers=12, patch_size=16)
    model = CalibratedEncoder(visual, parts, grid=(14, 14)).eval()
    windows = torch.from_numpy(np.stack([scene(224, 224, seed) for seed in range(2)]))
    with torch.inference_mode():
        both = model(windows, torch.eye(64)[:1])[0]
        singles = torch.cat([model(window[None], torch.eye(64)[:1])[0] for window in windows])
    torch.testing.assert_close(both, singles, rtol=0, atol=3e-6)


def test_sums_are_not_means(visual: Any) -> None:
    """The bias of the output projection doesn't grow with the sum of attentions."""
    from dataclasses import replace

    parts = METHODS["sclip"].options().parts(layers=12, patch_size=16)
    mean = replace(parts, terms=tuple(replace(term, weight=0.5) for term in parts.terms))
    window = picture(224, 224, 0)
    found = [features(CalibratedEncoder(visual, p, grid=None).eval(), window) for p in (parts, mean)]
    assert np.abs(found[0] - found[1]).max() > 1e-3


def test_an_outlier_among_outliers_stays_and_is_no_nan(visual: Any) -> None:
    """The official SFP zeroes an outlier without sound neighbours, and the whole window becomes NaN."""
    from scclip_export.model.calibration import calibrate
    from scclip_kernels.operations import TorchOperations

    model = encoder(visual, "sfp", {})
    with torch.inference_mode():
        trunk = model.trunk(torch.from_numpy(picture(224, 224, 0)[None]))
        to_class = torch.full((1, 196), 1e-6)
        to_class[0, [0, 1, 14, 15]] = 1.0  # a corner patch and all of its neighbours
        dense, outliers = calibrate(
            model.parts,
            trunk.hidden,
            last=model.last,
            columns=14,
            operations=TorchOperations(),
            salience=(to_class, torch.full((1, 196), 0.1)),
            with_outliers=True,
        )
    assert sorted(index for index in outliers[0].tolist() if index >= 0) == [0, 1, 14, 15]
    assert torch.isfinite(dense).all()


@pytest.mark.parametrize("method", ["naclip", "clearclip"])
def test_the_command_exports_a_method(
    method: str, tiny_checkpoint: Path, export_cli: Callable[..., int], tmp_path: Path
) -> None:
    """Windows and grids of every size that the method asks for, each held to torch by the export itself."""
    path = tmp_path / "method.scclip"
    assert export_cli("--checkpoint", tiny_checkpoint, "--calibration", method, "--output", path) == 0
    bundle = Bundle.open(path)
    assert bundle.manifest.format_version == 2
    assert bundle.manifest.calibration["method"] == method
    segment = Segmenter(bundle, classes=["a", "b"], templates="none", cache=False)
    assert segment(scene(120, 150, 0)).labels.shape == (120, 150)
