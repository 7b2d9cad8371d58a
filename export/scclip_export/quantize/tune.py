"""One product's int8 form: rescaling, range and rounding, chosen by the error of its output on sampled tokens."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from scclip_export.quantize.observe import Observed
from scclip_export.quantize.weights import quantize_weight

# How far the difficulty moves from activations to weights (SmoothQuant's alpha); 0 is no rescaling.
STRENGTHS = (0.0, 0.5, 0.65, 0.8)
# Shares of the seen range that are tried, beside this percentile at each end; outside of it values are clipped.
CLIPS = (1.0, 0.85, 0.7, 0.5, 0.3)
PERCENTILE = 99.99
# The widest range whose error is not worse than the least by more than this: other images reach further.
_NEAR = 1.1
_ROWS = 384
# Output channels, evenly spread, that candidates are compared on.
_COLUMNS = 512


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
    columns = _spread(weight)
    exact = _Exact.of(observed, columns)
    best, factors = np.inf, None
    for strength in STRENGTHS:
        s = smoothing(observed, weight, strength) if strength else None
        seen = rescaled(observed, s)
        rounded = _rounded(columns if s is None else columns * s[:, None])
        (candidate,) = _candidates(seen, [_seen_range(seen)], rounded, exact)
        if candidate.error < best:
            best, factors = candidate.error, s
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


def quantize(observed: Observed, weight: NDArray[np.float32]) -> Quantized:
    """Round one product, whose input is `observed` and whose weight is (K, N) float32.

    The range is the widest of several whose output error is about the least.
    """
    weight_q, weight_scale = quantize_weight(weight)
    few = _spread(weight)
    low, high = _seen_range(observed)
    below, above = map(float, np.percentile(observed.rows, [100 - PERCENTILE, PERCENTILE]))
    ranges = [(min(below, 0.0), max(above, 0.0)), *((clip * low, clip * high) for clip in CLIPS)]
    exact = _Exact.of(observed, few)
    tried = _candidates(observed, ranges, _spread(weight_q) * _spread(weight_scale), exact)
    enough = _NEAR * min(candidate.error for candidate in tried)
    widest = max(
        (candidate for candidate in tried if candidate.error <= enough), key=lambda candidate: candidate.scale
    )
    rows = fake_quantize(observed.rows[:_ROWS], widest.scale, widest.zero_point)
    exact = exact if few.shape == weight.shape else _Exact.of(observed, weight)
    error, shift = exact.distance(_product(rows, weight_q * weight_scale))
    return Quantized(
        weight=weight_q,
        weight_scale=weight_scale,
        scale=widest.scale,
        zero_point=widest.zero_point,
        shift=shift,
        error=error,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Candidate:
    """A range as scale and zero point, and the relative error of the output with it."""

    scale: float
    zero_point: int
    error: float


@dataclass(frozen=True, slots=True, kw_only=True)
class _Exact:
    """A product's output (S, N) on the sampled tokens, and what `output_error` makes of each token's energy."""

    output: NDArray[np.float32]
    token_weight: NDArray[np.float32]
    energy: float

    @classmethod
    def of(cls, observed: Observed, weight: NDArray[np.float32]) -> "_Exact":
        """Multiply in float32."""
        output = _product(observed.rows[:_ROWS], weight)
        energy = np.einsum("sn,sn->s", output, output)
        token_weight = 1.0 / (energy + energy.mean() + 1e-12)
        return cls(output=output, token_weight=token_weight, energy=float(token_weight @ energy))

    def distance(self, got: NDArray[np.float32]) -> tuple[float, NDArray[np.float32]]:
        """The relative error of `got` once its mean error, (N,), is added, and that; `got` is used up."""
        got -= self.output
        shift = -(self.token_weight @ got) / self.token_weight.sum()
        got += shift
        left = self.token_weight @ np.einsum("sn,sn->s", got, got)
        return float(np.sqrt(left / max(self.energy, 1e-12))), shift.astype(np.float32)


def _candidates(
    observed: Observed,
    ranges: Iterable[tuple[float, float]],
    weight: NDArray[np.float32],
    exact: _Exact,
) -> list[_Candidate]:
    """Try ranges on a rounded weight."""
    rows, tried = observed.rows[:_ROWS], []
    for low, high in ranges:
        scale, zero_point = affine(low, high)
        error, _ = exact.distance(_product(fake_quantize(rows, scale, zero_point), weight))
        tried.append(_Candidate(scale=scale, zero_point=zero_point, error=error))
    return tried


def _spread(columns: NDArray[Any]) -> NDArray[Any]:
    """About `_COLUMNS` of the last axis, evenly spread."""
    return np.ascontiguousarray(columns[..., :: max(1, columns.shape[-1] // _COLUMNS)])


def _rounded(weight: NDArray[np.float32]) -> NDArray[np.float32]:
    levels, scale = quantize_weight(weight)
    return levels * scale


def _product(rows: NDArray[np.float32], weight: NDArray[np.float32]) -> NDArray[np.float32]:
    """Multiply by torch: numpy's idle threads spin, which takes half as much again on a busy machine."""
    return (torch.from_numpy(rows) @ torch.from_numpy(weight)).numpy()


def _seen_range(observed: Observed) -> tuple[float, float]:
    """All that was seen, with 0 within."""
    return min(float(observed.low.min()), 0.0), max(float(observed.high.max()), 0.0)


def affine(low: float, high: float) -> tuple[float, int]:
    """Return (scale, zero point) of 256 levels over [low, high], which holds 0, so that 0 is a level."""
    scale = float(np.float32(max(high - low, 1e-8) / 255.0))
    return scale, int(np.clip(round(-low / scale), 0, 255))


def fake_quantize(x: NDArray[np.float32], scale: float, zero_point: int) -> NDArray[np.float32]:
    """Round x as QuantizeLinear and DequantizeLinear together do."""
    levels = x / np.float32(scale)
    np.rint(levels, out=levels)
    levels += zero_point
    np.clip(levels, 0, 255, out=levels)
    levels -= zero_point
    levels *= np.float32(scale)
    return levels
