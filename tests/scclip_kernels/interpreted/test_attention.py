"""Aggregation and calibrated attention against float64."""

import pytest
import torch

from oracles.kernels import aggregate_oracle, assert_within_budget, attention_oracle, similarities
from scclip_kernels.triton import attention
from scclip_kernels.triton import similarity as by_similarity
from scclip_kernels.triton.attention import calibrated_attention, calibrated_attention_reference
from scclip_kernels.triton.halves import halves
from scclip_kernels.triton.similarity import (
    Similarity,
    aggregate,
    aggregate_reference,
    mean_similarity,
    similarity,
)

FP32, FP16, BF16 = DTYPES = [torch.float32, torch.float16, torch.bfloat16]


@pytest.fixture(autouse=True)
def _large_blocks(request, monkeypatch) -> None:
    """Fewer programs where patches are many: the interpreter's time goes by programs."""
    patches = getattr(getattr(request.node, "callspec", None), "params", {}).get("patches", 49)
    if patches > 100:
        for sizes in (by_similarity.NARROW, by_similarity.WIDE, attention.NARROW, attention.WIDE):
            for block in ("BLOCK_M", "BLOCK_N"):
                monkeypatch.setitem(sizes, block, 128)


def cluster(batch: int, patches: int, width: int) -> torch.Tensor:
    """Features with similarities over the whole range, as a mid layer has them."""
    return torch.randn(batch, 8, width)[:, torch.randint(8, (patches,))] + 0.7 * torch.randn(
        batch, patches, width
    )


@pytest.mark.parametrize(
    ("batch", "patches", "width", "guide_width", "dtype"),
    [
        (3, 49, 40, 24, FP32),
        (3, 49, 40, 24, FP16),
        (3, 49, 40, 24, BF16),
        (1, 196, 64, 48, FP16),
        (1, 197, 300, 40, FP32),
        (1, 256, 64, 64, BF16),
        (1, 300, 32, 33, FP16),
        (1, 577, 48, 32, FP32),
    ],
)
def test_aggregate_of_any_size_and_dtype(batch, patches, width, guide_width, dtype) -> None:
    features, guide = (
        torch.randn(batch, patches, width).to(dtype),
        cluster(batch, patches, guide_width).to(dtype),
    )
    s = similarity(guide)
    oracle, slack = aggregate_oracle(features, guide, 0.4)
    assert_within_budget(aggregate(features, s, 0.4), aggregate_reference(features, s, 0.4), oracle, slack)


@pytest.mark.parametrize("floor", [-1.0, 0.0, 0.99])
def test_aggregate_at_any_floor(floor) -> None:
    features, guide = torch.randn(1, 49, 20), cluster(1, 49, 24)
    oracle, slack = aggregate_oracle(features, guide, floor)
    cosines = similarities(guide)
    total = torch.where(cosines >= floor, cosines, 0.0).sum(dim=-1, keepdim=True)
    # Weights of both signs all but cancel: the last bits of 49 similarities over a sum that is near zero.
    slack = slack + 2.0**-22 * 7 * (features.abs().max() + oracle.abs()) / total.abs()
    s = similarity(guide)
    assert_within_budget(
        aggregate(features, s, floor), aggregate_reference(features, s, floor), oracle, slack
    )


def test_features_and_guide_may_have_other_dtypes_and_strides() -> None:
    features = torch.randn(2, 20, 50).half().transpose(1, 2)[:, 1:]
    guide = cluster(2, 50, 24)[:, 1:]
    got = aggregate(features, similarity(guide), 0.4)
    assert got.dtype == torch.float16
    assert torch.equal(got, aggregate(features.contiguous(), similarity(guide.contiguous()), 0.4))
    oracle, slack = aggregate_oracle(features, guide, 0.4)
    assert_within_budget(got, aggregate_reference(features, similarity(guide), 0.4), oracle, slack)


def test_a_patch_unlike_all_others_keeps_itself() -> None:
    guide = torch.eye(40)[None] * 3
    features = torch.randn(1, 40, 12)
    torch.testing.assert_close(aggregate(features, similarity(guide), 0.4), features, rtol=2e-6, atol=1e-6)


@pytest.mark.parametrize("factor", [1, 500])
@pytest.mark.parametrize("dtype", [FP32, FP16])
def test_products_of_halves_are_as_good_as_those_of_fp32(factor, dtype) -> None:
    """Against float64, with one token of `factor` times the others' norm: each entry over the norms of its rows."""
    rows = cluster(1, 49, 256)
    rows[0, 7] *= factor
    pair, scale, square = halves(rows.to(dtype))
    wide = rows.to(dtype).double()
    norm = wide.norm(dim=-1, keepdim=True)
    oracle = (wide @ wide.transpose(1, 2)) / (norm @ norm.transpose(1, 2))
    high, low = (pair[:, :, i].double() * scale.double().unsqueeze(-1) / norm for i in (0, 1))
    cross = high @ low.transpose(1, 2)
    assert (high @ high.transpose(1, 2) + cross + cross.transpose(1, 2) - oracle).abs().max() < 2.0**-22
    torch.testing.assert_close(square.double(), wide.square().sum(dim=-1), rtol=1e-6, atol=0)
    fp32 = torch.nn.functional.normalize(rows.to(dtype).float(), dim=-1)
    plain = (fp32 @ fp32.transpose(1, 2) - oracle).abs().max()
    features = torch.eye(49)[None]  # what is averaged is then the weights themselves
    kept = torch.where(oracle >= 0.4, oracle, 0.0)
    weights = kept / (kept.sum(dim=-1, keepdim=True) + 1e-6)
    got = aggregate(features, similarity(rows.to(dtype)), 0.4)
    assert (got - weights).abs().max() < 2 * plain + 2.0**-22


def test_rows_of_zeros_and_of_tiny_numbers_have_halves() -> None:
    rows = torch.zeros(1, 8, 16)
    rows[0, 1:4] = torch.randn(3, 16) * torch.tensor([1e-26, 1e-14, 1e18])[:, None]
    pair, scale, _ = halves(rows)
    assert torch.isfinite(pair).all() and torch.isfinite(scale).all()  # noqa: PT018
    assert (pair[0, 0] == 0).all()
    together = pair.double().sum(dim=2) * scale.double().unsqueeze(-1)
    torch.testing.assert_close(together[0, 1:4], rows[0, 1:4].double(), rtol=1e-6, atol=2e-29)


def test_guides_of_large_norm_neither_overflow_nor_lose_their_angle() -> None:
    guide = cluster(1, 49, 64)
    guide[0, 7] *= 4000
    guide = guide.half()
    features = torch.randn(1, 49, 16).half()
    s = similarity(guide)
    oracle, slack = aggregate_oracle(features, guide, 0.4)
    assert_within_budget(aggregate(features, s, 0.4), aggregate_reference(features, s, 0.4), oracle, slack)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_mean_similarity_is_the_mean_of_the_matrix(dtype) -> None:
    guide = cluster(3, 61, 70).to(dtype)
    torch.testing.assert_close(
        mean_similarity(similarity(guide)).double(),
        similarities(guide).mean(dim=(1, 2)),
        rtol=1e-5,
        atol=1e-7,
    )


@pytest.mark.parametrize(
    ("batch", "patches", "heads", "head_dim", "dtype"),
    [
        (3, 49, 3, 16, FP32),
        (1, 49, 5, 20, FP16),
        (1, 49, 5, 20, BF16),
        (1, 196, 2, 64, FP16),
        (1, 300, 1, 32, BF16),
        (1, 577, 1, 16, FP32),
    ],
)
def test_attention_of_any_size_and_dtype(batch, patches, heads, head_dim, dtype) -> None:
    key, value = (2 * torch.randn(2, 2, batch, patches, heads * head_dim)).to(dtype)
    guide = cluster(batch, patches, 24).to(dtype)
    s = similarity(guide)
    oracle, slack = attention_oracle(key, value, guide, heads)
    plain = calibrated_attention_reference(key, value, s, heads)
    assert_within_budget(calibrated_attention(key, value, s, heads), plain, oracle, slack)


@pytest.mark.parametrize("passes", [1, 3])
def test_passes_are_summed(passes) -> None:
    key, value = torch.randn(2, passes, 1, 49, 32)
    guide = cluster(1, 49, 24)
    oracle, slack = attention_oracle(key, value, guide, 2)
    s = similarity(guide)
    plain = calibrated_attention_reference(key, value, s, 2)
    assert_within_budget(calibrated_attention(key, value, s, 2), plain, oracle, slack)


def test_keys_and_values_may_be_slices_of_one_tensor() -> None:
    both = torch.randn(2, 1, 33, 64)  # as the model has them: keys beside values
    key, value = both.chunk(2, dim=-1)
    s = similarity(cluster(1, 33, 24))
    assert torch.equal(
        calibrated_attention(key, value, s, 2),
        calibrated_attention(key.contiguous(), value.contiguous(), s, 2),
    )


def test_a_window_whose_patches_are_all_alike_is_averaged() -> None:
    """Rounding may put the mean above every similarity; the diagonal keeps the rows from being empty."""
    guide = torch.randn(1, 1, 24).expand(1, 49, 24) * torch.rand(1, 49, 1).add(0.5)
    key, value = torch.randn(2, 1, 1, 49, 16)
    assert torch.isfinite(calibrated_attention(key, value, similarity(guide), 1)).all()


def test_keys_of_large_norm_do_not_overflow() -> None:
    key, value = torch.randn(2, 1, 1, 49, 32).half()
    key[0, 0, 3] *= 300
    s = similarity(cluster(1, 49, 24).half())
    oracle, slack = attention_oracle(key, value, s.features, 2)
    plain = calibrated_attention_reference(key, value, s, 2)
    plain = plain if torch.isfinite(plain).all() else oracle.half()  # fp16 scores overflow in plain torch
    assert_within_budget(calibrated_attention(key, value, s, 2), plain, oracle, slack)


def test_a_batch_equals_its_singles() -> None:
    key, value = torch.randn(2, 2, 2, 33, 32)
    guide, features = cluster(2, 33, 24), torch.randn(2, 33, 20)
    s = similarity(guide)
    attended, aggregated = calibrated_attention(key, value, s, 2), aggregate(features, s, 0.4)
    for i in range(2):
        one = Similarity(*(tensor[i : i + 1] for tensor in s))
        assert torch.equal(
            attended[i : i + 1], calibrated_attention(key[:, i : i + 1], value[:, i : i + 1], one, 2)
        )
        assert torch.equal(aggregated[i : i + 1], aggregate(features[i : i + 1], one, 0.4))


def test_arguments_that_do_not_fit_are_refused() -> None:
    guide = torch.randn(1, 49, 24)
    key = torch.randn(2, 1, 49, 32)
    s = similarity(guide)
    with pytest.raises(ValueError, match=r"similarity\.features must have shape \(1, 40, any\)"):
        aggregate(torch.randn(1, 40, 8), s)
    with pytest.raises(ValueError, match=r"value must have shape \(2, 1, 49, 32\)"):
        calibrated_attention(key, key[..., :16], s, 2)
    with pytest.raises(ValueError, match="5 heads must divide a width of 32"):
        calibrated_attention(key, key, s, 5)
    with pytest.raises(ValueError, match="they must be alike"):
        calibrated_attention(key, key.half(), s, 2)
    with pytest.raises(ValueError, match="float32, float16 or bfloat16"):
        similarity(guide.double())
