"""The export as a whole: what the bundle says, what is refused, and that nothing half-written is left."""

import json
from collections.abc import Callable
from pathlib import Path

import jsonschema
import pytest
from safetensors.torch import load_file, save_file
from torch import Tensor

from scclip_export import pipeline
from scclip_export.checkpoint.load_model import Source
from scclip_export.model.calibration import CalibrationConfig, calibration_for
from scclip_export.options import ExportConfig
from scclip_export.parity import Parity, Thresholds
from scclip_rt import Bundle, Segmenter
from synthetic import scene

State = dict[str, Tensor]
Export = Callable[..., int]
LAYERS = ("--fusion-layers", "1:3")


def manifest(bundle: Path) -> dict:
    return json.loads((bundle / "bundle.json").read_text())


def test_manifest_matches_the_committed_schema(micro_bundle: Path) -> None:
    from importlib import resources

    schema = json.loads((resources.files("scclip_rt") / "bundle/schema/bundle.schema.json").read_text())
    jsonschema.validate(manifest(micro_bundle), schema)


def test_bundle_holds_what_the_manifest_lists_and_nothing_else(micro_bundle: Path) -> None:
    listed = set(manifest(micro_bundle)["files"]) | {"bundle.json"}
    assert {path.name for path in micro_bundle.rglob("*")} == listed
    Bundle.open(micro_bundle).verify_all()


def test_parity_figures_are_stored(micro_bundle: Path) -> None:
    for encoder in manifest(micro_bundle)["encoders"]:
        parity = encoder["parity"]
        assert 0 <= parity["features_max_abs"] <= parity["thresholds"]["max_abs"] < 1e-4
        assert 0 <= parity["features_mean_abs"] <= parity["thresholds"]["mean_abs"] == 1e-3
        assert 0.99 <= parity["labels_agreement"] <= 1
        assert parity["windows"] >= 1
    assert manifest(micro_bundle)["encoders"][0]["parity"]["batches"] == [1, 2, 6]
    assert manifest(micro_bundle)["text_encoder"]["parity"]["embeddings_max_abs"] < 1e-6


def test_assumptions_and_calibration_are_recorded(micro_bundle: Path) -> None:
    document = manifest(micro_bundle)
    assert any("heads: 2" in line for line in document["model"]["assumptions"])
    assert document["calibration"]["fusion_layers"] == [1, 3]
    assert document["calibration"]["source"] == "overridden"


def test_exporting_again_keeps_vocabularies_valid(micro_checkpoint: Path, micro_bundle: Path) -> None:
    from scclip_export.checkpoint.read import load_checkpoint
    from scclip_export.checkpoint.tokenizer import tokenizer_json
    from scclip_export.manifest import text_model_sha256

    state = load_checkpoint(micro_checkpoint).state
    expected = manifest(micro_bundle)["text_encoder"]["model_sha256"]
    assert text_model_sha256(state, tokenizer_json()) == expected
    changed = state | {"ln_final.bias": state["ln_final.bias"] + 1}
    assert text_model_sha256(changed, tokenizer_json()) != expected


@pytest.mark.parametrize("method", ["maskclip", "none"])
def test_other_methods_export_and_segment_differently(
    method: str, micro_checkpoint: Path, micro_bundle: Path, export_cli: Export, tmp_path: Path
) -> None:
    output = tmp_path / "other.scclip"
    assert export_cli("--checkpoint", micro_checkpoint, "--calibration", method, "--output", output) == 0
    assert manifest(output)["calibration"] == {"method": method}
    image, classes = scene(224, 300, 4), ["sky", "grass", "dog"]
    ours = Segmenter(output, classes=classes, templates="none").encode(image).features
    calibrated = Segmenter(micro_bundle, classes=classes, templates="none").encode(image).features
    assert ours.shape == calibrated.shape
    assert abs(ours - calibrated).max() > 1e-2


def test_a_window_of_another_size_resizes_the_positions(
    micro_checkpoint: Path, export_cli: Export, tmp_path: Path
) -> None:
    output = tmp_path / "wide.scclip"
    options = ("--window", "160", "--stride", "64", "--short-side", "200", "--opset", "18", *LAYERS)
    assert export_cli("--checkpoint", micro_checkpoint, *options, "--output", output) == 0
    document = manifest(output)
    assert document["preprocessing"]["window"] == 160
    assert document["encoders"][0]["grid"] == {"kind": "window", "rows": 10, "columns": 10}
    assert document["encoders"][0]["opset"] == 18
    assert Segmenter(output, classes=["a", "b"], templates="none")(scene(100, 130, 0)).labels.shape == (
        100,
        130,
    )


def test_calibration_comes_from_the_checkpoint_metadata(micro_checkpoint: Path, tmp_path: Path) -> None:
    stored = {"pre_layer": 2, "post_layer": 0, "fusion_layers": [0, 2], "cls_residual": 0.07}
    save_file(
        load_file(micro_checkpoint), tmp_path / "m.safetensors", metadata={"calibration": json.dumps(stored)}
    )
    model = pipeline.load_model(Source(checkpoint=tmp_path / "m.safetensors"), lambda _: None)
    config = ExportConfig(source=Source(checkpoint=tmp_path / "m.safetensors"))
    calibration = pipeline._plan(config, model).parts
    assert calibration == CalibrationConfig(
        pre_layer=2, post_layer=0, fusion_layers=(0, 2), cls_residual=0.07, source="checkpoint"
    )


REFUSED = {
    "no model": ((), "name a model: --backbone"),
    "two models": (("--backbone", "vitb16", "--model", "ViT-B-16"), "pass one of them"),
    "unknown backbone": (("--backbone", "vitx99"), "unknown backbone 'vitx99'. Known: vitb16"),
    "unknown model": (("--model", "ViT-Z-9", "--pretrained", "x"), "open_clip has no model 'ViT-Z-9'"),
    "model without weights": (("--model", "ViT-B-16"), "needs --pretrained TAG or --checkpoint"),
    "tag without model": (("--backbone", "vitb16", "--pretrained", "openai"), "goes with --model"),
    "unknown tag": (("--model", "ViT-B-16", "--pretrained", "nope"), "open_clip has no weights 'nope'"),
    "resnet": (("--model", "RN50", "--pretrained", "openai"), "RN50 (openai) is a ResNet"),
    "timm": (("--model", "ViT-B-16-SigLIP", "--pretrained", "webli"), "has no class token"),
    "window": (
        ("--checkpoint", "{checkpoint}", "--window", "100"),
        "multiple of the patch (16 pixels); got 100",
    ),
    "small window": (
        ("--checkpoint", "{checkpoint}", "--window", "80", *LAYERS),
        "more than 31 patches; the smallest have 25",
    ),
    "stride": (("--checkpoint", "{checkpoint}", "--stride", "300"), "--stride must be in 1..window"),
    "image size": (
        ("--checkpoint", "{checkpoint}", "--image-size", "100x160", *LAYERS),
        "the nearest is 96x160",
    ),
    "layer": (("--checkpoint", "{checkpoint}", "--pre-layer", "3", *LAYERS), "layers run from 0 to 2"),
    "layer range": (("--checkpoint", "{checkpoint}", "--fusion-layers", "3:3"), "A < B"),
    "parameters of no calibration": (
        ("--checkpoint", "{checkpoint}", "--calibration", "none", "--pre-layer", "1"),
        "--pre-layer is an option of --calibration scclip and sfp, not of none",
    ),
    "heads": (("--checkpoint", "{checkpoint}", "--heads", "7"), "--heads: 7 heads do not divide"),
    "another size": (
        ("--backbone", "vitb16", "--checkpoint", "{checkpoint}"),
        "width 128 (the tensors) or 768 (open_clip's ViT-B-16-quickgelu (openai))",
    ),
    "no such checkpoint": (("--checkpoint", "none.pt"), "does not exist"),
    "blocks of a stream": (
        ("--checkpoint", "{checkpoint}", "--calibration", "gem"),
        "it has 4. Give fewer with --blocks",
    ),
    "cross blocks": (
        ("--checkpoint", "{checkpoint}", "--calibration", "resclip", "--cross-blocks", "1:4"),
        "block 3 is not one of the model's 0 to 2 before the last; give others with --cross-blocks",
    ),
    "no such images": (
        ("--checkpoint", "{checkpoint}", "--verify-images", "none", *LAYERS),
        "no such folder",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_requests_end_in_one_line_and_leave_nothing(
    case: str,
    micro_checkpoint: Path,
    export_cli: Export,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments, message = REFUSED[case]
    filled = [argument.replace("{checkpoint}", str(micro_checkpoint)) for argument in arguments]
    assert export_cli(*filled, "--output", "out.scclip") == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("scclip-export: error: ")
    assert message in last
    assert not list(tmp_path.iterdir())


def test_a_failed_download_says_how_to_pass_a_file(
    export_cli: Export, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import open_clip

    def fail(_: object) -> str:
        raise FileNotFoundError("Failed to download file: network is unreachable")

    monkeypatch.setattr(open_clip, "download_pretrained", fail)
    assert export_cli("--backbone", "vitl14", "--output", tmp_path / "a.scclip") == 2
    message = capsys.readouterr().err.strip().splitlines()[-1]
    assert "could not download the weights 'openai' of ViT-L-14-quickgelu" in message
    assert "--checkpoint FILE" in message


def test_a_download_is_read_like_a_file(micro_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The hub hands over a path; from there on it is the path of --checkpoint."""
    import open_clip

    monkeypatch.setattr(open_clip, "download_pretrained", lambda _: str(micro_checkpoint))
    with pytest.raises(
        pipeline.ExportError, match=r"width 128 \(the tensors\) or 768 \(open_clip's ViT-B-16"
    ):
        pipeline.load_model(Source(backbone="vitb16"), lambda _: None)


def test_an_existing_report_is_kept_without_force(
    micro_checkpoint: Path, export_cli: Export, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report, bundle = tmp_path / "report.json", tmp_path / "micro.scclip"
    report.write_text("mine")
    asked = ("--checkpoint", micro_checkpoint, "--calibration", "none", "--output", bundle)
    assert export_cli(*asked, f"--json={report}") == 2
    assert "report.json exists; pass --force" in capsys.readouterr().err
    assert report.read_text() == "mine"
    assert not bundle.exists()
    assert export_cli(*asked, f"--json={report}", "--force") == 0
    assert json.loads(report.read_text()) == manifest(bundle)


@pytest.mark.parametrize("context", [2, 8])
def test_a_text_tower_of_few_tokens(
    context: int,
    micro_state: State,
    export_cli: Export,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    few = micro_state["positional_embedding"][:context].clone()
    save_file(micro_state | {"positional_embedding": few}, tmp_path / "few.safetensors")
    bundle = tmp_path / "few.scclip"
    asked = ("--checkpoint", tmp_path / "few.safetensors", "--calibration", "maskclip", "--output", bundle)
    if context == 2:
        assert export_cli(*asked) == 2
        assert "takes 2 tokens; a name between start and end needs 3" in capsys.readouterr().err
        return
    assert export_cli(*asked) == 0
    assert Segmenter(bundle, classes="cat; dog", templates="none", cache=False).vocabulary.classes == (
        "cat",
        "dog",
    )


def test_an_existing_bundle_is_kept_without_force(
    micro_checkpoint: Path, export_cli: Export, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.scclip").mkdir()
    (tmp_path / "a.scclip" / "mine").write_text("keep")
    assert export_cli("--checkpoint", micro_checkpoint, "--output", tmp_path / "a.scclip") == 2
    assert "exists; pass --force" in capsys.readouterr().err
    assert (tmp_path / "a.scclip" / "mine").read_text() == "keep"


def test_missed_parity_leaves_no_bundle_and_keeps_the_old_one(
    micro_checkpoint: Path,
    export_cli: Export,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from scclip_export import parity

    monkeypatch.setattr(parity, "_TIMES", 1e-3)
    monkeypatch.setattr(parity, "_FLOOR", 0.0)
    old = tmp_path / "a.scclip"
    old.mkdir()
    (old / "bundle.json").write_text('{"format_version": 1}')
    assert export_cli("--checkpoint", micro_checkpoint, "--output", old, "--force", *LAYERS) == 2
    output = capsys.readouterr().err
    assert "parity missed by encoder.fp32.onnx" in output
    assert "MISSED" in output
    assert [path.name for path in tmp_path.rglob("*")] == ["a.scclip", "bundle.json"]


def parity_of(**figures: float) -> Parity:
    exact = {
        "features_max_abs": 0.0,
        "logits_max_abs": 0.0,
        "features_mean_abs": 0.0,
        "labels_agreement": 1.0,
    }
    return Parity(
        thresholds=Thresholds(max_abs=2e-5, mean_abs=1e-3, labels=0.9),
        windows=1,
        tied_windows=0,
        outliers_agreement=None,
        outlier_sets_equal=None,
        batches=(1,),
        queries=(1,),
        **exact | figures,
    )


@pytest.mark.parametrize(
    "figure", ["features_max_abs", "logits_max_abs", "features_mean_abs", "labels_agreement"]
)
@pytest.mark.parametrize("value", [float("nan"), 0.5])
def test_nan_and_large_differences_fail_parity(figure: str, value: float) -> None:
    assert parity_of().passed
    assert not parity_of(**{figure: value}).passed


@pytest.mark.parametrize(
    ("layers", "patch", "expected"),
    [
        (12, 16, (8, 3, (3, 10), 0.3, "published")),
        (24, 14, (16, 6, (8, 19), 0.1, "published")),
        (12, 32, (8, 3, (3, 10), 0.3, "extrapolated")),
        (32, 14, (21, 8, (11, 25), 0.1, "extrapolated")),
        (4, 16, (2, 1, (1, 2), 0.1, "extrapolated")),
    ],
)
def test_calibration_is_published_or_extrapolated(layers: int, patch: int, expected: tuple) -> None:
    c = calibration_for(layers, patch)
    assert (c.pre_layer, c.post_layer, c.fusion_layers, c.cls_residual, c.source) == expected
    c.check(layers=layers, num_patches=196)


def test_too_shallow_a_model_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 4 transformer blocks"):
        calibration_for(3, 16)


@pytest.mark.filterwarnings("ignore")
def test_every_backbone_of_the_table_is_known_to_open_clip() -> None:
    import open_clip

    from scclip_export.checkpoint.backbones import BACKBONES, model_config

    for row in BACKBONES.values():
        assert model_config(row.architecture)["vision_cfg"]["width"]
        assert open_clip.get_pretrained_cfg(row.architecture, row.pretrained)
