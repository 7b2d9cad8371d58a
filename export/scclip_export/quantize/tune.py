"""One product's int8 form: rescaling, range and rounding, chosen by the error of its output on sampled tokens."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from scclip_export.quantize.observe import Observed
from scclip_export.quantize.ranges import RangeRule, activation_range
from scclip_export.quantize.weights import quantize_weight

# How far the difficulty moves from activations to weights (SmoothQuant's alpha); 0 is no rescaling.
STRENGTHS = (0.0, 0.5, 0.65, 0.8)
# Shares of the seen range that are tried; outside of it values are clipped.
CLIPS = (1.0, 0.85, 0.7, 0.5, 0.3)
# The widest range whose error is not worse than the least by more than this: other images reach further.
_NEAR = 1.1
_ROWS = 384


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantized:
    """A product in int8: y ≈ (x_q − zero_point) · scale · (w_q · weight_scale) + bias.

    Attributes:
        weight: int8 (K, N), safe for 16-bit sums (`quantize_weight`).
        weight_scale: float32 (N,).
        scale, zero_point: of the activation, uint8.
        shift: float32 (N,), added to the bias: the mean of what rounding takes away.
        error: relative error of the output on the sampled tokens (see `output_error`).
    """

    weight: NDArray[np.int8]
    weight_scale: NDArray[np.float32]
    scale: float
    zero_point: int
    shift: NDArray[np.float32]
    error: float


def smoothing(observed: Observed, weight: NDArray[np.float32], strength: float) -> NDArray[np.float32]:
    """Return SmoothQuant's factors (K,): x / s and s · W have the same product and are both easier to round.

    s_k = max|x_k|^a / max|W_k|^(1 − a) (Xiao et al., 2023, eq. 4), scaled to a geometric mean of 1.
    """
    seen = np.maximum(np.maximum(np.abs(observed.low), np.abs(observed.high)), 1e-5)
    largest = np.maximum(np.abs(weight).max(axis=1), 1e-8)
    logs = strength * np.log(seen) - (1.0 - strength) * np.log(largest)
    return np.exp(np.clip(logs - logs.mean(), -7.0, 7.0)).astype(np.float32)


def output_error(exact: NDArray[np.float32], got: NDArray[np.float32]) -> float:
    """Return the relative error of a product's output, root mean square: float32 (S, N) both.

    A token weighs 1 / (its energy + the mean energy), so that a ViT's few massive tokens don't decide alone.
    """
    energy = np.square(exact).sum(axis=1)
    weight = 1.0 / (energy + energy.mean() + 1e-12)
    difference = np.square(got - exact).sum(axis=1)
    return float(np.sqrt((weight * difference).sum() / max((weight * energy).sum(), 1e-12)))


def choose_smoothing(observed: Observed, weight: NDArray[np.float32]) -> NDArray[np.float32] | None:
    """Return the factors (K,) of the strength with the least output error, or None where no rescaling is best."""
    best, factors = np.inf, None
    for strength in STRENGTHS:
        s = smoothing(observed, weight, strength) if strength else None
        error = quantize(rescaled(observed, s), weight if s is None else weight * s[:, None], "minmax").error
        if error < best:
            best, factors = error, s
    return factors


def rescaled(observed: Observed, factors: NDArray[np.float32] | None) -> Observed:
    """What will be seen once the input is divided by `factors` (K,)."""
    if factors is None:
        return observed
    return Observed(
        low=observed.low / factors,
        high=observed.high / factors,
        rows=observed.rows / factors,
        tokens=observed.tokens,
    )


def quantize(
    observed: Observed, weight: NDArray[np.float32], rule: RangeRule | Literal["error"] = "error"
) -> Quantized:
    """Round one product.

    Args:
        observed: its input.
        weight: (K, N) float32.
        rule: how the range is chosen; `error`: the widest of several whose output error is about the least.
    """
    rows = observed.rows[:_ROWS]
    exact = rows @ weight
    weight_q, weight_scale = quantize_weight(weight)
    rounded = weight_q * weight_scale
    tried = []
    for low, high in _ranges(observed, rule):
        scale, zero_point = affine(low, high)
        got = fake_quantize(rows, scale, zero_point) @ rounded
        shift = _mean_error(exact, got)
        tried.append((output_error(exact, got + shift), scale, zero_point, shift))
    enough = _NEAR * min(error for error, *_ in tried)
    error, scale, zero_point, shift = max(
        (candidate for candidate in tried if candidate[0] <= enough), key=lambda candidate: candidate[1]
    )
    return Quantized(
        weight=weight_q,
        weight_scale=weight_scale,
        scale=scale,
        zero_point=zero_point,
        shift=shift,
        error=error,
    )


def _ranges(observed: Observed, rule: RangeRule | Literal["error"]) -> Iterator[tuple[float, float]]:
    low, high = float(observed.low.min()), float(observed.high.max())
    if rule != "error":
        yield activation_range(rule, observed.rows, low, high)
        return
    yield activation_range("percentile", observed.rows, low, high)
    low, high = activation_range("minmax", observed.rows, low, high)
    yield from ((clip * low, clip * high) for clip in CLIPS)


def _mean_error(exact: NDArray[np.float32], got: NDArray[np.float32]) -> NDArray[np.float32]:
    energy = np.square(exact).sum(axis=1)
    weight = 1.0 / (energy + energy.mean() + 1e-12)
    return ((weight[:, None] * (exact - got)).sum(axis=0) / weight.sum()).astype(np.float32)


def affine(low: float, high: float) -> tuple[float, int]:
    """Return (scale, zero point) of 256 levels over [low, high], which holds 0, so that 0 is a level."""
    scale = float(np.float32(max(high - low, 1e-8) / 255.0))
    return scale, int(np.clip(round(-low / scale), 0, 255))


def fake_quantize(x: NDArray[np.float32], scale: float, zero_point: int) -> NDArray[np.float32]:
    """Round x as QuantizeLinear and DequantizeLinear together do."""
    levels = np.clip(np.rint(x / np.float32(scale)) + zero_point, 0, 255) - zero_point
    return (levels * np.float32(scale)).astype(np.float32)
