"""PAMR: pixel-adaptive refinement of the logits by the image (METHOD §4, last paragraph).

The usual form iterates on a (queries, height, width) tensor unfolded over 16 neighbours. Here the 16 weight maps are
computed once, and each query's map goes through all steps alone: it stays in cache, needs two maps of scratch per
thread, and merges into the running best query of each pixel. A neighbour lies at the same distance in memory from every
pixel of a padded map, so that a step multiplies and adds long runs of values.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from scclip_rt.decode.best import Best
from scclip_rt.decode.interpolation import bilinear_taps
from scclip_rt.decode.threads import parallel
from scclip_rt.errors import ImageError, OptionError

if TYPE_CHECKING:
    from scclip_rt.decode.field import LogitField
    from scclip_rt.decode.plan import DecodePlan

DILATIONS = (8, 16)
MAX_REFINE_PIXELS = 34_000_000
"""An 8K frame: the weights take 64 bytes a pixel."""
STRIP = 32
"""Rows of the image per piece of work while the weights are computed."""
_RUN = 1 << 18
"""Values multiplied and added at a time: they stay in a core's cache."""

_OFFSETS = tuple(
    (dy * dilation, dx * dilation)
    for dilation in DILATIONS
    for dy in (-1, 0, 1)
    for dx in (-1, 0, 1)
    if (dy, dx) != (0, 0)
)
_PAD = max(DILATIONS)


@dataclass(frozen=True, slots=True, kw_only=True)
class PixelWeights:
    """How much each neighbour of a pixel counts in one step.

    Attributes:
        padded: (16, H, W + 32) float32, in rows as long as a padded map's; 0 behind the image.
        steps: how often the maps are averaged.
    """

    padded: NDArray[np.float32]
    steps: int = 10

    @property
    def weights(self) -> NDArray[np.float32]:
        """(16, H, W) float32, summing to 1 over the neighbours."""
        return self.padded[:, :, : -2 * _PAD]


def pixel_weights(
    resized: NDArray[np.uint8],
    shape: tuple[int, int],
    *,
    mean: tuple[float, float, float],
    std: tuple[float, float, float],
    steps: int = 10,
    threads: int | None = None,
) -> PixelWeights:
    """Weights from the image: a_pq = softmax_q mean_c −|x_p − x_q| / (1e-8 + 0.1·σ_p).

    σ is the standard deviation (n − 1) of all 18 taps, both dilations and their centres; borders are
    replicated.

    Args:
        resized: (h, w, 3) uint8, the image the windows were cut from.
        shape: (height, width) of the maps; the normalised image is resized to it, bilinear.
        mean: of the model's normalisation, in 0..255 units.
        std: the same.
        steps: refinement steps.
        threads: worker threads; default: the CPUs this process may use.

    Raises:
        ImageError: the maps are too large to refine.
    """
    if steps < 1:
        raise OptionError(f"refinement needs at least 1 step; got {steps}")
    if shape[0] * shape[1] > MAX_REFINE_PIXELS:
        raise ImageError(
            f"PAMR holds 64 bytes a pixel and takes images of up to {MAX_REFINE_PIXELS / 1e6:.0f} million "
            f"pixels; this one is {shape[1]}×{shape[0]}. Shrink it, or segment without --refine."
        )
    image = _padded_image(resized, shape, mean, std)
    padded = np.zeros((len(_OFFSETS), shape[0], shape[1] + 2 * _PAD), np.float32)
    found = PixelWeights(padded=padded, steps=steps)
    parallel(lambda top: _weigh(image, found.weights, top), range(0, shape[0], STRIP), threads)
    return found


def _padded_image(
    resized: NDArray[np.uint8],
    shape: tuple[int, int],
    mean: tuple[float, float, float],
    std: tuple[float, float, float],
) -> NDArray[np.float32]:
    """(3, H + 32, W + 32) float32: normalised, resized, borders replicated."""
    image = (resized.astype(np.float32) - np.asarray(mean, np.float32)) / np.asarray(std, np.float32)
    for axis in (0, 1):
        lower, upper, fraction = bilinear_taps(shape[axis], image.shape[axis])
        part = fraction.astype(np.float32)[(slice(None),) + (None,) * (2 - axis)]
        low = image.take(lower, axis)
        image = low + (image.take(upper, axis) - low) * part
    padding = ((_PAD, _PAD), (_PAD, _PAD))
    return np.stack([np.pad(image[..., c], padding, mode="edge") for c in range(3)])


def _weigh(padded: NDArray[np.float32], weights: NDArray[np.float32], top: int) -> None:
    """Fill the weights of STRIP rows from `top`."""
    out = weights[:, top : top + STRIP]
    _, rows, columns = out.shape
    out[...] = 0
    taps = 9 * len(DILATIONS)
    difference = np.empty((len(_OFFSETS), rows, columns), np.float32)
    for channel in padded:
        centre = channel[_PAD + top : _PAD + top + rows, _PAD : _PAD + columns]
        for index, (dy, dx) in enumerate(_OFFSETS):
            neighbour = channel[_PAD + top + dy :][:rows, _PAD + dx :][:, :columns]
            np.subtract(neighbour, centre, out=difference[index])
        # Deviations from the centre, not from 0: no cancellation, and flat regions give exactly 0.
        total = difference.sum(axis=0)
        squares = np.einsum("khw,khw->hw", difference, difference)
        variance = np.maximum(squares - total * total / taps, 0) / (taps - 1)
        scale = -1 / (3 * (1e-8 + 0.1 * np.sqrt(variance)))
        np.abs(difference, out=difference)
        difference *= scale
        out += difference
    out -= out.max(axis=0)
    np.exp(out, out=out)
    out /= out.sum(axis=0)


class _Refiner:
    """One thread's scratch: refines one map at a time."""

    def __init__(self, pixel_weights: PixelWeights) -> None:
        _, height, width = pixel_weights.padded.shape
        self.pixel_weights = pixel_weights
        self.front = np.empty((height + 2 * _PAD, width), np.float32)
        self.back = np.empty_like(self.front)
        self.add_product = _added_product()

    @staticmethod
    def inner(padded: NDArray[np.float32]) -> NDArray[np.float32]:
        return padded[_PAD:-_PAD, _PAD:-_PAD]

    def run(self) -> NDArray[np.float32]:
        """Refine the map in `inner(front)`; returns a view of scratch."""
        for _ in range(self.pixel_weights.steps):
            _replicate_border(self.front)
            self._step()
            self.front, self.back = self.back, self.front
        return self.inner(self.front)

    def _step(self) -> None:
        """Average the neighbours in `front` to `back`, from the first pixel to the last, what lies between rows too."""
        row = self.front.shape[1]
        first, weights = _PAD * row + _PAD, self.pixel_weights.padded.reshape(len(_OFFSETS), -1)
        source, target = self.front.ravel(), self.back.ravel()[first:]
        for start in range(0, weights.shape[1] - 2 * _PAD, _RUN):
            stop = min(start + _RUN, weights.shape[1] - 2 * _PAD)
            total = target[start:stop]
            total[...] = 0
            for near, (dy, dx) in zip(weights[:, start:stop], _OFFSETS, strict=True):
                place = first + dy * row + dx
                self.add_product(source[place + start : place + stop], near, total)


def _added_product() -> Callable[[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]], object]:
    """A function that adds the product of two runs of values to a third: OpenCV's, in one pass, where it is installed.

    numpy's two passes take half as long again on a photo of 375×500, and as long on one of 1500×2000.
    """
    try:
        import cv2
    except ImportError:
        product = np.empty(_RUN, np.float32)

        def add(one: NDArray[np.float32], other: NDArray[np.float32], total: NDArray[np.float32]) -> None:
            np.multiply(one, other, out=product[: len(one)])
            np.add(total, product[: len(one)], out=total)

        return add
    return cv2.accumulateProduct


def _replicate_border(padded: NDArray[np.float32]) -> None:
    padded[_PAD:-_PAD, :_PAD] = padded[_PAD:-_PAD, _PAD : _PAD + 1]
    padded[_PAD:-_PAD, -_PAD:] = padded[_PAD:-_PAD, -_PAD - 1 : -_PAD]
    padded[:_PAD] = padded[_PAD]
    padded[-_PAD:] = padded[-_PAD - 1]


def refined_best(
    field: LogitField, queries: NDArray[np.intp], pixel_weights: PixelWeights, *, soft: bool
) -> Best:
    """The best of `queries` at every pixel after refinement.

    Each thread takes a run of queries; runs are merged in order, so that of equal queries the first wins.
    """
    shape = field.plan.shape
    if pixel_weights.weights.shape[1:] != shape:
        raise ValueError(
            f"the pixel weights are for maps of {pixel_weights.weights.shape[1:]}; the output is {shape}"
        )
    dtype = field.classes.dtype
    merged = Best.empty(shape, dtype, soft=soft)
    for chunk in field.chunks(queries):
        logits, classes = field.logits(chunk), field.classes[chunk]
        runs = np.array_split(np.arange(len(chunk)), min(field.threads, len(chunk)))
        states = [Best.empty(shape, dtype, soft=soft) for _ in runs]

        def work(part: int) -> None:
            refiner = _Refiner(pixel_weights)
            for index in runs[part]:  # noqa: B023 - used up within this turn of the loop
                _interpolate(logits[:, :, index], field.plan, refiner.inner(refiner.front))  # noqa: B023
                states[part].merge(int(classes[index]), refiner.run(), None)  # noqa: B023

        parallel(work, range(len(runs)), field.threads)
        for state in states:
            merged.merge_state(state)
    return merged


def _interpolate(logits: NDArray[np.float32], plan: DecodePlan, out: NDArray[np.float32]) -> None:
    """One query's logits (cell rows, cell columns) to its map (H, W), written to `out`."""
    logits = np.ascontiguousarray(logits)
    tall = np.empty((plan.shape[0], logits.shape[1]), np.float32)
    for tile in plan.rows.tiles:
        np.matmul(tile.weights, logits[tile.first : tile.last], out=tall[tile.start : tile.stop])
    for tile in plan.columns.tiles:
        out[:, tile.start : tile.stop] = tall[:, tile.first : tile.last] @ tile.weights.T
