"""PAMR equals its definition written naively in float64 (METHOD §4, last paragraph)."""

import sys

import numpy as np
import pytest
import torch
from torch.nn import functional

from oracles.decode import case, naive_labels, naive_map, unit
from scclip_rt.decode.decode import decode
from scclip_rt.decode.pamr import pixel_weights
from scclip_rt.decode.plan import decode_plan
from scclip_rt.decode.settings import DecodeSettings
from scclip_rt.errors import ImageError, OptionError
from scclip_rt.image.geometry import Tiling

MEAN = (122.771, 116.746, 104.094)
STD = (68.501, 66.632, 70.323)
OFFSETS = [
    (y * dilation, x * dilation)
    for dilation in (8, 16)
    for y in (-1, 0, 1)
    for x in (-1, 0, 1)
    if (y, x) != (0, 0)
]


def neighbours(maps: torch.Tensor) -> torch.Tensor:
    """(C, H, W) → (C, 16, H, W), borders replicated."""
    _, height, width = maps.shape
    padded = functional.pad(maps[None], (16, 16, 16, 16), mode="replicate")[0]
    return torch.stack(
        [padded[:, 16 + y : 16 + y + height, 16 + x : 16 + x + width] for y, x in OFFSETS], dim=1
    )


def naive_weights(resized: np.ndarray, shape: tuple[int, int]) -> torch.Tensor:
    image = (torch.from_numpy(resized).double() - torch.tensor(MEAN).double()) / torch.tensor(STD).double()
    image = functional.interpolate(image.permute(2, 0, 1)[None], size=shape, mode="bilinear")[0]
    taps = neighbours(image)
    deviation = torch.cat([taps, image[:, None], image[:, None]], dim=1).std(dim=1, keepdim=True)
    return (-(taps - image[:, None]).abs() / (1e-8 + 0.1 * deviation)).mean(0).softmax(0)


def naive_refine(maps: np.ndarray, weights: torch.Tensor, steps: int) -> np.ndarray:
    refined = torch.from_numpy(maps)
    for _ in range(steps):
        refined = (neighbours(refined) * weights).sum(1)
    return refined.numpy()


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (48, 64, 3), np.uint8)
    image[20:40, 10:50] = 90  # flat: σ is 0 within
    return image


@pytest.mark.parametrize("resized", [(48, 64), (48, 1), (1, 64)])
@pytest.mark.parametrize("shape", [(70, 90), (48, 64), (5, 130), (1, 130), (40, 1), (1, 2), (1, 1)])
def test_weights_equal_the_definition(photo, resized, shape):
    image = photo[: resized[0], : resized[1]]
    weights = pixel_weights(image, shape, mean=MEAN, std=STD).weights
    assert weights.shape == (16, *shape)
    # Where σ is 0 up to rounding the definition divides rounding errors by 1e-8: only the method's own zero is exact.
    assert np.abs(weights - naive_weights(image, shape).numpy()).max() < 2e-4
    assert np.allclose(weights.sum(0), 1, atol=1e-5)


def test_flat_images_average_all_neighbours_equally():
    flat = np.full((30, 40, 3), 77, np.uint8)
    assert np.allclose(pixel_weights(flat, (30, 40), mean=MEAN, std=STD).weights, 1 / 16)


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("opencv", [True, False], ids=["opencv", "numpy"])
@pytest.mark.parametrize(
    "options",
    [
        {"prob_threshold": 0.0, "area_threshold": 0.0, "background": None},
        {"prob_threshold": 0.3, "area_threshold": 0.1, "background": 0},
    ],
)
@pytest.mark.parametrize("shape", [(70, 90), (1, 90), (70, 1), (1, 3)])
def test_refined_labels_equal_the_definition(photo, options, shape, opencv, threads, monkeypatch):
    if not opencv:
        monkeypatch.setitem(sys.modules, "cv2", None)
    features, text, tiling, plan = case(1, (48, 64), shape, 32, 16, (4, 4), 7)
    query_class = [0, 0, 1, 2, 3, 3, 4]
    weights = pixel_weights(photo, shape, mean=MEAN, std=STD, steps=4)
    result = decode(
        features,
        text,
        plan,
        DecodeSettings(
            query_class=query_class, num_classes=5, logit_scale=20.0, with_confidence=True, **options
        ),
        refine=weights,
        threads=threads,
    )
    maps = naive_refine(naive_map(features, text, tiling, (4, 4), shape), naive_weights(photo, shape), 4)
    labels, gap, best = naive_labels(maps, query_class, 5, 20.0, **options)
    clear = gap > 5e-3
    assert clear.mean() > 0.9
    assert np.array_equal(result.labels[clear], labels[clear])
    assert np.abs(result.confidence - best).max() < 1e-3


def test_threads_and_confidence_do_not_change_refined_labels(photo):
    features, text, _, plan = case(2, (48, 64), (50, 60), 32, 16, (4, 4), 9)
    weights = pixel_weights(photo, (50, 60), mean=MEAN, std=STD)
    classes = {"query_class": range(9), "num_classes": 9}
    one = decode(features, text, plan, DecodeSettings(**classes), refine=weights, threads=1)
    soft = DecodeSettings(with_confidence=True, **classes)
    many = decode(features, text, plan, soft, refine=weights, threads=4)
    assert np.array_equal(one.labels, many.labels)


def test_one_query_and_one_pixel():
    rng = np.random.default_rng(3)
    plan = decode_plan(Tiling.whole(32, 32), (4, 4), (1, 1))
    weights = pixel_weights(np.zeros((32, 32, 3), np.uint8), (1, 1), mean=MEAN, std=STD)
    result = decode(
        unit(rng, 1, 16, 8),
        unit(rng, 1, 8),
        plan,
        DecodeSettings(query_class=[0], num_classes=1),
        refine=weights,
    )
    assert result.labels.tolist() == [[0]]


def test_sizes_that_cannot_work_are_refused(photo):
    with pytest.raises(ImageError, match="without --refine"):
        pixel_weights(photo, (10_000, 10_000), mean=MEAN, std=STD)
    with pytest.raises(OptionError, match="at least 1 step"):
        pixel_weights(photo, (10, 10), mean=MEAN, std=STD, steps=0)
    features, text, _, plan = case(2, (48, 64), (50, 60), 32, 16, (4, 4), 9)
    with pytest.raises(ValueError, match="pixel weights are for"):
        decode(
            features,
            text,
            plan,
            DecodeSettings(query_class=range(9), num_classes=9),
            refine=pixel_weights(photo, (50, 61), mean=MEAN, std=STD),
        )
