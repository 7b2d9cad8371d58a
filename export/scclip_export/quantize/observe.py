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

# Rows (tokens) kept per layer to try ranges and rescaling on: 0.7 GB for the 96 products of ViT-L/14.
SAMPLED_ROWS = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """The input of one product.

    Attributes:
        low, high: least and largest value of each channel over all tokens, float32 (K,).
        rows: tokens drawn at random from all windows, float32 (S, K).
        tokens: rows that went through the product per window: its share of the cost.
    """

    low: NDArray[np.float32]
    high: NDArray[np.float32]
    rows: NDArray[np.float32]
    tokens: float


def observe(path: Path, layers: Sequence[Layer], windows: NDArray[np.uint8]) -> dict[str, Observed]:
    """Run windows through the float graph, one at a time, and keep what quantisation needs of every input.

    Memory: the activations of one window and `SAMPLED_ROWS` tokens per layer, whatever the number of windows.

    Args:
        path: the float32 encoder.
        layers: its products.
        windows: uint8 (W, H, W, 3), W ≥ 1.

    Returns:
        By the layer's name.
    """
    session = _session(path, [layer.source for layer in layers])
    embed = session.get_inputs()[1].shape[1]
    text = np.eye(1, embed, dtype=np.float32)
    per_window = -(-SAMPLED_ROWS // len(windows))
    rng = np.random.default_rng(0)
    low: dict[str, NDArray[np.float32]] = {}
    high: dict[str, NDArray[np.float32]] = {}
    rows: dict[str, list[NDArray[np.float32]]] = {layer.name: [] for layer in layers}
    tokens = dict.fromkeys(rows, 0)
    names = [layer.source for layer in layers]
    for window in windows:
        values = session.run(names, {"windows": window[None], "text": text})
        for layer, value in zip(layers, values, strict=True):
            flat = value.reshape(-1, value.shape[-1])
            tokens[layer.name] += len(flat)
            below, above = flat.min(axis=0), flat.max(axis=0)
            low[layer.name] = np.minimum(low.get(layer.name, below), below)
            high[layer.name] = np.maximum(high.get(layer.name, above), above)
            chosen = rng.choice(len(flat), min(per_window, len(flat)), replace=False)
            rows[layer.name].append(flat[chosen])
    return {
        name: Observed(
            low=low[name],
            high=high[name],
            rows=np.concatenate(rows[name]),
            tokens=tokens[name] / len(windows),
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
