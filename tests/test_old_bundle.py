"""A bundle of format 1 as version 0.1.0 wrote it, kept in tests/data: it opens, and gives the labels it gave then."""

import tarfile
from pathlib import Path

import numpy as np
import pytest

from scclip_rt import Segmenter
from synthetic import scene

DATA = Path(__file__).parent / "data"
CLASSES = ["cat", "dog, puppy", "sky", "grass"]


@pytest.fixture(scope="module")
def old_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("old")
    with tarfile.open(DATA / "bundle-format1.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    return folder / "small.scclip"


@pytest.mark.parametrize("whole_image", [False, True])
def test_a_bundle_of_version_0_1_0_gives_the_same_labels(old_bundle: Path, whole_image: bool) -> None:
    segment = Segmenter(
        old_bundle,
        classes=CLASSES,
        short_side=96,
        whole_image=whole_image,
        backend="onnxruntime",
        precision="fp32",
        cache=False,
    )
    result = segment(scene(120, 160, 5), confidence=not whole_image)
    with np.load(DATA / "bundle-format1.npz") as expected:
        same = result.labels == expected["whole" if whole_image else "windows"]
        assert same.mean() >= 0.9995  # another processor rounds ties otherwise
        if result.confidence is not None:
            assert np.abs(result.confidence - expected["confidence"]).max() < 1e-3
