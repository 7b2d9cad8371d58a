"""Parity: an ONNX graph against the float32 torch model it was traced from, on every axis that is dynamic.

The method holds three hard decisions, each a comparison: which patches are outliers, which similarities reach
the floor, and which lie above their mean. Where two sides of a comparison agree to the last bits, another
order of summation decides it the other way, and a few features move by far more than rounding. Windows with such a tie
are reported apart and held to a looser rule: their mean difference.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from scclip_export.errors import ExportError
from scclip_export.model.encoder import CalibratedEncoder
from scclip_export.model.text_encoder import TextEncoder
from scclip_export.onnx.runners import Runner, open_session
from scclip_kernels import anomaly_scores, cosine_similarity, neighbor_weights, outlier_indices, repair
from scclip_rt.precisions import PRECISIONS

_TIE = 1e-6  # similarities; outlier scores are compared relative to their size
_QUERIES = (1, 8, 150)
# Batch and queries of the runs before the last two, which take all windows with the fewest and the most queries.
_RUNS = ((1, 1), (1, 150), (2, 8))
_FIGURES = (
    "worst feature",
    "worst cosine",
    "mean feature difference",
    "share of other labels",
    "share of missed outliers",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Thresholds:
    """What a precision must keep; None: measured, not limited.

    Attributes:
        max_abs: largest difference of a unit feature's element, and of a cosine.
        mean_abs: mean difference of the unit features' elements, over each window.
        labels: least share of patches whose best of 150 random queries is the reference's.
        outliers: least share of the reference's outliers that are found, over all windows compared.
    """

    max_abs: float | None = None
    mean_abs: float
    labels: float = 0.0
    outliers: float = 0.0


# fp32 is compared where no decision is tied (below); the mean difference holds everywhere: one flipped decision moves
# few patches.
THRESHOLDS: dict[str, Thresholds] = {
    name: Thresholds(
        max_abs=spec.max_abs,
        mean_abs=spec.mean_abs,
        labels=0.0 if spec.max_abs is not None else spec.labels,  # max_abs says more
        outliers=spec.outliers,
    )
    for name, spec in PRECISIONS.items()
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Parity:
    """What `check_encoder` measured; lengths of lists are what was tried.

    `features_max_abs`, `logits_max_abs` and the outliers' figures leave windows with a tie out if `max_abs` is limited.
    The outliers' figures are None without anomaly detection.
    """

    thresholds: Thresholds
    features_max_abs: float
    logits_max_abs: float
    features_mean_abs: float
    labels_agreement: float
    windows: int
    tied_windows: int
    outliers_agreement: float | None  # share of the reference's outliers that are found
    outlier_sets_equal: float | None  # share of windows whose outliers are the reference's, all of them
    batches: tuple[int, ...]
    queries: tuple[int, ...]

    @property
    def passed(self) -> bool:
        """Whether every figure holds; NaN never does."""
        limits = self.thresholds
        largest = math.inf if limits.max_abs is None else limits.max_abs
        return (
            self.features_max_abs <= largest
            and self.logits_max_abs <= largest
            and self.features_mean_abs <= limits.mean_abs
            and self.labels_agreement >= limits.labels
            and (self.outliers_agreement is None or self.outliers_agreement >= limits.outliers)
        )

    def to_json(self) -> dict[str, object]:
        """Return the figures for bundle.json."""
        figures = asdict(self)
        figures["thresholds"] = {
            key: value for key, value in figures["thresholds"].items() if value is not None
        }
        return {key: value for key, value in figures.items() if value is not None} | {
            "reference": "torch fp32"
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """Windows and what the float32 torch model makes of each by itself."""

    windows: NDArray[np.uint8]  # (W, H, W, 3)
    text: NDArray[np.float32]  # (150, E), random unit rows
    expected: "tuple[_Window, ...]"

    @classmethod
    def of(cls, encoder: CalibratedEncoder, windows: NDArray[np.uint8]) -> Self:
        """Run the torch model.

        Args:
            encoder: float32, in eval mode.
            windows: uint8 (W, H, W, 3).

        Raises:
            ExportError: no window.
        """
        if not len(windows):
            raise ExportError("parity needs at least one window")
        generator = torch.Generator().manual_seed(0)
        text = torch.nn.functional.normalize(
            torch.randn(max(_QUERIES), encoder.proj.out_features, generator=generator), dim=-1
        )
        expected = tuple(_torch_window(encoder, window, text) for window in windows)
        return cls(windows=windows, text=text.numpy(), expected=expected)


def check_encoder(reference: Reference, run: Runner, *, precision: str = "fp32") -> Parity:
    """Compare an encoder with the torch model, window by window, at several batch sizes and query counts.

    The torch model saw one window at a time, the encoder sees batches: so a batch is shown to equal its singles.

    Args:
        reference: of the torch model.
        run: the encoder.
        precision: names the thresholds.
    """
    windows, text, expected = reference.windows, reference.text, reference.expected
    worst = np.zeros((len(windows), len(_FIGURES)))
    runs = [(batch, queries) for batch, queries in _RUNS if batch < len(windows)] + [
        (len(windows), queries) for queries in (_QUERIES[0], _QUERIES[-1])
    ]
    for batch, queries in runs:
        outputs = run(windows[:batch], text[:queries])
        for i in range(batch):
            got = [output[i] for output in outputs]
            # np.maximum keeps a NaN, and a NaN never passes.
            worst[i] = np.maximum(worst[i], _compare(got, expected[i], queries))
    thresholds = THRESHOLDS[precision]
    compared = np.array([thresholds.max_abs is None or not window.tied for window in expected])
    features, logits, mean, other_labels, missed = worst.T
    told = expected[0].outliers is not None and bool(compared.any())
    return Parity(
        thresholds=thresholds,
        features_max_abs=_maximum(features[compared]),
        logits_max_abs=_maximum(logits[compared]),
        features_mean_abs=_maximum(mean),
        labels_agreement=1.0 - float(other_labels.mean()),
        windows=len(windows),
        tied_windows=sum(window.tied for window in expected),
        outliers_agreement=1.0 - float(missed[compared].mean()) if told else None,
        outlier_sets_equal=float((missed[compared] == 0).mean()) if told else None,
        batches=tuple(sorted({batch for batch, _ in runs})),
        queries=tuple(sorted({queries for _, queries in runs})),
    )


def merge(first: Parity, *others: Parity) -> Parity:
    """Return the worst of several checks of one graph, on images of different sizes."""
    every = (first, *others)
    return replace(
        first,
        features_max_abs=_maximum(np.array([p.features_max_abs for p in every])),
        logits_max_abs=_maximum(np.array([p.logits_max_abs for p in every])),
        features_mean_abs=_maximum(np.array([p.features_mean_abs for p in every])),
        labels_agreement=float(np.array([p.labels_agreement for p in every]).min()),
        windows=sum(p.windows for p in every),
        tied_windows=sum(p.tied_windows for p in every),
        outliers_agreement=_least(*(p.outliers_agreement for p in every)),
        outlier_sets_equal=_least(*(p.outlier_sets_equal for p in every)),
    )


def _compare(got: list[NDArray[Any]], expected: "_Window", queries: int) -> NDArray[np.float64]:
    """Return the `_FIGURES` of one window."""
    missed = 0.0
    if expected.outliers is not None:
        missed = 1.0 - float(np.isin(expected.outliers, got[2]).mean())
    features, logits = expected.features, expected.logits[:, :queries]
    return np.array(
        [
            _max_abs(got[0], features),
            _max_abs(got[1], logits),
            np.abs(got[0] - features).mean(),
            (got[1].argmax(axis=-1) != logits.argmax(axis=-1)).mean(),
            missed,
        ]
    )


@dataclass(frozen=True, slots=True)
class _Window:
    features: NDArray[np.float32]
    logits: NDArray[np.float32]
    outliers: NDArray[np.int64] | None
    tied: bool


def _torch_window(encoder: CalibratedEncoder, window: NDArray[np.uint8], text: Tensor) -> _Window:
    pixels = torch.from_numpy(window[None])
    grid = encoder.patch_grid(pixels)
    with torch.inference_mode():
        hidden = encoder.hidden_states(pixels)
        features, outliers = encoder.encode(hidden, grid[1])
        return _Window(
            features=features[0].numpy(),
            logits=(features @ text.T)[0].numpy(),
            outliers=None if outliers is None else outliers[0].sort().values.numpy(),
            tied=_has_tie(encoder, hidden, *grid),
        )


def _has_tie(encoder: CalibratedEncoder, hidden: list[Tensor], rows: int, columns: int) -> bool:
    """Whether a hard decision of the method is closer than rounding in this window: (1, 1 + N, D) each."""
    if encoder.method != "scclip":
        return False
    config, hidden = encoder.calibration, [x[:, 1:] for x in hidden]
    guide = hidden[config.pre_layer]
    if config.outlier_fraction > 0:
        count = config.outliers(rows * columns)
        scores = anomaly_scores(hidden[-1], config.outlier_neighbors)
        ranked = scores[0].sort(descending=True).values
        if ranked[count - 1] - ranked[count] <= 1e-5 * ranked[count]:
            return True
        outliers = outlier_indices(scores, count)
        guide = repair(guide, outliers, neighbor_weights(outliers, rows * columns, columns))
    before, after = cosine_similarity(guide), cosine_similarity(hidden[config.post_layer])
    gaps = (before - config.similarity_floor, after - config.similarity_floor, before - before.mean())
    return any(bool((gap.abs() < _TIE).any()) for gap in gaps)


def check_text_encoder(encoder: TextEncoder, path: Path, tokens: Tensor) -> dict[str, object]:
    """Compare the traced text encoder with its torch model at several lengths and batch sizes.

    Args:
        encoder: the float32 torch model.
        path: the ONNX file.
        tokens: int64 (B, context length), each row a start token, some tokens and an end token, then zeros.

    Returns:
        The figures for bundle.json.

    Raises:
        ExportError: the threshold is missed.
    """
    longest = int(tokens.argmax(dim=-1).max()) + 1
    with torch.inference_mode():
        expected = encoder(tokens).numpy()
    session, worst = open_session(path), 0.0
    lengths = (longest, min(longest + 5, tokens.shape[1]), tokens.shape[1])
    for length in lengths:
        for batch in (1, len(tokens)):
            got = session.run(None, {"tokens": tokens[:batch, :length].numpy()})[0]
            worst = float(np.maximum(worst, _max_abs(got, expected[:batch])))
    threshold = THRESHOLDS["fp32"].max_abs or 0.0
    if not worst <= threshold:
        raise ExportError(
            f"the text encoder misses parity: embeddings differ by {worst:.2e}, allowed {threshold:.0e}"
        )
    return {
        "threshold": threshold,
        "embeddings_max_abs": worst,
        "lengths": list(lengths),
        "batches": [1, len(tokens)],
        "reference": "torch fp32",
    }


def _max_abs(got: NDArray[np.float32], expected: NDArray[np.float32]) -> float:
    if got.shape != expected.shape:
        raise ExportError(f"the graph returns shape {got.shape}; the torch model {expected.shape}")
    return float(np.abs(got - expected).max())


def _maximum(values: NDArray[np.float64]) -> float:
    return float(values.max()) if len(values) else 0.0


def _least(*values: float | None) -> float | None:
    told = [value for value in values if value is not None]
    return float(np.array(told).min()) if told else None


def parity_table(rows: Sequence[tuple[str, Parity]]) -> str:
    """Return the figures as a short table for the terminal."""
    head = (
        f"{'encoder':<30} {'features':>9} {'cosines':>9} {'allowed':>9} {'mean':>9} {'allowed':>9} {'labels':>8} "
        f"{'outliers':>8}  batches   queries   windows (tied)"
    )
    lines = [head]
    for name, parity in rows:
        verdict = "" if parity.passed else "  MISSED"
        limit = parity.thresholds.max_abs
        lines.append(
            f"{name:<30} {parity.features_max_abs:9.1e} {parity.logits_max_abs:9.1e} "
            f"{'-' if limit is None else f'{limit:.0e}':>9} {parity.features_mean_abs:9.1e} "
            f"{parity.thresholds.mean_abs:9.0e} {parity.labels_agreement:8.2%} "
            f"{'-' if parity.outliers_agreement is None else f'{parity.outliers_agreement:.2%}':>8}  "
            f"{'/'.join(map(str, parity.batches)):<9} {'/'.join(map(str, parity.queries)):<9} "
            f"{parity.windows} ({parity.tied_windows}){verdict}"
        )
    return "\n".join(lines)
