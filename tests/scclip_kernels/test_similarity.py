"""Similarities and aggregation against float64."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from scclip_kernels import aggregate, cosine_similarity, similarity_weights


def weights_oracle(features: Tensor, floor: float) -> Tensor:
    similarity = F.cosine_similarity(features.unsqueeze(1), features.unsqueeze(0), dim=-1)
    similarity[similarity < floor] = 0
    return similarity / (similarity.sum(dim=1, keepdim=True) + 1e-6)


@pytest.mark.parametrize("floor", [-1.0, 0.0, 0.4, 0.99])
def test_weights_match_its_definition(floor: float) -> None:
    features = torch.randn(2, 60, 5)
    got = similarity_weights(cosine_similarity(features), floor)
    for window, result in zip(features, got, strict=True):
        torch.testing.assert_close(
            result.double(), weights_oracle(window.double(), floor), rtol=1e-4, atol=1e-6
        )


def test_a_patch_unlike_all_others_keeps_itself() -> None:
    features = torch.eye(8).unsqueeze(0) * 3
    torch.testing.assert_close(aggregate(features, similarity_weights(cosine_similarity(features))), features)


def test_similarity_is_float32_and_symmetric_for_half_features() -> None:
    similarity = cosine_similarity(torch.randn(1, 50, 64).half() * 100)
    assert similarity.dtype == torch.float32
    torch.testing.assert_close(similarity, similarity.transpose(1, 2))
    torch.testing.assert_close(similarity.diagonal(dim1=1, dim2=2), torch.ones(1, 50))


def test_aggregate_keeps_the_dtype_of_the_features() -> None:
    weights = similarity_weights(cosine_similarity(torch.randn(1, 20, 8)))
    assert aggregate(torch.randn(1, 20, 8).half(), weights).dtype == torch.float16
