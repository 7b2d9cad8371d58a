"""What flows into every product, seen on calibration windows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from scclip_export.quantize.layers import Layer
from scclip_rt.backends.onnxruntime.session import cpu_session

Feeds = Mapping[str, NDArray[Any]]
"""What one run of a graph takes, by name."""

# Rows (tokens) kept per layer to try ranges and rescaling on: 0.7 GB for the 96 products of ViT-L/14.
SAMPLED_ROWS = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """The input of one product.

    Attributes:
        low, high: least and largest value of each channel over all tokens, float32 (K,).
        rows: tokens drawn at random from all runs, float32 (S, K).
        tokens: rows that went through the product per run: its share of the cost.
    """

    low: NDArray[np.float32]
    high: NDArray[np.float32]
    rows: NDArray[np.float32]
    tokens: float


def window_runs(path: Path, windows: NDArray[np.uint8]) -> list[Feeds]:
    """Windows, uint8 (W, H, W, 3), as the runs of an image encoder, one each."""
    graph = onnx.load(str(path), load_external_data=False).graph
    embed = (
        next(value for value in graph.input if value.name == "text").type.tensor_type.shape.dim[1].dim_value
    )
    text = np.eye(1, embed, dtype=np.float32)
    return [{"windows": window[None], "text": text} for window in windows]


def observe(path: Path, layers: Sequence[Layer], runs: Sequence[Feeds]) -> dict[str, Observed]:
    """Run the float graph and keep what quantisation needs of every product's input.

    Memory: the activations of one run and `SAMPLED_ROWS` tokens per layer, whatever the number of runs.

    Args:
        path: the float32 encoder.
        layers: its products.
        runs: at least one.

    Returns:
        By the layer's name.
    """
    session = _session(path, [layer.source for layer in layers])
    per_run = -(-SAMPLED_ROWS // len(runs))
    rng = np.random.default_rng(0)
    low: dict[str, NDArray[np.float32]] = {}
    high: dict[str, NDArray[np.float32]] = {}
    rows: dict[str, list[NDArray[np.float32]]] = {layer.name: [] for layer in layers}
    tokens = dict.fromkeys(rows, 0)
    names = [layer.source for layer in layers]
    for run in runs:
        values = session.run(names, dict(run))
        for layer, value in zip(layers, values, strict=True):
            flat = value.reshape(-1, value.shape[-1])
            tokens[layer.name] += len(flat)
            below, above = flat.min(axis=0), flat.max(axis=0)
            low[layer.name] = np.minimum(low.get(layer.name, below), below)
            high[layer.name] = np.maximum(high.get(layer.name, above), above)
            chosen = rng.choice(len(flat), min(per_run, len(flat)), replace=False)
            rows[layer.name].append(flat[chosen])
    return {
        name: Observed(
            low=low[name],
            high=high[name],
            rows=np.concatenate(rows[name]),
            tokens=tokens[name] / len(runs),
        )
        for name in rows
    }


def shares_of_work(layers: Sequence[Layer], seen: Mapping[str, Observed]) -> dict[str, float]:
    """Each layer's share of all multiplications, 0..1."""
    work = {layer.name: seen[layer.name].tokens * layer.shape[0] * layer.shape[1] for layer in layers}
    return {name: count / sum(work.values()) for name, count in work.items()}


def _session(path: Path, names: list[str]) -> Any:
    """A session on the graph of `path` that also returns the tensors `names`."""
    model = onnx.load(str(path), load_external_data=False)
    known = {output.name for output in model.graph.output}
    for name in dict.fromkeys(names):
        if name not in known:
            model.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    return cpu_session(model.SerializeToString(), weights=path.parent)
