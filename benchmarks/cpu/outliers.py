"""Harder models: the demo model with the outliers that large CLIP models have and a small one has not.

`channels` changes no output: a few LayerNorm gains, and value channels, grow by 5 to 60 times, and the weights behind
them shrink by as much. So mIoU is still the demo model's, while activations are as uneven as those that SmoothQuant
was made for. `massive` changes it slightly: two neurons of every third MLP fire at a few tokens only, a hundred times
above the others, as the tokens of large norm in ViTs do. What a method loses is measured against the changed model
in float32.
"""

from pathlib import Path
from typing import Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from scclip_export.quantize.layers import Layer, find_layers
from scclip_export.quantize.plan import value_producer

Kind = Literal["channels", "massive"]


class _Weights:
    """The initializers of a graph, changed in place."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.tensors = {tensor.name: tensor for tensor in model.graph.initializer}
        self.arrays: dict[str, NDArray[np.float32]] = {}

    def __getitem__(self, name: str) -> NDArray[np.float32]:
        if name not in self.arrays:
            self.arrays[name] = numpy_helper.to_array(self.tensors[name]).copy()
        return self.arrays[name]

    def store(self) -> None:
        for name, array in self.arrays.items():
            self.tensors[name].CopyFrom(numpy_helper.from_array(array, name))


def with_outliers(source: Path, target: Path, kind: Kind) -> None:
    """Write a float32 encoder with outliers.

    Args:
        source: an encoder as the exporter writes it.
        target: the new .onnx file; weights go beside it.
        kind: see above.
    """
    model = onnx.load(str(source))
    weights, layers = _Weights(model), {layer.name: layer for layer in find_layers(model)}
    rng = np.random.default_rng(0)
    (_channels if kind == "channels" else _massive)(weights, layers, rng)
    weights.store()
    data = target.with_name(f"{target.name}.data")
    data.unlink(missing_ok=True)
    onnx.save(model, str(target), save_as_external_data=True, location=data.name, size_threshold=1024)


def _draw(rng: np.random.Generator, low: float, high: float, count: int) -> NDArray[np.float32]:
    return np.exp(rng.uniform(np.log(low), np.log(high), count)).astype(np.float32)


def _rows(weights: _Weights, layer: Layer, chosen: NDArray[np.int64], factors: NDArray[np.float32]) -> None:
    """Divide the chosen rows of every weight of a layer, each taken as (K, N)."""
    for part in layer.products:
        weight = weights[part.weight].T if part.gemm else weights[part.weight]
        weight[chosen] /= factors[:, None]


def _channels(weights: _Weights, layers: dict[str, Layer], rng: np.random.Generator) -> None:
    for layer in layers.values():
        width = layer.shape[0]
        before = layers.get(value_producer(layer.name) or "")
        if layer.norm is not None:
            chosen = rng.choice(width, max(4, width // 100), replace=False)
            factors = _draw(rng, 15, 60, len(chosen))
            for name in layer.norm:
                weights[name][chosen] *= factors
            _rows(weights, layer, chosen, factors)
        elif before is not None:
            chosen, factors = rng.choice(width, 3, replace=False), _draw(rng, 5, 30, 3)
            values = before.products[-1]  # of a joint product, the last columns
            columns = values.columns - width + chosen
            weight = weights[values.weight].T if values.gemm else weights[values.weight]
            weight[:, columns] *= factors
            if values.bias is not None:
                weights[values.bias][columns] *= factors
            _rows(weights, layer, chosen, factors)


def _massive(weights: _Weights, layers: dict[str, Layer], rng: np.random.Generator) -> None:
    blocks = sorted({int(name.split(".")[1]) for name in layers if name.startswith("blocks.")})
    for block in blocks[2::3]:
        block_fc, block_proj = layers[f"blocks.{block}.fc"], layers[f"blocks.{block}.proj"]
        width, neurons = block_fc.shape
        fc, proj = block_fc.products[0], block_proj.products[0]
        assert block_fc.norm is not None
        assert fc.bias is not None
        first = weights[fc.weight].T if fc.gemm else weights[fc.weight]
        second = weights[proj.weight].T if proj.gemm else weights[proj.weight]
        for neuron in rng.choice(neurons, 2, replace=False):
            direction = rng.standard_normal(width).astype(np.float32) / np.sqrt(width)
            # Two standard deviations of the input's component along it: about one token in fifty.
            first[:, neuron] = 60 * direction / np.maximum(np.abs(weights[block_fc.norm[0]]), 0.05)
            weights[fc.bias][neuron] = -120
            second[neuron] = 0
            second[neuron, rng.integers(width)] = 0.5
