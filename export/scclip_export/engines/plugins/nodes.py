"""The operations of `scclip_kernels.triton` as nodes of an ONNX graph, which TensorRT takes for plug-ins.

Traced, a function here becomes one node of the domain `scclip` for each kernel, with what the kernel is compiled for as
attributes (`scclip_kernels.plugins.table`), behind what plain operators do well. Called, it returns no numbers.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from scclip_kernels.plugins.table import NAMESPACE, PLUGINS

__all__ = ["aggregate", "anomaly_scores", "calibrated_attention", "repair_outliers", "similarity"]


class Similarity(NamedTuple):
    """Cosine similarities of the patches of each window: features (B, N, D) and their halves, see there."""

    features: Tensor
    pair: Tensor
    scale: Tensor
    square: Tensor


def _node(name: str, inputs: tuple[Tensor, ...], **attributes: Any) -> tuple[Tensor, ...]:
    """One node; of its outputs those that something reads."""
    plugin = PLUGINS[name]
    first = inputs[0]
    sizes: dict[str, Any] = {
        "batch": first.shape[plugin.axes[0]],
        "patches": first.shape[plugin.axes[1]],
        **attributes,
    }
    kinds = {"wide": torch.float32, "half": torch.float16, "narrow": first.dtype, "int": torch.int32}
    outputs = [output for output in plugin.outputs if output.name != "scratch"]
    results = torch.onnx.ops.symbolic_multi_out(
        f"{NAMESPACE}::{name}",
        inputs,
        attributes,
        dtypes=[kinds[output.kind] for output in outputs],
        shapes=[output.sizes(sizes) for output in outputs],
        version=1,
    )
    return tuple(results)


def anomaly_scores(features: Tensor, num_neighbors: int = 30) -> Tensor:
    """Trace `scclip_kernels.triton.anomaly_scores`: (B, N, D) float32 → (B, N) float32."""
    width = features.shape[2]
    halves = _node("halves", (features - features.mean(dim=1, keepdim=True),), width=width)
    near = _node("k_distance", halves, width=width, neighbors=num_neighbors)
    return _node("anomaly_score", near, neighbors=num_neighbors)[0]


def repair_outliers(
    patches: Tensor, guide: Tensor, scores: Tensor, *, num_outliers: int, columns: int
) -> tuple[Tensor, Tensor]:
    """Trace `scclip_kernels.triton.repair_outliers`: two (B, N, D) float32, scores (B, N) float32 → the two."""
    width = patches.shape[2]
    out_patches, out_guide = _node(
        "outlier_repair", (patches, guide, scores), width=width, columns=columns, outliers=num_outliers
    )
    return out_patches, out_guide


def similarity(features: Tensor) -> Similarity:
    """Trace `scclip_kernels.triton.similarity`: (B, N, D) float32."""
    pair, scale, square = _node("halves", (features,), width=features.shape[2])
    return Similarity(features, pair, scale, square)


def aggregate(features: Tensor, similarity: Similarity, floor: float = 0.4) -> Tensor:
    """Trace `scclip_kernels.triton.aggregate`: (B, N, D), any float dtype → the same."""
    return _node("aggregate", (features, *similarity[1:]), width=features.shape[2], floor=floor)[0]


def calibrated_attention(key: Tensor, value: Tensor, similarity: Similarity, num_heads: int) -> Tensor:
    """Trace `scclip_kernels.triton.calibrated_attention`: two (2, B, N, D), any float dtype → (B, N, D)."""
    width = key.shape[3]
    by_key, value_sum = _node("attend_by_key", (key, value), width=width, heads=num_heads)
    # The mean of all similarities is the squared length of the mean unit feature, exactly.
    unit = similarity.features / similarity.square.sqrt().clamp_min(1e-12).unsqueeze(-1)
    mean = unit.mean(dim=1).square().sum(dim=-1)
    return _node("attend_by_similarity", (value_sum, *similarity[1:], mean, by_key), width=width)[0]
