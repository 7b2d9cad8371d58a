"""What the calibration of the last block is computed with: one protocol for plain torch, Triton and plug-in nodes.

`calibrate` of scclip_export is written once over it. What stands for the similarities of a window differs: plain torch
writes the matrix out, Triton keeps the factors it is made from.
"""

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from scclip_kernels import anomaly, attention, outlier_repair
from scclip_kernels import similarity as similarities


class Operations(Protocol):
    """The five operations; `similarity` makes what two of the others take."""

    def anomaly_scores(self, features: Tensor, num_neighbors: int) -> Tensor:
        """(B, N, D) → (B, N) float32, see `scclip_kernels.anomaly_scores`."""

    def repair_outliers(
        self, patches: Tensor, guide: Tensor, scores: Tensor, *, num_outliers: int, columns: int
    ) -> tuple[Tensor, Tensor]:
        """Repair the patches of the highest scores (B, N) in two tensors (B, N, D) alike."""

    def similarity(self, features: Tensor) -> Any:
        """(B, N, D) → what stands for the cosine similarities of every pair of patches."""

    def aggregate(self, features: Tensor, similarity: Any, floor: float) -> Tensor:
        """Average patches (B, N, D) by similarities of at least `floor`."""

    def calibrated_attention(self, key: Tensor, value: Tensor, similarity: Any, num_heads: int) -> Tensor:
        """Keys and values of both passes (2, B, N, D) → their attention, summed, (B, N, D)."""


@dataclass(frozen=True, slots=True)
class TorchOperations:
    """Plain torch: what ONNX files hold, and the reference of the other two.

    Attributes:
        attend: computes softmax(k kᵀ) v.
    """

    attend: attention.Attention = attention.scaled_attention

    def anomaly_scores(self, features: Tensor, num_neighbors: int) -> Tensor:
        """The local outlier factor of every patch: (B, N, D) → (B, N) float32."""
        return anomaly.anomaly_scores(features, num_neighbors)

    def repair_outliers(
        self, patches: Tensor, guide: Tensor, scores: Tensor, *, num_outliers: int, columns: int
    ) -> tuple[Tensor, Tensor]:
        """Outliers become the mean of their sound neighbours, in two tensors (B, N, D)."""
        outliers = anomaly.outlier_indices(scores, num_outliers)
        weights = outlier_repair.neighbor_weights(outliers, patches.shape[1], columns)
        repaired, guide = (outlier_repair.repair(x, outliers, weights) for x in (patches, guide))
        return repaired, guide

    def similarity(self, features: Tensor) -> Tensor:
        """Cosines of every pair: (B, N, D) → (B, N, N) float32."""
        return similarities.cosine_similarity(features)

    def aggregate(self, features: Tensor, similarity: Tensor, floor: float) -> Tensor:
        """Average patches (B, N, D) by thresholded, row-normalised similarities."""
        return similarities.aggregate(features, similarities.similarity_weights(similarity, floor))

    def calibrated_attention(self, key: Tensor, value: Tensor, similarity: Tensor, num_heads: int) -> Tensor:
        """Both passes of the last block's attention: two (2, B, N, D) → (B, N, D)."""
        weights = attention.similarity_attention(similarity)
        return attention.calibrated_attention(key, value, weights, num_heads, self.attend)

    def thresholded_attention(self, similarity: Tensor, floor: float) -> Tensor:
        """SFP's attention by similarity: those under the floor count as 0. (B, N, N) → (B, N, N)."""
        return attention.similarity_attention(torch.where(similarity >= floor, similarity, 0.0))


def repair_positive(
    patches: Tensor, guide: Tensor, scores: Tensor, *, num_outliers: int, columns: int
) -> tuple[Tensor, Tensor]:
    """`Operations.repair_outliers` for a detector that finds fewer at times: only positive scores are outliers.

    Args:
        patches: (B, N, D).
        guide: (B, N, D).
        scores: (B, N) float32.
        num_outliers: the most that are repaired, a constant of the graph.
        columns: of the patch grid.
    """
    outliers = anomaly.outlier_indices(scores, num_outliers)
    found = scores.gather(1, outliers) > 0.0
    weights = outlier_repair.neighbor_weights(outliers, patches.shape[1], columns, found)
    repaired, guide = (outlier_repair.repair(x, outliers, weights) for x in (patches, guide))
    return repaired, guide
