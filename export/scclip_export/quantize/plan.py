"""What becomes int8 and how: decided once on the window encoder, applied to the encoder of every grid."""

import fnmatch
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from scclip_export.errors import ExportError
from scclip_export.quantize.layers import Layer, find_layers, joint_weight
from scclip_export.quantize.observe import Feeds, Observed, observe, shares_of_work
from scclip_export.quantize.options import Int8Options, Progress
from scclip_export.quantize.tune import Quantized, choose_smoothing, quantize, rescaled

Factors = Mapping[str, NDArray[np.float32] | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedLayer:
    """One product of the plan.

    Attributes:
        name: of the module.
        factors: float32 (K,), what its input is divided by and its weight's rows are multiplied with; None: nothing.
        quantized: its int8 form.
        cost: share of all products' multiplications, 0..1.
        keep_float: why it stays float32; None: it becomes int8.
    """

    name: str
    factors: NDArray[np.float32] | None
    quantized: Quantized
    cost: float
    keep_float: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Every product of an encoder, by name, and what it was calibrated on, for bundle.json."""

    layers: Mapping[str, PlannedLayer]
    calibration: Mapping[str, object]

    @property
    def factors(self) -> Factors:
        """The rescaling of every product."""
        return {name: layer.factors for name, layer in self.layers.items()}

    @property
    def float_layers(self) -> tuple[str, ...]:
        """The products that stay float32."""
        return tuple(name for name, layer in self.layers.items() if layer.keep_float)

    def to_json(self) -> dict[str, object]:
        """Return `quantization` of bundle.json."""
        errors = [layer.quantized.error for layer in self.layers.values() if not layer.keep_float]
        return {
            "method": "tuned",
            **self.calibration,
            "int8_layers": len(errors),
            "float_layers": list(self.float_layers),
            "worst_output_error": max(errors, default=0.0),
        }


def make_plan(
    path: Path,
    runs: Sequence[Feeds],
    options: Int8Options,
    *,
    calibration: Mapping[str, object],
    progress: Progress,
) -> Plan:
    """Calibrate: look at the inputs of every product, choose rescaling, ranges and rounding, and what stays float.

    Args:
        path: the float32 encoder.
        runs: what it is run on.
        options: limits, and what stays float32.
        calibration: what that is, for bundle.json.
        progress: is told of the second long step; the first is the calibration.

    Raises:
        ExportError: the graph has no product to quantise, or a pattern of `keep_float` matches none.
    """
    model = onnx.load(str(path))
    layers = find_layers(model)
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    arrays = {p.weight: numpy_helper.to_array(tensors[p.weight]) for layer in layers for p in layer.products}
    weights = {layer.name: joint_weight(layer, arrays) for layer in layers}
    del model, tensors, arrays  # the weights once more, while the graph runs
    seen = observe(path, layers, runs)
    progress("choosing rescaling and ranges")
    planned = _choose(layers, weights, seen)
    return Plan(layers=keep_float(planned, options), calibration=calibration)


def _choose(
    layers: Sequence[Layer],
    weights: Mapping[str, NDArray[np.float32]],
    seen: Mapping[str, Observed],
) -> dict[str, PlannedLayer]:
    factors: dict[str, NDArray[np.float32] | None] = {}
    for layer in layers:
        can = layer.norm is not None or value_producer(layer.name) in weights
        factors[layer.name] = choose_smoothing(seen[layer.name], weights[layer.name]) if can else None
    cost, planned = shares_of_work(layers, seen), {}
    for name, weight in weights.items():
        observed = rescaled(seen[name], factors[name])
        planned[name] = PlannedLayer(
            name=name,
            factors=factors[name],
            quantized=quantize(observed, scaled_weight(name, weight, factors)),
            cost=cost[name],
        )
    return planned


def keep_float(layers: dict[str, PlannedLayer], options: Int8Options) -> dict[str, PlannedLayer]:
    """Mark what stays float32: what the user names, then the worst above the limit, within their share."""
    for pattern in options.keep_float:
        matched = fnmatch.filter(layers, pattern)
        if not matched:
            raise ExportError(
                f"--int8-keep-float {pattern}: no layer of that name; there are {', '.join(layers)}"
            )
        for name in matched:
            layers[name] = replace(layers[name], keep_float="asked for")
    open_layers = [layer for layer in layers.values() if not layer.keep_float]
    for name in worst_layers(
        {layer.name: (layer.quantized.error, layer.cost) for layer in open_layers},
        limit=options.error_limit,
        share=options.float_share,
    ):
        layers[name] = replace(layers[name], keep_float="output error")
    return layers


def worst_layers(layers: Mapping[str, tuple[float, float]], *, limit: float, share: float) -> list[str]:
    """Return which layers are off by more than `limit`, the worst first, as long as they cost at most `share`.

    Args:
        layers: by name, the relative error of the output and the share of all multiplications.
        limit: largest error of a layer that nothing is said of.
        share: largest sum of the costs of those returned; one that no longer fits is passed over.
    """
    chosen, spent = [], 0.0
    for name, (error, cost) in sorted(layers.items(), key=lambda item: -item[1][0]):
        if error > limit and spent + cost <= share:
            spent += cost
            chosen.append(name)
    return chosen


def value_producer(name: str) -> str | None:
    """The layer whose last columns are the values that `name`, an output projection, gets averages of."""
    block, _, part = name.rpartition(".")
    if part not in ("out_proj", "sum_proj"):
        return None
    # The calibrated last block has keys and values only.
    return "last.key_value" if block == "last" else f"{block}.qkv"


def scaled_weight(name: str, weight: NDArray[np.float32], factors: Factors) -> NDArray[np.float32]:
    """A weight (K, N) after rescaling: its rows by its own factors, its value columns by those of the projection."""
    own = factors[name]
    if own is not None:
        weight = weight * own[:, None]
    for consumer, others in factors.items():
        if others is not None and value_producer(consumer) == name:
            weight = weight.copy()
            weight[:, -len(others) :] /= others
    return weight
