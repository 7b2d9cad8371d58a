"""ViT-B/16 and ViT-L/14 at full size, with synthetic weights: exported by the command and run on a real photo."""

import gc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file
from skimage import data

from oracles.scclip import NaiveScclip
from scclip_rt import Segmenter
from scclip_rt.vocabulary.file import Vocabulary
from synthetic import clip_state_dict

CLASSES = ["sky", "a cup, mug", "table", "spoon", "person", "wall"]


@pytest.mark.slow
@pytest.mark.parametrize(("architecture", "windows"), [("vitb16", 6), ("vitl14", 6)])
def test_a_photo_is_segmented_at_batch_one_and_six_alike(
    architecture: str, windows: int, export_cli: Callable[..., int], tmp_path: Path
) -> None:
    checkpoint, bundle = tmp_path / "clip.safetensors", tmp_path / "clip.scclip"
    save_file(clip_state_dict(architecture), checkpoint)
    assert export_cli("--backbone", architecture, "--checkpoint", checkpoint, "--output", bundle) == 0
    gc.collect()  # what was traced refers to itself, and to the weights

    photo = data.coffee()  # 400 × 600
    one, labels_of_one, _ = _segmented(bundle, photo, batch=1)
    six, labels, vocabulary = _segmented(bundle, photo, batch=windows)
    assert len(one) == len(six) >= windows
    np.testing.assert_allclose(six, one, atol=2e-5)
    assert np.array_equal(labels_of_one, labels)

    assert labels.shape == photo.shape[:2]
    assert len(np.unique(labels)) > 1
    if architecture == "vitb16":
        assert (labels == _naive_labels(checkpoint, photo, vocabulary)).mean() >= 0.9999


def _segmented(bundle: Path, photo: np.ndarray, *, batch: int) -> tuple[np.ndarray, np.ndarray, Vocabulary]:
    """Features, labels and the classes, by a segmenter that is gone when the next is opened: each holds gigabytes."""
    segmenter = Segmenter(bundle, classes=CLASSES, templates="none", batch=batch)
    encoded = segmenter.encode(photo)
    return encoded.features, segmenter.decode(encoded).labels, segmenter.vocabulary


def _naive_labels(checkpoint: Path, photo: np.ndarray, vocabulary: Vocabulary) -> np.ndarray:
    import torch

    from scclip_export.checkpoint.architecture import build_clip, infer_architecture
    from scclip_export.checkpoint.read import load_checkpoint

    state = load_checkpoint(checkpoint).state
    architecture, _ = infer_architecture(state)
    naive = NaiveScclip(clip=build_clip(architecture, state), pre=8, post=3, multi=(3, 10), res_cls=0.3)
    return naive.segment(photo, torch.from_numpy(vocabulary.embeddings), list(vocabulary.query_class))
