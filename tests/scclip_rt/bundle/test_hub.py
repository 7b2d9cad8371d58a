"""Bundles out of a Hugging Face cache: links to blobs named by their hash."""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from scclip_rt import Segmenter
from scclip_rt.bundle.bundle import Bundle
from scclip_rt.bundle.model_card import model_card
from scclip_rt.errors import BundleError
from tiny_bundle import blocks_image

REVISION = "a" * 40


@pytest.fixture
def cached(bundle_path: Path, tmp_path: Path) -> Path:
    """A cache as huggingface_hub makes it; returns the snapshot's folder."""
    root = tmp_path / "hub" / "models--own--tiny"
    snapshot = root / "snapshots" / REVISION
    for folder in ("blobs", "refs"):
        (root / folder).mkdir(parents=True)
    (root / "refs" / "main").write_text(REVISION)
    for file in (path for path in bundle_path.rglob("*") if path.is_file()):
        blob = root / "blobs" / hashlib.sha256(file.read_bytes()).hexdigest()
        shutil.copy(file, blob)
        link = snapshot / file.relative_to(bundle_path)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(blob, link.parent))
    return snapshot


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_links_to_blobs_give_the_same_labels(cached: Path, bundle_path: Path, backend: str) -> None:
    pytest.importorskip(backend)
    image = blocks_image(80, 120)
    expected = Segmenter(bundle_path, classes="cat; sky", templates="none", backend=backend)(image).labels
    found = Segmenter(cached, classes="cat; sky", templates="none", backend=backend)(image).labels
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("name", ["hf://own/tiny", "hf://own/tiny@main", f"hf://own/tiny@{REVISION}"])
def test_the_offline_cache_is_honoured(cached: Path, tmp_path: Path, name: str) -> None:
    """In a process of its own: huggingface_hub reads its settings when it is imported."""
    pytest.importorskip("huggingface_hub")
    code = f"from scclip_rt import Bundle; print(Bundle.open({name!r}).path)"
    environment = os.environ | {"HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env=environment,
        timeout=100,
        check=False,
    )
    assert done.stdout.strip() == str(cached), done.stderr


@pytest.mark.parametrize("name", ["hf://own", "hf://own/a/b", "hf://own/a@", "hf://own/../x", "hf:// own/a"])
def test_other_forms_are_refused(name: str) -> None:
    with pytest.raises(BundleError, match="the form is hf://OWNER/NAME") as caught:
        Bundle.open(name)
    assert caught.value.field == "bundle"


def test_the_model_card_says_what_the_bundle_says(bundle_path: Path) -> None:
    bundle = Bundle.open(bundle_path)
    card = model_card(bundle, "own/tiny")
    assert card.startswith("---\nlibrary_name: scclip-rt\n")
    assert bundle.model.checkpoint_sha256 in card
    assert "hf://own/tiny" in card
    for encoder in bundle.encoders:
        assert f"| {encoder.file} | {encoder.precision} |" in card
