"""Decisions that rounding flips are explained by float64; damage is not."""

import copy
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from scclip_export.model.calibration import CalibrationConfig, SfpConfig
from scclip_export.model.encoder import CalibratedEncoder
from scclip_export.model.parts import LastBlockParts, Term
from scclip_export.onnx.runners import decision_runner, onnx_runner
from scclip_export.onnx.trace import onnx_from_encoder
from scclip_export.parity import Reference, check_encoder, run_encoder
from scclip_export.ties import Distance, Outcome, outcome, unexplained
from synthetic import scene

SCCLIP = CalibrationConfig(pre_layer=1, post_layer=0, fusion_layers=(1, 3), cls_residual=0.3)
SFP = SfpConfig(pre_layer=1, post_layer=0, fusion_layers=(1, 3), cls_residual=0.3)
CONFIGS = {
    "scclip": SCCLIP,
    "sfp": SFP,
    "sfp, norm": replace(SFP, detector="norm"),
    "sfp, lof": replace(SFP, detector="lof"),
}
WINDOW: NDArray[np.uint8] = scene(224, 224, 0)


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """Two threads add up products in another order in one run than in the next."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(params=CONFIGS)
def encoder(request: pytest.FixtureRequest, micro_clip: nn.Module) -> CalibratedEncoder:
    return encoder_of(micro_clip, CONFIGS[request.param])


def encoder_of(clip: nn.Module, config: CalibrationConfig) -> CalibratedEncoder:
    return CalibratedEncoder(clip.visual, config, grid=(14, 14)).eval()  # type: ignore[arg-type]


@pytest.fixture
def plain(encoder: CalibratedEncoder) -> Outcome:
    return outcome(encoder, WINDOW)


def budget(encoder: CalibratedEncoder, plain: Outcome) -> Distance:
    return plain.distance(outcome(encoder, WINDOW, plain.decisions, float64=True)).budget(4.0, 1e-6)


def test_a_window_that_rounds_more_than_the_first_is_held_to_its_own_rounding(
    micro_clip: nn.Module, tmp_path: Path
) -> None:
    """Of a method without decisions; the first window may round four times less than another (GEM, massive tokens)."""
    parts = LastBlockParts(terms=(Term(scores="qq"),))
    encoder = CalibratedEncoder(micro_clip.visual, parts, grid=(14, 14)).eval()  # type: ignore[arg-type]
    path = tmp_path / "encoder.onnx"
    onnx_from_encoder(encoder, path, opset=20, example_size=(224, 224))
    reference = Reference.of(encoder, np.stack([WINDOW, scene(224, 224, 1)]))
    strict = replace(reference, noise=Distance(features=0.0, similarities=0.0, scores=0.0))
    sound = run_encoder(strict, onnx_runner(path))
    worst = max(np.abs(ran.outputs[0][0] - reference.expected[0].features).max() for ran in sound)
    assert worst > strict.noise.budget(8.0, 1e-6).features
    parity = check_encoder(strict, sound)
    assert parity.passed
    assert parity.thresholds.max_abs is not None
    assert parity.thresholds.max_abs < 1e-4
    for ran in sound:
        ran.outputs[0][-1] += 2e-4
    assert not check_encoder(strict, sound).passed


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
    assert wide.decisions is not None
    assert wide.decisions.before.dtype == wide.decisions.after.dtype == np.float64
    assert wide.scores is not None
    assert wide.scores.dtype == np.float64
    assert plain.distance(wide).features < 1e-5
    assert all(torch.equal(before[name], tensor) for name, tensor in encoder.state_dict().items())
    assert encoder.policy.linear == torch.float32


@pytest.mark.parametrize("flip", ["before", "above_mean", "after"])
def test_a_flip_as_near_as_rounding_is_explained_and_one_beyond_it_is_not(
    flip: str, encoder: CalibratedEncoder, plain: Outcome
) -> None:
    decisions = plain.decisions
    assert decisions is not None
    threshold = 0.0 if flip == "above_mean" else np.float32(SCCLIP.similarity_floor)
    values = getattr(decisions, flip).copy()
    gaps = np.abs(values - threshold)
    place = np.unravel_index(gaps.argmin(), gaps.shape)
    values[place] = np.nextafter(
        threshold, np.float32(-9 if values[place] >= threshold else 9), dtype=np.float32
    )
    flipped = replace(decisions, **{flip: values})
    assert flipped.differ_from(decisions, SCCLIP.similarity_floor) == 1

    if flip == "before":  # SFP's goes to 0 or comes from there, and so to the other side of the mean as well
        own = outcome(encoder, WINDOW, flipped).decisions
        assert own is not None
        flipped = replace(flipped, above_mean=own.above_mean)
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


def test_sfps_outliers_are_salient_and_as_many_as_may_be(micro_clip: nn.Module) -> None:
    encoder = encoder_of(micro_clip, SFP)
    plain = outcome(encoder, WINDOW)
    assert plain.decisions is not None
    assert plain.scores is not None
    to_class, to_itself = plain.scores
    salient = np.flatnonzero(to_class > to_itself)
    best = salient[np.argsort(-to_class[salient])][: SFP.max_outliers]
    assert set(plain.decisions.outliers.tolist()) - {-1} == set(best.tolist())  # type: ignore[union-attr]


@pytest.mark.parametrize("few", [True, False])
def test_an_outlier_of_sfp_is_explained_as_near_as_rounding(few: bool, micro_clip: nn.Module) -> None:
    """One that just isn't salient any more, and one whose rank another takes."""
    at = outcome(encoder_of(micro_clip, SFP), WINDOW).scores
    assert at is not None
    # A factor by which five patches are salient, or all.
    factor = SFP.salience / np.sort(at[0] / at[1])[-6] if few else 1e5
    encoder = encoder_of(micro_clip, replace(SFP, salience=float(factor)))
    plain = outcome(encoder, WINDOW)
    assert plain.decisions is not None
    assert plain.decisions.outliers is not None
    found = plain.decisions.outliers[plain.decisions.outliers >= 0]
    assert len(found) == (5 if few else 10)
    assert plain.scores is not None
    to_class, to_itself = plain.scores
    least = found[to_class[found].argmin()]
    if few:
        least = found[(to_class / to_itself)[found].argmin()]
        other, gap = -1, float(to_class[least] / to_itself[least] - 1.0)
    else:
        left = np.setdiff1d(np.arange(196), found)
        other = left[to_class[left].argmax()]
        gap = float(to_class[least] / to_class[other] - 1.0)
    outliers = np.sort(np.append(plain.decisions.outliers[plain.decisions.outliers != least], other))
    flipped = replace(plain.decisions, outliers=outliers)
    assert flipped.differ_from(plain.decisions, SFP.similarity_floor) == 1
    graph, wide = (outcome(encoder, WINDOW, flipped, float64=float64) for float64 in (False, True))
    assert graph.decisions is not None
    assert np.array_equal(graph.decisions.outliers, outliers)  # type: ignore[arg-type]
    taken = replace(graph.decisions, outliers=outliers)
    near = graph.distance(wide).budget(4.0, 1e-6)
    assert unexplained(taken, graph.features, wide, replace(near, scores=1.01 * gap + 1e-5)) is None
    assert unexplained(taken, graph.features, wide, replace(near, scores=0.9 * gap - 1e-5)) is not None


def test_a_graph_of_sfp_may_flip_a_pair_on_the_floor(micro_clip: nn.Module, tmp_path: Path) -> None:
    """Its window is held to float64 after the graph's decisions, as SC-CLIP's are."""

    def written(encoder: CalibratedEncoder) -> Path:
        onnx_from_encoder(encoder, tmp_path / "sfp.onnx", opset=20, example_size=(224, 224))
        return tmp_path / "sfp.onnx"

    encoder = encoder_of(micro_clip, SFP)
    run = decision_runner(written(encoder))
    assert run is not None
    text = np.eye(1, encoder.proj.out_features, dtype=np.float32)
    own = outcome(encoder, WINDOW).decisions
    assert own is not None
    before = run(WINDOW[None], text)[1][0][0]
    # Of the similarities that the graph and torch round otherwise, one in the middle becomes the floor.
    lower, upper = np.minimum(own.before, before), np.maximum(own.before, before)
    differ = np.argwhere(lower < upper)
    place = tuple(differ[np.argsort(upper[tuple(differ.T)])[len(differ) // 2]])
    encoder = encoder_of(micro_clip, replace(SFP, similarity_floor=float(upper[place])))
    path = written(encoder)
    # The float64 reference of the noise is of another window: as where the first window of an export has no tie.
    reference = Reference.of(encoder, np.stack([scene(224, 224, 1), WINDOW]))
    runs = run_encoder(reference, onnx_runner(path))
    parity = check_encoder(reference, runs, decisions=lambda: decision_runner(path))
    assert parity.passed, parity
    assert parity.tied_windows >= 1
