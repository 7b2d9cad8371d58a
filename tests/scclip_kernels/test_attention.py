"""Attention against torch's own and against the calibrated form written out head by head."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from scclip_kernels import (
    calibrated_attention,
    cosine_similarity,
    merge_heads,
    scaled_attention,
    similarity_attention,
    split_heads,
)


def test_scaled_attention_is_scaled_dot_product_attention() -> None:
    q, k, v = torch.randn(3, 2, 4, 17, 8)
    expected = F.scaled_dot_product_attention(q, k, v)
    torch.testing.assert_close(scaled_attention(q * 8**-0.5, k, v), expected, rtol=1e-5, atol=1e-6)


def test_mask_is_added_to_the_scores() -> None:
    q, k, v = torch.randn(3, 1, 2, 9, 8)
    mask = torch.full((9, 9), float("-inf")).triu(1)
    expected = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    torch.testing.assert_close(scaled_attention(q * 8**-0.5, k, v, mask), expected, rtol=1e-5, atol=1e-6)


def test_heads_split_and_merge() -> None:
    x = torch.randn(2, 5, 12)
    assert torch.equal(merge_heads(split_heads(x, 3)), x)
    assert torch.equal(split_heads(x, 3)[:, 1], x[..., 4:8])


def calibrated_oracle(key: Tensor, value: Tensor, similarity: Tensor, heads: int) -> Tensor:
    """One window and one pass, (N, D), as SC-CLIP states it: both weight matrices per head, averaged."""
    scores = 3 * (similarity - similarity.mean())
    scores[scores < 0] = float("-inf")
    p = scores.softmax(dim=-1)
    out = []
    for k, v in zip(key.chunk(heads, dim=-1), value.chunk(heads, dim=-1), strict=True):
        own = (k @ k.T / k.shape[-1] ** 0.5).softmax(dim=-1)
        out.append((p @ v + own @ v) / 2)
    return torch.cat(out, dim=-1)


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize(("patches", "heads"), [(49, 2), (37, 3)])
def test_calibrated_attention_sums_both_passes(batch: int, patches: int, heads: int) -> None:
    width = 16 * heads
    guide = torch.randn(batch, patches, 4, dtype=torch.float64)
    key, value = torch.randn(2, 2, batch, patches, width, dtype=torch.float64)
    similarity = F.normalize(guide, dim=-1) @ F.normalize(guide, dim=-1).transpose(1, 2)
    got = calibrated_attention(key, value, similarity_attention(similarity), heads)
    for i in range(batch):
        expected = sum(
            calibrated_oracle(key[p, i], value[p, i], similarity[i].clone(), heads) for p in range(2)
        )
        # The key softmax runs in float32 by design.
        torch.testing.assert_close(got[i], expected, rtol=1e-5, atol=1e-5)


def test_every_patch_attends_to_something() -> None:
    weights = similarity_attention(cosine_similarity(torch.randn(2, 100, 3)))
    torch.testing.assert_close(weights.sum(dim=-1), torch.ones(2, 100))


def test_similarities_below_the_window_mean_get_no_weight() -> None:
    similarity = cosine_similarity(torch.randn(2, 40, 6))
    weights = similarity_attention(similarity)
    assert torch.equal(weights == 0, similarity < similarity.mean(dim=(1, 2), keepdim=True))
