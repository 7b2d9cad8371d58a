"""The decode kernel against the method's own words in float64, and against the runtime's decode."""

import numpy as np
import pytest
import torch

from oracles.decode import case, naive_labels, naive_map
from scclip_kernels.triton import decode as decoding
from scclip_kernels.triton.decode import BLOCK_X, ROWS, AxisTables, decode, decode_reference
from scclip_rt.decode.bands import band_plan
from scclip_rt.decode.decode import decode as decode_on_host
from scclip_rt.decode.settings import DecodeSettings

GEOMETRY = [
    pytest.param((48, 64), (11, 40), 32, 16, (4, 4), id="overlapping"),
    pytest.param((20, 20), (10, 21), 20, 20, (5, 5), id="one-window"),
    pytest.param((50, 77), (10, 33), 32, 16, (2, 4), id="smaller-output"),
]


def tables(plan) -> tuple[AxisTables, AxisTables]:
    rows, columns = band_plan(plan, rows=ROWS["BLOCK_Y"], columns=BLOCK_X)
    return AxisTables.of(rows, "cpu"), AxisTables.of(columns, "cpu")


def settings(num_classes, query_class=(), **options) -> DecodeSettings:
    return DecodeSettings(query_class=query_class, num_classes=num_classes, **options)


def run(arguments, query_class, num_classes, function=decode, **options):
    features, text, _, plan = arguments
    logits = torch.from_numpy(features) @ torch.from_numpy(text).T
    classes = torch.as_tensor(query_class, dtype=torch.int32)
    return function(logits, *tables(plan), classes, settings(num_classes, **options))


@pytest.mark.parametrize(("size", "shape", "window", "stride", "grid"), GEOMETRY)
@pytest.mark.parametrize("queries", [1, 37])
def test_labels_and_confidence_are_those_of_the_method(size, shape, window, stride, grid, queries) -> None:
    arguments = case(queries, size, shape, window, stride, grid, queries)
    classes = np.arange(queries) // 2  # two synonyms each
    count = int(classes.max()) + 1
    labels, confidence = run(arguments, classes, count, with_confidence=True)
    maps = naive_map(*arguments[:3], grid, shape)
    expected, gap, best = naive_labels(maps, classes, count, 40.0, 0, 0, None)
    assert labels.dtype == torch.uint8
    clear = gap > 1e-5
    assert clear.mean() > 0.99
    np.testing.assert_array_equal(labels.numpy()[clear], expected[clear])
    np.testing.assert_allclose(confidence.numpy(), best, rtol=2e-5)


@pytest.mark.parametrize("background", [None, 1])
@pytest.mark.parametrize(("prob", "area"), [(0.3, 0), (0, 0.1), (0.3, 0.1), (0.3, 1.0)])
def test_thresholds_are_those_of_the_runtime(background, prob, area) -> None:
    arguments = case(7, (48, 64), (11, 40), 32, 16, (4, 4), 12)
    features, text, _, plan = arguments
    classes = np.arange(12) % 5
    options = {"prob_threshold": prob, "area_threshold": area, "background": background, "logit_scale": 10.0}
    labels, confidence = run(arguments, classes, 5, with_confidence=True, **options)
    asked = settings(5, classes, with_confidence=True, **options)
    expected = decode_on_host(features, text, plan, asked, threads=1)
    assert len(np.unique(expected.labels)) > 1 or area == 1.0
    assert (labels.numpy() == expected.labels).mean() > 0.999
    np.testing.assert_allclose(confidence.numpy(), expected.confidence, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("options", [{}, {"area_threshold": 0.1, "with_confidence": True}])
def test_strips_are_the_whole(monkeypatch, options) -> None:
    """Little scratch memory, so the columns are decoded a block at a time: four of them, the last cut short."""
    arguments = case(14, (48, 64), (11, 101), 32, 16, (4, 4), 12)
    whole = run(arguments, np.arange(12), 12, **options)
    monkeypatch.setattr(decoding, "STRIP_BYTES", 1)
    assert decoding.blocks_per_strip(4, 1) == 1
    for part, expected in zip(run(arguments, np.arange(12), 12, **options), whole, strict=True):
        assert part is expected is None or torch.equal(part, expected)
    monkeypatch.setattr(decoding, "STRIP_BYTES", 3 * 4 * 32 * 100)
    assert decoding.blocks_per_strip(4, 100) == 2  # not three and one


def test_many_rows_of_cells_in_a_block() -> None:
    """A smaller output, four windows over a pixel: more cells than have their weights in registers."""
    arguments = case(15, (64, 90), (12, 40), 32, 8, (4, 4), 9)
    rows, _ = tables(arguments[3])
    assert rows.span[:, 1].max() > ROWS["MANY"]
    labels, confidence = run(arguments, np.arange(9), 9, with_confidence=True)
    expected, wide = run(arguments, np.arange(9), 9, function=decode_reference, with_confidence=True)
    assert (labels == expected).float().mean() > 0.999
    torch.testing.assert_close(confidence, wide, rtol=1e-5, atol=1e-7)


def test_a_query_that_is_no_number_wins_nowhere() -> None:
    features, text, _, plan = case(16, (40, 40), (9, 33), 40, 40, (5, 5), 10)
    logits = torch.from_numpy(features) @ torch.from_numpy(text).T
    broken = logits.clone()
    broken[..., 4] = float("nan")
    logits[..., 4] = -1e3
    classes = torch.arange(10, dtype=torch.int32)
    expected, _ = decode(logits, *tables(plan), classes, settings(10))
    assert torch.equal(decode(broken, *tables(plan), classes, settings(10))[0], expected)
    all_broken = torch.full_like(logits, float("nan"))
    assert (decode(all_broken, *tables(plan), classes, settings(10))[0] == 255).all()


def test_without_soft_max_labels_are_the_same() -> None:
    arguments = case(8, (48, 64), (11, 40), 32, 16, (4, 4), 12)
    classes = np.arange(12)
    hard, none = run(arguments, classes, 12)
    assert none is None
    assert torch.equal(hard, run(arguments, classes, 12, with_confidence=True)[0])
    assert torch.equal(hard, run(arguments, classes, 12, function=decode_reference)[0])


def test_equal_queries_go_to_the_first() -> None:
    features, text, _, plan = case(9, (40, 40), (9, 33), 40, 40, (5, 5), 40)
    logits = torch.from_numpy(features) @ torch.from_numpy(text).T
    logits[..., [20, 35]] = logits[..., [3]]  # in the same block of queries, and in the next
    classes = torch.arange(40, dtype=torch.int32)
    labels, _ = decode(logits, *tables(plan), classes, settings(40))
    assert 3 in labels
    assert 20 not in labels
    assert 35 not in labels


def test_many_classes_have_labels_of_16_bits() -> None:
    arguments = case(10, (40, 40), (9, 35), 40, 40, (5, 5), 6)
    classes = np.array([5, 300, 299, 254, 255, 256])
    labels, _ = run(arguments, classes, 301, prob_threshold=0.5, area_threshold=0.3)
    features, text, _, plan = arguments
    asked = settings(301, classes, prob_threshold=0.5, area_threshold=0.3)
    expected = decode_on_host(features, text, plan, asked, threads=1)
    assert labels.dtype == torch.uint16
    assert expected.unlabelled in expected.labels
    assert (labels.numpy() == expected.labels).mean() > 0.999


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_narrow_logits_are_read_as_they_are(dtype) -> None:
    features, text, _, plan = case(11, (40, 40), (9, 35), 40, 40, (5, 5), 6)
    logits = (torch.from_numpy(features) @ torch.from_numpy(text).T).to(dtype)
    classes = torch.arange(6, dtype=torch.int32)
    asked = settings(6, with_confidence=True)
    labels, confidence = decode(logits, *tables(plan), classes, asked)
    wide_labels, wide = decode(logits.float(), *tables(plan), classes, asked)
    assert torch.equal(labels, wide_labels)
    assert torch.equal(confidence, wide)


def test_strided_logits_are_taken() -> None:
    arguments = case(12, (40, 40), (9, 35), 40, 40, (5, 5), 6)
    features, text, _, plan = arguments
    logits = torch.from_numpy(features) @ torch.from_numpy(text).T
    strided = torch.stack([logits, logits], dim=-1)[..., 0]
    assert not strided.is_contiguous()
    classes = torch.arange(6, dtype=torch.int32)
    got, _ = decode(strided, *tables(plan), classes, settings(6))
    assert torch.equal(got, run(arguments, np.arange(6), 6)[0])


def test_arguments_that_do_not_fit_are_refused() -> None:
    features, text, _, plan = case(13, (40, 40), (9, 35), 40, 40, (5, 5), 6)
    logits = torch.from_numpy(features) @ torch.from_numpy(text).T
    classes = torch.arange(6, dtype=torch.int32)
    with pytest.raises(ValueError, match="query_class must have shape"):
        decode(logits, *tables(plan), classes[:5], settings(6))
    with pytest.raises(ValueError, match="query_class must be int32 on cpu"):
        decode(logits, *tables(plan), classes.long(), settings(6))
    with pytest.raises(ValueError, match=r"tables are for 5×5 patches; the logits have 1 windows of 20$"):
        decode(logits[:, :20], *tables(plan), classes, settings(6))
    rows, _ = tables(plan)
    with pytest.raises(ValueError, match=r"columns\.band must have shape \(2, any, 32\); got \(3, 4, 4\)"):
        decode(logits, rows, rows._replace(length=35), classes, settings(6))
    with pytest.raises(ValueError, match="labels hold 1 to 65,534 classes"):
        decode(logits, *tables(plan), classes, settings(70_000))
    with pytest.raises(ValueError, match=r"logits is torch\.float64"):
        decode(logits.double(), *tables(plan), classes, settings(6))
