"""A bundle may carry ready vocabularies; they are used when no classes are named."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from scclip_rt import Segmenter
from scclip_rt.cli import run
from synthetic import scene


def test_a_ready_vocabulary_is_the_default(
    micro_checkpoint: Path, export_cli: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    classes = tmp_path / "animals.txt"
    classes.write_text("background, wall\ncat, kitten\ndog\n")
    bundle = tmp_path / "micro.scclip"
    options = ("--calibration", "maskclip", "--vocabulary", classes, "--output", bundle)
    assert export_cli("--checkpoint", micro_checkpoint, *options) == 0
    assert (bundle / "vocabularies" / "animals.safetensors").is_file()
    assert run(["inspect", str(bundle)]) == 0
    assert "animals" in capsys.readouterr().out

    image = scene(240, 300, 5)
    ready, embedded = Segmenter(bundle), Segmenter(bundle, classes=classes)
    assert ready.vocabulary.classes == ("background", "cat", "dog")
    assert ready.vocabulary.background == 0
    np.testing.assert_allclose(ready.vocabulary.embeddings, embedded.vocabulary.embeddings, atol=1e-6)
    assert np.array_equal(ready(image).labels, embedded(image).labels)


def test_without_one_classes_must_be_named(
    micro_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = tmp_path / "image.png"
    Image.fromarray(scene(60, 80, 0)).save(image)
    assert run(["segment", str(micro_bundle), str(image), "--output", str(tmp_path / "out")]) == 2
    assert "no classes: pass --classes FILE|NAMES or --vocabulary FILE" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
