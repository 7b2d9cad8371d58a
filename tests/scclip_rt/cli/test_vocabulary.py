"""`scclip vocabulary`, and the options of `scclip embed` that look at images."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from scclip_rt import Segmenter
from scclip_rt.bundle.bundle import Bundle
from scclip_rt.cli import run
from scclip_rt.demo.scenes import tuning_scene
from scclip_rt.errors import OptionError
from scclip_rt.evaluation.class_use import check_probabilities
from scclip_rt.vocabulary.classes import parse_classes
from scclip_rt.vocabulary.file import load_vocabulary, save_vocabulary


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes")
    for index in range(2):
        Image.fromarray(tuning_scene(index).image).save(folder / f"{index}.png")
    return folder


CLASSES = "grass; lawn; sky; lava; magma; tiger"


def call(*arguments: object) -> int:
    return run([str(argument) for argument in arguments])


def test_inspect_names_near_duplicates_without_images(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("vocabulary", "inspect", "demo", "--classes", CLASSES) == 0
    lines = capsys.readouterr().out.splitlines()
    near = [line.split("  ")[1] for line in lines if "near-duplicate" in line]
    assert sorted(near) == ["grass – lawn", "lava – magma"]


def test_inspect_tells_what_images_pick(scenes: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("vocabulary", "inspect", "demo", "--classes", CLASSES, "--images", scenes, "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert report["images"] == 2
    assert sum(row["share"] for row in report["classes"]) == pytest.approx(1.0, abs=1e-4)
    pair = next(pair for pair in report["pairs"] if set(pair["classes"]) == {"grass", "lawn"})
    assert pair["cosine"] > 0.9


def test_suggest_writes_a_list_that_can_be_used(
    scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "better.txt"
    asked = ("vocabulary", "suggest", "demo", "--classes", CLASSES, "--images", scenes, "--output", output)
    assert call(*asked) == 0
    told = capsys.readouterr().out
    classes = parse_classes(output)
    left_out = [line.split("'")[1] for line in told.splitlines() if line.startswith("leave out")]
    comments = [line for line in output.read_text().splitlines() if line.startswith("# no image picked: ")]
    assert comments == [f"# no image picked: {name}" for name in left_out]
    assert len(classes) < 6
    assert f"{len(classes)} of 6 classes are left" in told
    assert {"grass", "lawn"} in [set(names) for names in classes]
    assert call(*asked) == 2
    assert "pass --force" in capsys.readouterr().err


def test_embed_keeps_each_class_s_templates(
    scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    templates = tmp_path / "templates.txt"
    templates.write_text("a photo of {}.\n{}\na sketch of {}.\n")
    output = tmp_path / "chosen.safetensors"
    asked = ("embed", "demo", "--classes", "grass; tiger", "--templates", templates, "--output", output)
    assert call(*asked, "--template-images", scenes, "--template-count", 4) == 2
    assert "more than the 3 templates" in capsys.readouterr().err
    assert call(*asked, "--template-images", scenes, "--template-count", 1) == 0
    assert "the 1 of least entropy" in load_vocabulary(output).templates


def test_options_of_images_go_with_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "v.safetensors"
    assert call("embed", "demo", "--classes", "grass", "--template-count", 2, "--output", output) == 2
    assert "--template-count goes with --template-images" in capsys.readouterr().err
    assert call("vocabulary", "inspect", "demo", "--classes", CLASSES, "--limit", 2) == 2
    assert "--limit goes with --images" in capsys.readouterr().err
    assert not output.exists()


def test_stretched_maps_have_no_probabilities_to_choose_by() -> None:
    demo = Bundle.open("demo")
    decoding = replace(demo.decoding, maps="minmax")
    with pytest.raises(OptionError, match="maps of demo's method are stretched"):
        check_probabilities(replace(demo, manifest=replace(demo.manifest, decoding=decoding)), "images")


def test_names_that_no_class_file_can_hold_are_not_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    vocabulary, output = tmp_path / "v.safetensors", tmp_path / "better.txt"
    segment = Segmenter("demo", classes=[["Washington, D.C."], ["lawn"]])
    save_vocabulary(segment.vocabulary, vocabulary)
    asked = ("vocabulary", "suggest", "demo", "--vocabulary", vocabulary)
    assert call(*asked, "--output", output) == 2
    assert "commas and semicolons separate" in capsys.readouterr().err
    assert not output.exists()
    assert call(*asked) == 0
