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
    largest = np.maximum(_largest(weight) / _Q_MAX, _largest(_pair_sums(weight)) / PAIR_LIMIT)
    scale = np.where(largest > 0, largest, 1.0).astype(np.float32)
    exact = weight / scale
    rounded = np.rint(exact)
    # Rounding may carry a pair to 129: the member that was rounded away from 0 by more gives one back.
    sums = _pair_sums(rounded)
    for pair in np.flatnonzero((sums.max(axis=1) > PAIR_LIMIT) | (sums.min(axis=1) < -PAIR_LIMIT)):
        _mend(rounded[2 * pair : 2 * pair + 2], exact[2 * pair : 2 * pair + 2])
    return rounded.astype(np.int8), scale


def _pair_sums(weight: NDArray[np.floating]) -> NDArray[np.floating]:
    """The sum of every pair, (K / 2, N): beyond the limit only where both have the same sign. An odd row has none."""
    return weight[0 : len(weight) - 1 : 2] + weight[1::2]


def _largest(weight: NDArray[np.floating]) -> NDArray[np.floating]:
    """The largest absolute value of every column, (N,)."""
    return np.maximum(weight.max(axis=0, initial=0.0), -weight.min(axis=0, initial=0.0))


def _mend(pair: NDArray[np.floating], exact: NDArray[np.floating]) -> None:
    """Bring the columns of a rounded pair (2, N) that sum beyond the limit back to it, in place."""
    sign = np.sign(pair)
    give = np.argmax(sign * (pair - exact), axis=0)
    columns = np.flatnonzero(np.abs(pair.sum(axis=0)) > PAIR_LIMIT)
    pair[give[columns], columns] -= sign[give[columns], columns]
