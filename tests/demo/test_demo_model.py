"""The shipped demo checkpoint: its form, and that it segments scenes it has never seen."""

import json

import numpy as np
import pytest
import torch

from benchmarks.models import DEMO_CHECKPOINT
from scclip_rt.demo.scenes import CLASSES
from scclip_rt.evaluation.metrics import ConfusionMatrix

SCENES = 6


@pytest.fixture(scope="module")
def path():
    return DEMO_CHECKPOINT


@pytest.fixture(scope="module")
def loaded(demo, path):
    return demo.checkpoint.load_checkpoint(path)


def test_the_file_is_small_and_says_what_tensors_do_not(path):
    from safetensors import safe_open

    assert path.stat().st_size <= 16_000_000
    with safe_open(path, "np") as file:
        metadata = file.metadata()
        table = file.get_tensor("token_embedding.weight")
        index = file.get_tensor("token_embedding.index")
    assert set(metadata) == {"vision_heads", "text_heads", "activation", "architecture", "calibration"}
    assert metadata["activation"] == "quickgelu"
    assert index.shape == (49408,)
    assert index.dtype == np.int32
    assert index.max() == len(table) - 1
    assert set(json.loads(metadata["calibration"])) == {
        "pre_layer",
        "post_layer",
        "fusion_layers",
        "cls_residual",
        "similarity_floor",
        "outlier_neighbors",
        "outlier_fraction",
    }


def test_the_exporter_reads_the_same_model(path, loaded):
    from scclip_export.checkpoint.load_model import Source, load_model

    model, index, calibration = loaded
    exported = load_model(Source(checkpoint=path), progress=lambda _: None)
    assert exported.architecture.heads == model.visual.transformer.resblocks[0].attn.num_heads
    assert exported.checkpoint.calibration["cls_residual"] == calibration["cls_residual"]
    state = exported.clip.state_dict()
    for name, value in model.state_dict().items():
        if name == "token_embedding.weight":
            value = value[index.long()]
        assert torch.equal(state[name], value), name


def test_unknown_words_share_one_row(loaded):
    import open_clip

    _, index, _ = loaded
    tokens = open_clip.tokenizer.SimpleTokenizer()(["xylophone", "brick"])
    assert index[tokens[0, 1].item()] == 0
    assert index[tokens[1, 1].item()] > 0


def test_the_model_segments_unseen_scenes_and_calibration_makes_the_difference(demo, loaded):
    model, index, calibration = loaded
    config = demo.evaluate.calibration_from(calibration, len(model.visual.transformer.resblocks))
    evaluator = demo.evaluate.Evaluator(model, demo.evaluate.class_embeddings(model, index), config)
    matrices = {method: ConfusionMatrix(len(CLASSES)) for method in ("scclip", "none")}
    for scene in demo.evaluate.scenes("test", SCENES):
        encoded = evaluator.encode(scene)
        for method, matrix in matrices.items():
            matrix.update(encoded.mask, evaluator.label(encoded, method))
    # Six scenes are few: pixels are the steadier measure. docs/demo-model-card.md has mIoU over 300.
    accuracy = {method: matrix.scores().aacc for method, matrix in matrices.items()}
    assert accuracy["scclip"] > 75
    assert accuracy["scclip"] > accuracy["none"] + 35
