"""Decoding equals the method written naively: upsample, average, resize, soft-max (METHOD §4), in float64."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import scclip_rt.decode.best as best_module
import scclip_rt.decode.field as field_module
from oracles.decode import case, naive_labels, naive_map, unit
from scclip_rt.decode.best import FEW_QUERIES
from scclip_rt.decode.decode import Decoded, decode
from scclip_rt.decode.plan import decode_plan, label_type
from scclip_rt.decode.settings import DecodeSettings
from scclip_rt.errors import BackendError, OptionError
from scclip_rt.image.geometry import Tiling

UNIT = {"prob_threshold": 0.0, "area_threshold": 0.0, "background": None}


def check(features, text, tiling, plan, query_class, num_classes, scale=10.0, **options) -> Decoded:
    options = UNIT | options
    result = decode(
        features,
        text,
        plan,
        DecodeSettings(
            query_class=query_class,
            num_classes=num_classes,
            logit_scale=scale,
            with_confidence=True,
            **options,
        ),
    )
    maps = naive_map(features, text, tiling, plan.grid, plan.shape)
    labels, gap, best = naive_labels(maps, query_class, num_classes, scale, **options)
    clear = gap > 1e-4
    assert clear.mean() > 0.8
    assert np.array_equal(result.labels[clear], labels[clear])
    assert np.abs(result.confidence - best).max() < max(1e-5, 2e-7 * scale)  # float32 logits, scaled
    return result


@settings(max_examples=40)
@given(
    st.integers(0, 10**6),
    st.integers(32, 90),
    st.integers(32, 90),
    st.integers(1, 150),
    st.integers(1, 150),
    st.integers(1, 32),
    st.sampled_from([(2, 2), (4, 4), (3, 5)]),
    st.integers(1, 12),
    st.sampled_from([None, 1, 2]),
)
def test_any_size_equals_the_naive_form(seed, height, width, out_h, out_w, stride, grid, queries, threads):
    features, text, tiling, plan = case(seed, (height, width), (out_h, out_w), 32, stride, grid, queries)
    check(features, text, tiling, plan, range(queries), queries)
    alone = decode(
        features, text, plan, DecodeSettings(query_class=range(queries), num_classes=queries), threads=threads
    )
    both = decode(
        features,
        text,
        plan,
        DecodeSettings(query_class=range(queries), num_classes=queries, with_confidence=True),
    )
    assert np.array_equal(alone.labels, both.labels)


def test_photo_size_with_windows_of_the_method():
    features, text, tiling, plan = case(1, (336, 448), (375, 500), 224, 112, (14, 14), 40)
    check(features, text, tiling, plan, range(40), 40)


def test_whole_image_is_one_window():
    rng = np.random.default_rng(2)
    tiling = Tiling.whole(96, 160)
    plan = decode_plan(tiling, (6, 10), (77, 131))
    check(unit(rng, 1, 60, 8), unit(rng, 5, 8), tiling, plan, range(5), 5)


@pytest.mark.parametrize("shape", [(1, 1), (1, 300), (300, 1), (64, 64)])
def test_extreme_outputs(shape):
    features, text, tiling, plan = case(3, (64, 96), shape, 32, 16, (4, 4), 6)
    check(features, text, tiling, plan, range(6), 6)


def test_plan_matrices_average_and_interpolate():
    plan = decode_plan(Tiling.windows(64, 96, window=32, stride=16), (4, 4), (50, 70))
    for axis, cells in ((plan.rows, 12), (plan.columns, 20)):
        matrix = axis.matrix()
        assert matrix.shape == (axis.length, cells)
        assert np.allclose(matrix.sum(axis=1), 1, atol=1e-6)
        assert matrix.min() >= 0


@settings(max_examples=40)
@given(
    st.integers(0, 10**6),
    st.sampled_from([None, 0, 2]),
    st.sampled_from([0.0, 0.2, 0.5]),
    st.sampled_from([0.0, 0.05, 0.3, 0.95]),
    st.floats(1, 60),
)
def test_thresholds_synonyms_and_area_rule(seed, background, prob_threshold, area_threshold, scale):
    features, text, tiling, plan = case(seed, (48, 64), (70, 90), 32, 16, (4, 4), 9)
    check(
        features,
        text,
        tiling,
        plan,
        [0, 1, 1, 2, 3, 3, 3, 4, 5],
        6,
        scale,
        background=background,
        prob_threshold=prob_threshold,
        area_threshold=area_threshold,
    )


def test_without_background_uncertain_pixels_are_unlabelled():
    features, text, tiling, plan = case(5, (48, 64), (60, 60), 32, 16, (4, 4), 4)
    result = check(features, text, tiling, plan, range(4), 4, 5.0, prob_threshold=0.5)
    assert (result.labels == 255).any()
    with_background = check(features, text, tiling, plan, range(4), 4, 5.0, prob_threshold=0.5, background=1)
    assert not (with_background.labels == 255).any()


def test_no_class_large_enough_leaves_everything_unlabelled():
    features, text, tiling, plan = case(5, (48, 64), (60, 60), 32, 16, (4, 4), 4)
    assert (check(features, text, tiling, plan, range(4), 4, area_threshold=1.0).labels == 255).all()


@pytest.mark.parametrize("area_threshold", [0.0, 0.02])
@pytest.mark.parametrize("with_confidence", [False, True])
def test_query_chunks_do_not_change_the_result(monkeypatch, area_threshold, with_confidence):
    features, text, _, plan = case(6, (64, 96), (130, 200), 32, 16, (4, 4), 40)
    options = {
        "query_class": np.arange(40) // 2,
        "num_classes": 20,
        "area_threshold": area_threshold,
        "background": 3,
        "prob_threshold": 0.1,
        "with_confidence": with_confidence,
    }
    whole = decode(features, text, plan, DecodeSettings(**options))
    monkeypatch.setattr(field_module, "MAX_CHUNK", 7)
    chunked = decode(features, text, plan, DecodeSettings(**options))
    assert np.array_equal(whole.labels, chunked.labels)
    if with_confidence:
        assert np.allclose(whole.confidence, chunked.confidence, atol=1e-6)


@pytest.mark.parametrize("queries", [3, FEW_QUERIES, FEW_QUERIES + 16])
def test_equal_queries_give_the_first(queries):
    features, _, _, plan = case(7, (32, 32), (40, 40), 32, 32, (4, 4), 1)
    text = np.repeat(unit(np.random.default_rng(0), 1, 16), queries, axis=0)
    classes = np.roll(np.arange(queries), 1)
    found = decode(features, text, plan, DecodeSettings(query_class=classes, num_classes=queries))
    assert (found.labels == queries - 1).all()


def test_both_layouts_of_a_tile_give_the_same(monkeypatch):
    features, text, tiling, plan = case(13, (64, 96), (130, 200), 32, 16, (4, 4), 24)
    few = check(features, text, tiling, plan, range(24), 24)
    monkeypatch.setattr(best_module, "FEW_QUERIES", 0)
    many = check(features, text, tiling, plan, range(24), 24)
    assert (few.labels == many.labels).mean() > 0.9999
    assert np.allclose(few.confidence, many.confidence, atol=1e-6)


def test_memory_does_not_grow_with_queries_times_pixels():
    """A map per query would be 2.9 GB here."""
    features, text, _, plan = case(14, (336, 448), (600, 800), 224, 112, (14, 14), 1500)
    decode(features, text[:2], plan, DecodeSettings(query_class=range(2), num_classes=2))  # what is made once
    tracemalloc.start()
    found = decode(
        features, text, plan, DecodeSettings(query_class=range(1500), num_classes=1500, with_confidence=True)
    )
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(np.unique(found.labels)) > 100
    assert peak < 60e6


def test_many_classes_need_16_bits():
    assert label_type(254) == (np.uint8, 255)
    assert label_type(255) == (np.uint16, 65535)
    with pytest.raises(OptionError, match="65,534"):
        label_type(70_000)
    features, text, tiling, plan = case(8, (48, 48), (50, 50), 32, 16, (4, 4), 300)
    result = check(features, text, tiling, plan, range(300), 300)
    assert result.labels.dtype == np.uint16
    assert result.unlabelled == 65535


@pytest.mark.parametrize("scale", [5.0, 60.0])
def test_queries_that_can_not_win_are_left_out_without_a_trace(scale):
    # Patches that resemble each other, as CLIP's do: most queries lose everywhere in a tile.
    rng = np.random.default_rng(12)
    features, text, tiling, plan = case(12, (48, 64), (150, 200), 32, 16, (4, 4), 80)
    features = 0.15 * features + unit(rng, 1, 1, 16)
    features = (features / np.linalg.norm(features, axis=-1, keepdims=True)).astype(np.float32)
    result = check(features, text, tiling, plan, range(80), 80, scale)
    assert len(np.unique(result.labels)) < 40
    alone = decode(
        features, text, plan, DecodeSettings(query_class=range(80), num_classes=80, logit_scale=scale)
    )
    assert np.array_equal(alone.labels, result.labels)


def test_large_logit_scales_stay_finite():
    features, text, tiling, plan = case(9, (48, 48), (50, 50), 32, 16, (4, 4), 5)
    check(features, text, tiling, plan, range(5), 5, scale=2000.0)


def test_not_finite_features_are_refused():
    features, text, _, plan = case(10, (48, 48), (50, 50), 32, 16, (4, 4), 5)
    features[0, 3, 1] = np.nan
    with pytest.raises(BackendError, match="NaN"):
        decode(features, text, plan, DecodeSettings(query_class=range(5), num_classes=5))


def test_arguments_that_do_not_fit_are_refused():
    features, text, _, plan = case(11, (48, 48), (50, 50), 32, 16, (4, 4), 5)
    for bad in (
        {"query_class": range(4)},
        {"query_class": [0, 1, 2, 3, 5]},
        {"features": features[:1]},
        {"text": text[:, :3]},
    ):
        given = {"features": features, "text": text, "query_class": range(5)} | bad
        with pytest.raises(ValueError, match=r"fit|query|plan"):
            decode(
                given["features"],
                given["text"],
                plan,
                DecodeSettings(query_class=given["query_class"], num_classes=5),
            )
    with pytest.raises(OptionError, match="threads"):
        decode(features, text, plan, DecodeSettings(query_class=range(5), num_classes=5), threads=0)


def test_classes_without_a_sure_pixel_are_dropped() -> None:
    """Prompt denoising: the pixels of a class that nowhere reaches the threshold go to the best that remains."""
    plan = decode_plan(Tiling.whole(64, 64), (4, 4), (64, 64))
    text = np.eye(3, 8, dtype=np.float32)
    features = np.zeros((1, 16, 8), np.float32)
    features[0, :8, 0], features[0, 8:, 1], features[0, 8:, 2] = 1.0, 0.50, 0.49
    settings = {"query_class": [0, 1, 2], "num_classes": 3, "logit_scale": 20.0}
    found = [
        decode(features, text, plan, DecodeSettings(**settings, class_threshold=threshold)).labels
        for threshold in (0.0, 0.4, 0.6)
    ]
    assert set(np.unique(found[0])) == set(np.unique(found[1])) == {0, 1}
    assert set(np.unique(found[2])) == {0}


def test_stretched_maps_reach_from_0_to_the_scale() -> None:
    """A class that is weak everywhere wins where it is strongest."""
    plan = decode_plan(Tiling.whole(64, 64), (4, 4), (64, 64))
    features = np.zeros((1, 16, 2), np.float32)
    features[0, :, 0] = np.linspace(1.0, 0.9, 16)
    features[0, :, 1] = np.linspace(0.0, 0.1, 16)
    settings = {"query_class": [0, 1], "num_classes": 2, "logit_scale": 1.0}
    text = np.eye(2, dtype=np.float32)
    plain = decode(features, text, plan, DecodeSettings(**settings))
    stretched = decode(features, text, plan, DecodeSettings(**settings, maps="minmax", with_confidence=True))
    assert set(np.unique(plain.labels)) == {0}
    assert stretched.labels[0, 0] == 0
    assert stretched.labels[-1, -1] == 1
    assert stretched.confidence is not None
    assert abs(stretched.confidence.max() - np.e / (1 + np.e)) < 1e-5  # maps of 1 and 0
