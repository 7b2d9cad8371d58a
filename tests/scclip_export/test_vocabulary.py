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
    # Embeddings of whole texts and resumed ones differ in their last bits: a pixel between two classes may too.
    agreement = (ready(image).labels == embedded(image).labels).mean()
    assert agreement >= 0.9999, agreement


def test_class_files_are_looked_at_before_anything_is_exported(
    micro_checkpoint: Path, export_cli: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = tmp_path / "a" / "names.txt", tmp_path / "b" / "names.txt"
    for path in (first, second):
        path.parent.mkdir()
        path.write_text("cat\ndog\n")
    output = tmp_path / "out.scclip"
    asked = ("--checkpoint", micro_checkpoint, "--calibration", "none", "--output", output)
    assert export_cli(*asked, "--vocabulary", tmp_path / "absent.txt") == 2
    assert "can't read the class list" in (told := capsys.readouterr().err)
    assert export_cli(*asked, "--vocabulary", first, "--vocabulary", second) == 2
    assert "would both be vocabularies/names.safetensors" in (told := told + capsys.readouterr().err)
    assert "reading" not in told
    assert not output.exists()


def test_a_ready_vocabulary_of_commas_alone_is_warned_of_and_compared_as_surgery_does(
    micro_checkpoint: Path, export_cli: Callable[..., int], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    classes, bundle = tmp_path / "commas.txt", tmp_path / "micro.scclip"
    classes.write_text("cat, lynx, ocelot\n")
    options = ("--calibration", "surgery", "--blocks", "2", "--vocabulary", classes, "--output", bundle)
    assert export_cli("--checkpoint", micro_checkpoint, *options) == 0
    assert '"cat; lynx; ocelot"' in caplog.text
    vocabulary = Segmenter(bundle).vocabulary
    assert (vocabulary.classes, vocabulary.background) == (("cat", "background"), 1)


def test_without_one_classes_must_be_named(
    micro_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = tmp_path / "image.png"
    Image.fromarray(scene(60, 80, 0)).save(image)
    assert run(["segment", str(micro_bundle), str(image), "--output", str(tmp_path / "out")]) == 2
    assert "no classes: pass --classes FILE|NAMES or --vocabulary FILE" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
