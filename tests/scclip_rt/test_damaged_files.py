"""Damaged files from strangers: a reader takes them, or refuses them as the project's own error, and that is all."""

import contextlib
import io
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from scclip_rt.backends.cuda.kernels import parse_kernel_list
from scclip_rt.bundle.engine_sidecar import parse_sidecar
from scclip_rt.bundle.manifest import parse_manifest
from scclip_rt.bundle.onnx_weights import external_locations
from scclip_rt.errors import ScclipError
from scclip_rt.image.load import load_image
from scclip_rt.vocabulary.classes import parse_classes
from scclip_rt.vocabulary.file import load_vocabulary
from scclip_rt.vocabulary.tokenizer import Tokenizer

CORPUS = Path(__file__).parents[2] / "cpp/fuzz/corpus.tar.xz"


def tokenize(path: Path) -> None:
    Tokenizer.from_json(path.read_text("utf-8", "replace")).encode(["a photo of a cat"])


READERS: dict[str, Callable[[Path], Any]] = {
    "engine": lambda path: parse_sidecar(path.read_bytes()),
    "kernels": lambda path: parse_kernel_list(path.read_bytes()),
    "manifest": lambda path: parse_manifest(path.read_bytes()),
    "names": parse_classes,
    "onnx": external_locations,
    "tokenizer": tokenize,
    "vocabulary": load_vocabulary,
}


@pytest.mark.parametrize("reader", READERS)
def test_what_fuzzing_the_readers_of_c_found(reader: str, tmp_path: Path) -> None:
    """Inputs that reach every branch there, damaged ones most of them."""
    with tarfile.open(CORPUS) as archive:
        inputs = [m for m in archive.getmembers() if m.isfile() and f"corpus/{reader}/" in m.name]
        assert inputs
        for member in inputs:
            stream = archive.extractfile(member)
            assert stream is not None
            path = tmp_path / "input"
            path.write_bytes(stream.read())
            with contextlib.suppress(ScclipError):
                READERS[reader](path)


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM"])
def test_images_with_bytes_changed_or_cut_off(kind: str) -> None:
    rng = np.random.default_rng(0)
    stream = io.BytesIO()
    Image.fromarray(rng.integers(0, 256, (9, 13, 3), np.uint8)).save(stream, kind)
    whole = stream.getvalue()
    assert load_image(whole).shape == (9, 13, 3)
    for _ in range(100):
        data = bytearray(whole[: rng.integers(len(whole))] if rng.random() < 0.2 else whole)
        for at in rng.integers(max(len(data), 1), size=rng.integers(1, 9)):
            data[at : at + 1] = rng.integers(0, 256, 1, np.uint8).tobytes()
        try:
            image = load_image(bytes(data), max_pixels=1_000_000)
        except ScclipError:
            continue
        assert image.dtype == np.uint8
        assert image.shape[2] == 3
