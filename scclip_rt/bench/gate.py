"""The correctness gate: no timing of a wrong result.

A contender's features are compared with a reference run (the bundle's fp32 file on ONNX Runtime's CPU provider, one
window at a time), with itself at batch 1, and with what every output must be: finite, of unit length.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scclip_rt.bench.errors import BenchError
from scclip_rt.bench.inputs import random_queries
from scclip_rt.precisions import PRECISIONS

UNIT_TOLERANCE = 1e-3
"""Of a feature's length: float32 sums of 512 squares stay under 1e-6, a bf16 norm that was not redone does not."""
GATE_QUERIES = 150
SLACK = 2.0
"""The export's thresholds are for its own windows; this image is another one."""
BATCH_MEAN_ABS = 1e-4
"""Of a float32 window in a batch from the same window alone: another order of summation, and at worst a tie."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a contender must keep; both figures are of one window.

    Attributes:
        mean_abs: mean difference of the unit features' elements from the reference's.
        labels: share of patches whose best of `GATE_QUERIES` random queries is the reference's, or one that the
            reference finds as good but for `mean_abs`. (Where all patches are alike, random queries tie by thousands:
            a sound int8 encoder, cosine 0.99997, gave 29 % of patches another query with a cosine as good.)
        batch_mean_abs: mean difference of a window in its batch from the same window alone.
    """

    mean_abs: float
    labels: float
    batch_mean_abs: float


def limits_for(precision: str, file_precision: str, parity: Mapping[str, object]) -> Limits:
    """The limits of a precision: the bundle's own thresholds with `SLACK`, if it states them for that precision.

    Else those of `scclip_rt.precisions`: for bundles that state none (docs/bundle.md, `parity`), and for what runs
    narrower than its file says.

    Args:
        precision: what runs, as `describe()` tells.
        file_precision: the ONNX file's; a backend may run a float32 file in bf16.
        parity: the encoder's, from bundle.json.
    """
    spec = PRECISIONS.get(precision, PRECISIONS["int8"])
    mean_abs, labels = spec.mean_abs, spec.labels
    stated = parity.get("thresholds")
    if precision == file_precision and isinstance(stated, Mapping):
        mean_abs = SLACK * float(stated.get("mean_abs", mean_abs / SLACK))
        labels = 1 - SLACK * (1 - float(stated.get("labels", 1 - (1 - labels) / SLACK)))
    batch = BATCH_MEAN_ABS if precision == "fp32" else max(BATCH_MEAN_ABS, mean_abs / 4)
    return Limits(mean_abs=mean_abs, labels=max(labels, 0.0), batch_mean_abs=batch)


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """What was found; the worst window counts. `limits` are what it had to keep."""

    limits: Limits
    windows: int
    unit_error: float
    mean_abs: float
    max_abs: float
    labels: float
    batch_mean_abs: float

    def to_json(self) -> dict[str, Any]:
        """Figures and limits."""
        return asdict(self)


def check(
    features: NDArray[np.float32],
    singles: NDArray[np.float32],
    reference: NDArray[np.float32],
    limits: Limits,
    *,
    name: str,
) -> Gate:
    """Hold a contender's features against the reference's.

    Args:
        features: (windows, N, E), as batches.
        singles: the same, one window at a time.
        reference: the same of the reference run.
        limits: what to keep.
        name: of the contender, for the message.

    Raises:
        BenchError: the first check that fails, with its figure and limit.
    """
    if features.shape != reference.shape or singles.shape != reference.shape:
        raise BenchError(
            f"{name} fails the correctness gate: features {features.shape}, one window at a time "
            f"{singles.shape}, and the reference's are {reference.shape}"
        )
    if not features.size:
        raise BenchError(f"{name}: nothing to compare, the image has no window")
    if not (np.isfinite(features).all() and np.isfinite(singles).all()):
        raise BenchError(f"{name} fails the correctness gate: its features hold NaN or infinity")
    difference = np.abs(features - reference)
    gate = Gate(
        limits=limits,
        windows=len(features),
        unit_error=_length_error(features, reference),
        mean_abs=float(difference.mean(axis=(1, 2)).max()),
        max_abs=float(difference.max()),
        labels=_label_agreement(features, reference, limits.mean_abs),
        batch_mean_abs=float(np.abs(features - singles).mean(axis=(1, 2)).max()),
    )
    for what, figure, limit in (
        ("features are off unit length by", gate.unit_error, UNIT_TOLERANCE),
        ("features differ from the float32 reference by a mean of", gate.mean_abs, limits.mean_abs),
        (
            "a window in a batch differs from itself alone by a mean of",
            gate.batch_mean_abs,
            limits.batch_mean_abs,
        ),
        ("share of patches with another best query than the reference's", 1 - gate.labels, 1 - limits.labels),
    ):
        if not figure <= limit:  # NaN fails
            raise BenchError(
                f"{name} fails the correctness gate: {what} {figure:.2g}, allowed {limit:.2g}; nothing was timed. "
                "Check the bundle with 'scclip inspect', or compare labels with 'scclip eval --compare'"
            )
    return gate


def _length_error(features: NDArray[np.float32], reference: NDArray[np.float32]) -> float:
    """How far lengths are from 1; 0 for a method whose float32 features have other lengths (a class term added)."""
    of_reference, found = (np.abs(np.linalg.norm(x, axis=-1) - 1).max() for x in (reference, features))
    return 0.0 if of_reference > UNIT_TOLERANCE else float(found)


def _label_agreement(features: NDArray[np.float32], reference: NDArray[np.float32], tie: float) -> float:
    """The least share, over windows, of patches with the same best query, ties within `tie` counting as the same."""
    queries = random_queries(GATE_QUERIES, features.shape[-1]).T
    chosen = (features @ queries).argmax(axis=-1)
    truth = reference @ queries
    given = np.take_along_axis(truth, chosen[..., np.newaxis], axis=-1)[..., 0]
    return float((given >= truth.max(axis=-1) - tie).mean(axis=1).min())
