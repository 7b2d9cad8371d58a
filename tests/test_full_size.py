"""ViT-B/16 and ViT-L/14 at full size, with synthetic weights: exported by the command and run on a real photo."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file
from skimage import data

from oracles.scclip import NaiveScclip
from scclip_rt import Segmenter
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

    photo = data.coffee()  # 400 × 600
    single, batch = (
        Segmenter(bundle, classes=CLASSES, templates="none", batch=size) for size in (1, windows)
    )
    one, six = single.encode(photo), batch.encode(photo)
    assert len(one.features) == len(six.features) >= windows
    np.testing.assert_allclose(six.features, one.features, atol=2e-5)
    assert np.array_equal(single.decode(one).labels, batch.decode(six).labels)

    labels = batch(photo).labels
    assert labels.shape == photo.shape[:2]
    assert len(np.unique(labels)) > 1
    if architecture == "vitb16":
        assert (labels == _naive_labels(checkpoint, photo, batch)).mean() >= 0.9999


def _naive_labels(checkpoint: Path, photo: np.ndarray, segmenter: Segmenter) -> np.ndarray:
    import torch

    from scclip_export.checkpoint.architecture import build_clip, infer_architecture
    from scclip_export.checkpoint.read import load_checkpoint

    state = load_checkpoint(checkpoint).state
    architecture, _ = infer_architecture(state)
    naive = NaiveScclip(clip=build_clip(architecture, state), pre=8, post=3, multi=(3, 10), res_cls=0.3)
    vocabulary = segmenter.vocabulary
    return naive.segment(photo, torch.from_numpy(vocabulary.embeddings), list(vocabulary.query_class))
