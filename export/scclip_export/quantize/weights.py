"""Int8 weights that no 16-bit sum can spoil."""

import numpy as np
from numpy.typing import NDArray

# What vpmaddubsw can add up: 255 · 128 = 32,640 fits into 16 bits, 255 · 129 does not.
PAIR_LIMIT = 128
_Q_MAX = 127


def quantize_weight(weight: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Round a weight to int8, one scale per output channel, so that products with uint8 never saturate.

    Without VNNI, ONNX Runtime and oneDNN multiply uint8 by int8 with vpmaddubsw, which adds the products of two
    neighbours along K in 16 bits and saturates: 255 · (127 + 127) = 64,770 becomes 32,767. It can't where the positive
    members of every pair (2k, 2k + 1) sum to at most 128, and the negative ones to at least −128. The usual cure,
    7-bit weights, halves every weight's resolution; here only a channel with a large pair gets a larger scale
    (its pairs' largest sum / 128 instead of its largest weight / 127).

    Args:
        weight: (K, N) float32.

    Returns:
        int8 (K, N) in [−127, 127], and the scales, float32 (N,): weight ≈ int8 · scale.
    """
    largest = np.maximum(np.abs(weight).max(axis=0) / _Q_MAX, _pair_sums(weight).max(axis=0) / PAIR_LIMIT)
    scale = np.where(largest > 0, largest, 1.0).astype(np.float32)
    exact = weight / scale
    rounded = np.clip(np.rint(exact), -_Q_MAX, _Q_MAX)
    # Rounding may carry a pair to 129: the member that was rounded away from 0 by more gives one back.
    over = np.flatnonzero((_pair_sums(rounded) > PAIR_LIMIT).any(axis=1))
    for pair in over:
        _mend(rounded[2 * pair : 2 * pair + 2], exact[2 * pair : 2 * pair + 2])
    return rounded.astype(np.int8), scale


def _pair_sums(weight: NDArray[np.floating]) -> NDArray[np.floating]:
    """|sum| of the positive and of the negative members of every pair, the larger: (K / 2 rounded up, N)."""
    padded = np.concatenate([weight, np.zeros_like(weight[:1])]) if len(weight) % 2 else weight
    first, second = padded[0::2], padded[1::2]
    up = np.maximum(first, 0) + np.maximum(second, 0)
    down = np.maximum(-first, 0) + np.maximum(-second, 0)
    return np.maximum(up, down)


def _mend(pair: NDArray[np.floating], exact: NDArray[np.floating]) -> None:
    """Bring the columns of a rounded pair (2, N) that sum beyond the limit back to it, in place."""
    sign = np.sign(pair)
    excess = sign * (pair - exact)
    over = (_pair_sums(pair)[0] > PAIR_LIMIT) & (sign[0] * sign[1] > 0)
    give = np.argmax(excess, axis=0)
    columns = np.flatnonzero(over)
    pair[give[columns], columns] -= sign[give[columns], columns]
