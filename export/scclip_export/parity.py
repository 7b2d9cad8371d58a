"""Parity: an ONNX graph against the float32 torch model it was traced from, on every axis that is dynamic.

The method holds three hard decisions, each a comparison: which patches are outliers, which similarities reach
the floor, and which lie above their mean. Where two sides of a comparison agree to the last bits, another
order of summation decides it the other way, and a few features move by far more than rounding. Windows with such a tie
are reported apart and held to a looser rule: their mean difference.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from scclip_export.encoder import CalibratedEncoder, TextEncoder
from scclip_export.errors import ExportError
from scclip_kernels import anomaly_scores, cosine_similarity, neighbor_weights, outlier_indices, resolve
from scclip_rt.backends.ort_session import load_onnxruntime

# Largest absolute difference of unit features, of cosines, and of unit text embeddings.
THRESHOLDS: dict[str, float] = {"fp32": 2e-5}
# Of windows with a tie: mean absolute difference of unit features (one flipped decision moves few patches).
TIED_THRESHOLD = 1e-3
_TIE = 1e-6  # similarities; outlier scores are compared relative to their size
_QUERIES = (1, 8, 150)
# Batch and queries of the runs before the last two, which take all windows with the fewest and the most queries.
_RUNS = ((1, 1), (1, 150), (2, 8))


@dataclass(frozen=True, slots=True, kw_only=True)
class Parity:
    """What `check_encoder` and `check_text_encoder` measured; lengths of lists are what was tried."""

    threshold: float
    features_max_abs: float
    logits_max_abs: float
    windows: int
    tied_windows: int
    tied_features_mean_abs: float
    outliers_equal: bool | None
    batches: tuple[int, ...]
    queries: tuple[int, ...]

    @property
    def passed(self) -> bool:
        """Whether every figure holds; NaN never does."""
        return (
            self.features_max_abs <= self.threshold
            and self.logits_max_abs <= self.threshold
            and self.tied_features_mean_abs <= TIED_THRESHOLD
            and self.outliers_equal is not False
        )

    def to_json(self) -> dict[str, object]:
        """Return the figures for bundle.json."""
        return {key: value for key, value in asdict(self).items() if value is not None} | {
            "reference": "torch fp32"
        }


def check_encoder(
    encoder: CalibratedEncoder, path: Path, windows: NDArray[np.uint8], *, precision: str = "fp32"
) -> Parity:
    """Compare a traced image encoder with its torch model, window by window, at several batch sizes and query counts.

    The torch model sees one window at a time, the graph sees batches: so a batch is shown to equal its singles.

    Args:
        encoder: the float32 torch model.
        path: the ONNX file.
        windows: uint8 (W, H, W, 3).
        precision: names the threshold.

    Raises:
        ExportError: nothing was compared.
    """
    if not len(windows):
        raise ExportError("parity needs at least one window")
    generator = torch.Generator().manual_seed(0)
    text = torch.nn.functional.normalize(
        torch.randn(max(_QUERIES), encoder.proj.out_features, generator=generator), dim=-1
    )
    expected = [_torch_window(encoder, window, text) for window in windows]
    worst = np.zeros((len(windows), 4))
    session = open_session(path)
    runs = [(batch, queries) for batch, queries in _RUNS if batch < len(windows)] + [
        (len(windows), queries) for queries in (_QUERIES[0], _QUERIES[-1])
    ]
    for batch, queries in runs:
        outputs = session.run(None, {"windows": windows[:batch], "text": text[:queries].numpy()})
        for i in range(batch):
            got = [output[i] for output in outputs]
            # np.maximum keeps a NaN, and a NaN never passes.
            worst[i] = np.maximum(worst[i], _compare(got, expected[i], queries))
    tied = np.array([window.tied for window in expected])
    features, logits, mean, outliers = worst.T
    return Parity(
        threshold=THRESHOLDS[precision],
        features_max_abs=_maximum(features[~tied]),
        logits_max_abs=_maximum(logits[~tied]),
        windows=len(windows),
        tied_windows=int(tied.sum()),
        tied_features_mean_abs=_maximum(mean[tied]),
        outliers_equal=bool((outliers[~tied] == 0).all()) if encoder.debug_outputs else None,
        batches=tuple(sorted({batch for batch, _ in runs})),
        queries=tuple(sorted({queries for _, queries in runs})),
    )


def merge(first: Parity, *others: Parity) -> Parity:
    """Return the worst of several checks of one graph, on images of different sizes."""
    every = (first, *others)
    told = [p.outliers_equal for p in every if p.outliers_equal is not None]
    return replace(
        first,
        features_max_abs=_maximum(np.array([p.features_max_abs for p in every])),
        logits_max_abs=_maximum(np.array([p.logits_max_abs for p in every])),
        tied_features_mean_abs=_maximum(np.array([p.tied_features_mean_abs for p in every])),
        windows=sum(p.windows for p in every),
        tied_windows=sum(p.tied_windows for p in every),
        outliers_equal=all(told) if told else None,
    )


def _compare(got: list[NDArray[Any]], expected: "_Window", queries: int) -> NDArray[np.float64]:
    """Return of one window: worst feature, worst cosine, mean feature difference, number of other outliers."""
    outliers = 0 if expected.outliers is None else np.count_nonzero(got[2] != expected.outliers)
    return np.array(
        [
            _max_abs(got[0], expected.features),
            _max_abs(got[1], expected.logits[:, :queries]),
            np.abs(got[0] - expected.features).mean(),
            outliers,
        ]
    )


@dataclass(frozen=True, slots=True)
class _Window:
    features: NDArray[np.float32]
    logits: NDArray[np.float32]
    outliers: NDArray[np.int64] | None
    tied: bool


def _torch_window(encoder: CalibratedEncoder, window: NDArray[np.uint8], text: Tensor) -> _Window:
    with torch.inference_mode():
        out = encoder(torch.from_numpy(window[None]), text)
        tied = has_tie(encoder, torch.from_numpy(window[None]))
    outliers = out[2][0].numpy() if len(out) > 2 else None
    return _Window(out[0][0].numpy(), out[1][0].numpy(), outliers, tied)


def has_tie(encoder: CalibratedEncoder, window: Tensor) -> bool:
    """Return whether a hard decision of the method is closer than rounding in this window: uint8 (1, H, W, 3)."""
    if encoder.method != "scclip":
        return False
    config, patch = encoder.calibration, encoder.embedding.patch_size
    rows, columns = window.shape[1] // patch, window.shape[2] // patch
    positions = encoder.embedding.positions(rows, columns)
    hidden = [x[:, 1:] for x in encoder.run_blocks(encoder.ln_pre(encoder.embedding(window, positions)))]
    guide = hidden[config.pre_layer]
    if config.outlier_fraction > 0:
        count = config.outliers(rows * columns)
        scores = anomaly_scores(hidden[-1], config.outlier_neighbors)
        ranked = scores[0].sort(descending=True).values
        if ranked[count - 1] - ranked[count] <= 1e-5 * ranked[count]:
            return True
        outliers = outlier_indices(scores, count)
        guide = resolve(guide, outliers, neighbor_weights(outliers, rows, columns))
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
    threshold = THRESHOLDS["fp32"]
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


def open_session(path: Path) -> Any:
    """Return an ONNX Runtime session on the CPU."""
    ort = load_onnxruntime()
    options = ort.SessionOptions()
    options.log_severity_level = 3
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _max_abs(got: NDArray[np.float32], expected: NDArray[np.float32]) -> float:
    if got.shape != expected.shape:
        raise ExportError(f"the graph returns shape {got.shape}; the torch model {expected.shape}")
    return float(np.abs(got - expected).max())


def _maximum(values: NDArray[np.float64]) -> float:
    return float(values.max()) if len(values) else 0.0


def parity_table(rows: Sequence[tuple[str, Parity]]) -> str:
    """Return the figures as a short table for the terminal."""
    head = (
        f"{'encoder':<30} {'features':>9} {'cosines':>9} {'allowed':>9}  batches   queries   windows (tied)"
    )
    lines = [head]
    for name, parity in rows:
        verdict = "" if parity.passed else "  MISSED"
        lines.append(
            f"{name:<30} {parity.features_max_abs:9.1e} {parity.logits_max_abs:9.1e} {parity.threshold:9.0e}  "
            f"{'/'.join(map(str, parity.batches)):<9} {'/'.join(map(str, parity.queries)):<9} "
            f"{parity.windows} ({parity.tied_windows}){verdict}"
        )
    return "\n".join(lines)
