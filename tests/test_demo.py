"""The packaged demo: small, offline, and right about what it shows."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import scclip_rt
from scclip_rt import Bundle, Segmenter
from scclip_rt.cli import run
from scclip_rt.demo.scenes import CLASSES
from scclip_rt.demo.scenes import test_scene as held_out_scene
from scclip_rt.vocabulary.classes import parse_classes
from tiny_bundle import edit_manifest

PACKAGE = Path(scclip_rt.__file__).parent


def test_the_bundle_is_sound_small_and_made_from_the_committed_checkpoint() -> None:
    bundle = Bundle.open("demo")
    bundle.verify_all()
    assert sum(file.bytes for file in bundle.manifest.files.values()) <= 30e6
    checkpoint = Path(__file__).parents[1] / "benchmarks/demo/demo_clip.safetensors"
    assert checkpoint.stat().st_size <= 16e6
    from scclip_rt.files import sha256_file

    assert bundle.model.checkpoint_sha256 == sha256_file(checkpoint)
    assert bundle.manifest.calibration["source"] == "checkpoint"


def test_new_names_go_on_from_their_templates_beginnings(tmp_path: Path) -> None:
    """By a small graph on the weights that are there anyway; a copy without it embeds the same."""
    bundle = Bundle.open("demo")
    resumed = bundle.text_encoder.resumed
    assert resumed is not None
    assert bundle.data_files(resumed.file) == bundle.data_files(bundle.text_encoder.file)
    assert bundle.manifest.files[resumed.file].bytes < 50_000
    whole = shutil.copytree(bundle.path, tmp_path / "whole.scclip")
    edit_manifest(whole, lambda document: document["text_encoder"].pop("resumed"))
    names = ["giraffe", "traffic light", "tartan"]
    rows = [Segmenter(path, classes=names, cache=False).vocabulary.embeddings for path in ("demo", whole)]
    np.testing.assert_allclose(*rows, rtol=0, atol=1e-6)


def test_the_ready_vocabulary_holds_the_classes_in_the_order_of_the_masks() -> None:
    names = [names[0] for names in parse_classes(PACKAGE / "demo/classes.txt")]
    assert tuple(names) == CLASSES == Segmenter("demo").vocabulary.classes


def test_the_shipped_scene_is_segmented_right(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scene = PACKAGE / "demo/scene.png"
    assert run(["segment", "demo", str(scene), "--output", str(tmp_path)]) == 0
    assert str(tmp_path / "scene.overlay.png") in capsys.readouterr().out
    labels = np.asarray(Image.open(tmp_path / "scene.labels.png"))
    truth = held_out_scene(8)
    assert np.array_equal(np.asarray(Image.open(scene)), truth.image)
    assert (labels == truth.mask).mean() >= 0.9


@pytest.mark.parametrize("whole_image", [False, True])
def test_held_out_scenes_are_segmented_well_in_windows_and_whole(whole_image: bool) -> None:
    segment = Segmenter("demo", whole_image=whole_image)
    scenes = [held_out_scene(index) for index in range(10)]
    right = [(segment(scene.image).labels == scene.mask).mean() for scene in scenes]
    assert np.mean(right) >= 0.75


def test_classes_of_the_users_choice_work_offline() -> None:
    result = Segmenter("demo", classes=["lawn, grass", "tartan", "giraffe"])(PACKAGE / "demo/scene.png")
    assert min(result.shares()[name] for name in ("lawn", "tartan", "giraffe")) > 0.15
