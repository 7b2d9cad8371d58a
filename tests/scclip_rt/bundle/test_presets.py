"""`--preset`: benchmarks and the dial under one option."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from scclip_rt import Segmenter
from scclip_rt.bench.case import Case, parse_target
from scclip_rt.bundle.bundle import Bundle
from scclip_rt.bundle.manifest import BenchmarkSpec
from scclip_rt.bundle.presets import DIAL, split
from scclip_rt.cli import run
from scclip_rt.errors import OptionError
from scclip_rt.serving.model import LoadedModel
from scclip_rt.serving.settings import ModelSource, ServeSettings
from tiny_bundle import STRIDE, WINDOW, edit_manifest, encoder_entry


@pytest.fixture
def bundle(own_bundle: Path) -> Bundle:
    """With int8 beside fp32, and a benchmark of its own."""
    grid = {"kind": "window", "rows": 6, "columns": 6}
    entries = [encoder_entry("encoder.fp32.onnx", grid, precision) for precision in ("fp32", "int8")]
    edit_manifest(own_bundle, lambda document: document.update(encoders=entries))
    opened = Bundle.open(own_bundle)
    own = {"voc21": BenchmarkSpec(logit_scale=65.0, stride=24, short_side=120)}
    return replace(opened, manifest=replace(opened.manifest, format_version=2, benchmarks=own))


@pytest.mark.parametrize(
    ("preset", "precision", "stride", "scale"),
    [
        (None, "fp32", STRIDE, None),
        ("exact", "fp32", STRIDE, None),
        ("balanced", "int8", STRIDE, None),
        ("fast", "int8", WINDOW, None),
        ("voc21", "fp32", 24, 65.0),
        ("voc21,exact", "fp32", 24, 65.0),
        ("voc21,balanced", "int8", 24, 65.0),
        (" fast , voc21 ", "int8", WINDOW, 65.0),
    ],
)
def test_a_benchmark_a_point_of_the_dial_or_both(
    bundle: Bundle, preset: str | None, precision: str, stride: int, scale: float | None
) -> None:
    segmenter = Segmenter(bundle, preset=preset)
    assert segmenter.backend.describe()["precision"] == precision
    assert segmenter.preparation.stride == stride
    assert segmenter.options.logit_scale == (scale or bundle.decoding.logit_scale)


def test_what_is_given_goes_before_the_dial(bundle: Bundle) -> None:
    segmenter = Segmenter(bundle, preset="fast", precision="fp32", stride=32)
    assert segmenter.backend.describe()["precision"] == "fp32"
    assert segmenter.preparation.stride == 32


@pytest.mark.parametrize(
    ("preset", "words"),
    [
        (
            "fats",
            "no preset 'fats'; did you mean 'fast'; there are exact, balanced, fast, and in this bundle bench",
        ),
        ("fast,exact", "at most one benchmark and at most one of exact, balanced, fast"),
        ("voc21,voc20", "at most one benchmark"),
        ("fast,", "with a comma between"),
        ("", "with a comma between"),
    ],
)
def test_what_is_no_preset_lists_both_kinds(bundle: Bundle, preset: str, words: str) -> None:
    with pytest.raises(OptionError, match=words) as caught:
        Segmenter(bundle, preset=preset)
    assert caught.value.field == "preset"


def test_inspect_lists_the_benchmarks(own_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def with_benchmarks(document: dict[str, Any]) -> None:
        document["format_version"] = 2
        document["preprocessing"]["whole_image"] = "floor"
        document["benchmarks"] = {"voc21": {"whole_image": True, "prob_threshold": 0.1}, "vdd": {}}

    edit_manifest(own_bundle, with_benchmarks)
    assert run(["inspect", str(own_bundle)]) == 0
    told = [line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines() if line.strip()]
    assert ["preset", "vdd: nothing"] in told
    assert ["preset", "voc21: prob_threshold 0.1, whole_image True"] in told
    assert any("beyond the last whole patch is left out" in line[-1] for line in told)


def test_a_bundle_without_benchmarks_says_so(bundle_path: Path) -> None:
    with pytest.raises(OptionError, match="in this bundle no benchmark, as its method has none"):
        Segmenter(bundle_path, preset="voc21")


def test_a_point_goes_with_a_dataset_s_own_settings(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    from scclip_rt.evaluation import open_dataset, open_segmenter

    dataset = replace(open_dataset("demo"), name="voc21")
    segmenter = open_segmenter(bundle, dataset, templates="none", preset="fast")
    assert (segmenter.preparation.stride, segmenter.options.logit_scale) == (WINDOW, 65.0)
    assert segmenter.backend.describe()["precision"] == "int8"


def test_every_command_takes_it(bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image = Path("scclip_rt/demo/scene.png").absolute()
    options = ["--preset", "fast", "--json", "--limit", "1"]
    assert run(["eval", "demo", "--dataset", "demo", *options]) == 0
    assert json.loads(capsys.readouterr().out)["backend"]["precision"] == "int8"
    words = ["segment", "demo", str(image), "--output", str(tmp_path), "--preset", "fast", "--json"]
    assert run(words) == 0
    assert json.loads(capsys.readouterr().out)["backend"]["precision"] == "int8"
    assert run(["segment", "demo", str(image), "--output", str(tmp_path / "no"), "--preset", "fats"]) == 2
    assert "did you mean 'fast'" in capsys.readouterr().err


def test_a_service_takes_it(bundle: Bundle) -> None:
    settings = ServeSettings(
        models=(ModelSource(name="tiny", path=str(bundle.path)),), classes=("sky", "sea"), preset="fast"
    )
    model = LoadedModel.load("tiny", Bundle.open(bundle.path), settings)
    assert model.segmenter.preparation.stride == WINDOW


@pytest.mark.parametrize(
    ("target", "fields"),
    [
        ("a.scclip@preset=fast", {"preset": "fast"}),
        ("a.scclip@int8@stride=224@short_side=448", {"precision": "int8", "stride": 224, "short_side": 448}),
    ],
)
def test_a_target_of_bench_takes_it(target: str, fields: dict[str, Any]) -> None:
    assert parse_target(target, Case(bundle="")) == Case(bundle="a.scclip", **fields)


@pytest.mark.parametrize("part", ["stride=0", "stride=x", "size=3", "short_side="])
def test_a_part_of_a_target_has_its_range(part: str) -> None:
    with pytest.raises(OptionError):
        parse_target(f"a.scclip@{part}", Case(bundle=""))


def test_the_points_are_the_library_s() -> None:
    """libscclip has the same names (cpp/src/bundle/manifest.cpp)."""
    text = (Path(__file__).parents[3] / "cpp/src/bundle/manifest.cpp").read_text("utf-8")
    assert all(f'"{name}"' in text for name in DIAL)


def test_names_are_told_apart() -> None:
    assert split("voc21,fast") == ("voc21", "fast")
    assert split(None) == (None, None)
