"""Decisions that rounding flips are explained by float64; damage is not."""

import copy
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from scclip_export.model.calibration import CalibrationConfig
from scclip_export.model.encoder import CalibratedEncoder
from scclip_export.ties import Distance, Outcome, outcome, unexplained
from synthetic import scene

CONFIG = CalibrationConfig(pre_layer=1, post_layer=0, fusion_layers=(1, 3), cls_residual=0.3)
WINDOW: NDArray[np.uint8] = scene(224, 224, 0)


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """Two threads add up products in another order in one run than in the next."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def encoder(micro_clip: nn.Module) -> CalibratedEncoder:
    return CalibratedEncoder(micro_clip.visual, CONFIG, grid=(14, 14)).eval()  # type: ignore[arg-type]


@pytest.fixture
def plain(encoder: CalibratedEncoder) -> Outcome:
    return outcome(encoder, WINDOW)


def budget(encoder: CalibratedEncoder, plain: Outcome) -> Distance:
    return plain.distance(outcome(encoder, WINDOW, plain.decisions, float64=True)).budget(4.0, 1e-6)


def test_the_decisions_are_the_encoders(encoder: CalibratedEncoder, plain: Outcome) -> None:
    pixels = torch.from_numpy(WINDOW[None])
    with torch.inference_mode():
        features, _ = encoder.encode(encoder.trunk(pixels), 14, 14)
    assert np.array_equal(plain.features, features[0].numpy())
    following = outcome(encoder, WINDOW, plain.decisions)
    assert np.array_equal(following.features, plain.features)


def test_float64_is_near_and_leaves_the_encoder_as_it_was(encoder: CalibratedEncoder, plain: Outcome) -> None:
    before = copy.deepcopy(encoder.state_dict())
    wide = outcome(encoder, WINDOW, plain.decisions, float64=True)
    assert wide.features.dtype == np.float64
    assert plain.distance(wide).features < 1e-5
    assert all(torch.equal(before[name], tensor) for name, tensor in encoder.state_dict().items())
    assert encoder.policy.linear == torch.float32


@pytest.mark.parametrize("flip", ["before", "above_mean", "after"])
def test_a_flip_as_near_as_rounding_is_explained_and_one_beyond_it_is_not(
    flip: str, encoder: CalibratedEncoder, plain: Outcome
) -> None:
    decisions = plain.decisions
    assert decisions is not None
    threshold = 0.0 if flip == "above_mean" else np.float32(CONFIG.similarity_floor)
    values = getattr(decisions, flip).copy()
    gaps = np.abs(values - threshold)
    place = np.unravel_index(gaps.argmin(), gaps.shape)
    values[place] = np.nextafter(
        threshold, np.float32(-9 if values[place] >= threshold else 9), dtype=np.float32
    )
    flipped = replace(decisions, **{flip: values})
    assert flipped.differ_from(decisions, CONFIG.similarity_floor) == 1

    graph = outcome(encoder, WINDOW, flipped)
    wide = outcome(encoder, WINDOW, flipped, float64=True)
    near = budget(encoder, plain)
    assert (
        graph.distance(replace(wide, decisions=decisions)).features <= near.features
    )  # it follows its own decisions
    allowed = replace(near, similarities=2 * float(gaps.min()) + near.similarities)
    assert unexplained(flipped, graph.features, wide, allowed) is None
    refused = replace(near, similarities=0.4 * float(gaps.min()))
    assert unexplained(flipped, graph.features, wide, refused) is not None


DAMAGE = ("a matrix by 1 %", "heads swapped", "a bias dropped", "the last projection's bias", "outliers")


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_not_explained(damage: str, encoder: CalibratedEncoder, plain: Outcome) -> None:
    spoiled = copy.deepcopy(encoder)
    with torch.no_grad():
        if damage == "a matrix by 1 %":
            spoiled.blocks[2].fc.weight *= 1.01  # type: ignore[union-attr, operator]
        elif damage == "heads swapped":
            spoiled.last.value.weight[:] = torch.cat(list(spoiled.last.value.weight.chunk(2))[::-1])
        elif damage == "a bias dropped":
            spoiled.blocks[1].proj.bias[:] = 0  # type: ignore[union-attr, index]
        elif damage == "the last projection's bias":
            spoiled.last.sum_proj.bias[:] = 0
    graph = outcome(spoiled, WINDOW)
    taken = graph.decisions
    assert taken is not None
    assert taken.outliers is not None
    if damage == "outliers":
        taken = replace(taken, outliers=np.sort((taken.outliers + 7) % 196))
    wide = outcome(encoder, WINDOW, taken, float64=True)
    assert unexplained(taken, graph.features, wide, budget(encoder, plain)) is not None
