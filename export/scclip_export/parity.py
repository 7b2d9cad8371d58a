"""Parity: an ONNX graph against the float32 torch model it was traced from, on every axis that is dynamic.

How far two sound float32 computations of one model lie apart is a property of its weights: it is measured, as torch's
own distance from float64, and a float32 graph may be eight times as far. The method's hard decisions can flip within
that distance and then move features by more (ties.py): such a window is held to what float64 gives after the graph's
own decisions, and every value that was decided on to the same budget. No window and no patch is left out.
"""

import math
from collections.abc import Callable, Sequence
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
from scclip_export.onnx.runners import DecisionRunner, Runner
from scclip_export.ties import Decisions, Distance, Outcome, outcome, unexplained
from scclip_rt.backends.onnxruntime.session import cpu_session
from scclip_rt.precisions import PRECISIONS

# Of float32: how often torch's own distance from float64, and what is added, for models whose distance is next to none.
# On Zen 4 a sound graph of massive tokens was 4.4 times as far; benchmarks.cpu.parity_margins tries damaged ones.
_TIMES, _FLOOR = 8.0, 1e-6
TEXT_COSINE = 0.99
"""Least cosine of a text's embedding in int8 with float32's."""
_QUERIES = (1, 8, 150)
# Batch and queries of the runs before the last, which takes all windows with the fewest queries.
_RUNS = ((1, 150), (2, 8))
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
        max_abs: largest difference of a unit feature's element, and of a cosine; for an image encoder the measured
            budget takes its place.
        mean_abs: mean difference of the unit features' elements, over each window.
        labels: least share of patches whose best of 150 random queries is the reference's.
        outliers: least share of the reference's outliers that are found, over all windows compared.
    """

    max_abs: float | None = None
    mean_abs: float
    labels: float = 0.0
    outliers: float = 0.0


# The mean difference holds everywhere: one flipped decision moves few patches.
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

    Of a float32 graph `thresholds.max_abs` is what its model's own rounding allows, and a window with a decision that
    rounding flipped is compared with float64 after the same decisions: `tied_windows` of them, `flipped_decisions` in
    all. The outliers' figures are None without anomaly detection.
    """

    thresholds: Thresholds
    features_max_abs: float
    logits_max_abs: float
    features_mean_abs: float
    labels_agreement: float
    windows: int
    tied_windows: int
    outliers_agreement: float | None  # share found, of those of the reference or, if more, of the graph
    outlier_sets_equal: float | None  # share of windows whose outliers are the reference's, all of them
    batches: tuple[int, ...]
    queries: tuple[int, ...]
    flipped_decisions: int = 0
    faults: tuple[str, ...] = ()  # what rounding does not explain, in words

    @property
    def passed(self) -> bool:
        """Whether every figure holds; NaN never does."""
        limits = self.thresholds
        largest = math.inf if limits.max_abs is None else limits.max_abs
        return (
            not self.faults
            and self.features_max_abs <= largest
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
        figures.pop("faults")
        return {key: value for key, value in figures.items() if value is not None} | {
            "reference": "torch fp32"
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """Windows and what the float32 torch model makes of each by itself.

    `noise` is how far that is from float64 on the first window, its decisions taken.
    """

    encoder: CalibratedEncoder
    windows: NDArray[np.uint8]  # (W, H, W, 3)
    text: NDArray[np.float32]  # (150, E), random unit rows
    expected: tuple[Outcome, ...]
    noise: Distance

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
        expected = tuple(outcome(encoder, window) for window in windows)
        wide = outcome(encoder, windows[0], expected[0].decisions, float64=True)
        noise = expected[0].distance(wide)
        return cls(encoder=encoder, windows=windows, text=text.numpy(), expected=expected, noise=noise)


@dataclass(frozen=True, slots=True)
class Ran:
    """What an encoder gave for the first `batch` windows and `queries` queries of a reference."""

    batch: int
    queries: int
    outputs: list[NDArray[Any]]


def run_encoder(reference: Reference, run: Runner) -> list[Ran]:
    """Run an encoder on a reference's windows, at several batch sizes and query counts."""
    windows, text = reference.windows, reference.text
    sizes = [(batch, queries) for batch, queries in _RUNS if batch < len(windows)]
    sizes.append((len(windows), _QUERIES[0] if len(sizes) == len(_RUNS) else _QUERIES[-1]))
    return [Ran(batch, queries, run(windows[:batch], text[:queries])) for batch, queries in sizes]


def check_encoder(
    reference: Reference,
    runs: Sequence[Ran],
    *,
    precision: str = "fp32",
    decisions: Callable[[], DecisionRunner | None] = lambda: None,
) -> Parity:
    """Compare an encoder with the torch model, window by window, at several batch sizes and query counts.

    The torch model saw one window at a time, the encoder saw batches: so a batch is shown to equal its singles.

    Args:
        reference: of the torch model.
        runs: of the encoder, by `run_encoder`.
        precision: names the thresholds.
        decisions: opens the encoder so that it also tells what it decided on; asked for if a window needs it.
    """
    windows, text, expected = reference.windows, reference.text, reference.expected
    thresholds, ties = THRESHOLDS[precision], None
    if thresholds.max_abs is not None:
        ties = _Ties(reference, decisions)
        thresholds = replace(thresholds, max_abs=ties.allowed.features)
    worst = np.zeros((len(windows), len(_FIGURES)))
    for ran in runs:
        for i in range(ran.batch):
            got = [output[i] for output in ran.outputs]
            figures = _compare(got, expected[i], text[: ran.queries])
            if ties is not None and not ties.within(figures):
                figures = ties.after_decisions(figures, ran.batch, ran.queries, i)
            # np.maximum keeps a NaN, and a NaN never passes.
            worst[i] = np.maximum(worst[i], figures)
    features, logits, mean, other_labels, missed = worst.T
    told = expected[0].decisions is not None and expected[0].decisions.outliers is not None
    if ties is not None:
        thresholds = replace(thresholds, max_abs=ties.allowed.features)
    return Parity(
        thresholds=thresholds,
        features_max_abs=_maximum(features),
        logits_max_abs=_maximum(logits),
        features_mean_abs=_maximum(mean),
        labels_agreement=1.0 - float(other_labels.mean()),
        windows=len(windows),
        tied_windows=0 if ties is None else len(ties.flips),
        flipped_decisions=0 if ties is None else sum(ties.flips.values()),
        outliers_agreement=1.0 - float(missed.mean()) if told else None,
        outlier_sets_equal=float((missed == 0).mean()) if told else None,
        batches=tuple(sorted({ran.batch for ran in runs})),
        queries=tuple(sorted({ran.queries for ran in runs})),
        faults=() if ties is None else tuple(ties.faults),
    )


class _Ties:
    """The budget of a float32 graph, and its windows that only their own decisions can explain."""

    def __init__(self, reference: Reference, decisions: Callable[[], DecisionRunner | None]) -> None:
        self.reference, self.decisions = reference, decisions
        self.run: DecisionRunner | None = None
        self.allowed = reference.noise.budget(_TIMES, _FLOOR)  # grows with the windows that are looked at
        self.flips: dict[int, int] = {}  # by window: the most decisions that any run took otherwise
        self.faults: list[str] = []

    def within(self, figures: NDArray[np.float64]) -> bool:
        """Whether a window's features and cosines are as near as rounding, all outliers found; NaN never is."""
        return bool(figures[:2].max() <= self.allowed.features and figures[4] == 0.0)

    def after_decisions(
        self, figures: NDArray[np.float64], batch: int, queries: int, i: int
    ) -> NDArray[np.float64]:
        """Return the `_FIGURES` of a window against float64 after the graph's decisions; note what is not explained.

        Of a method that decides nothing they stay; the budget is what rounding does to this window, if that is more.
        """
        reference, window = self.reference, self.reference.windows[i]
        own = reference.expected[i].decisions
        if not np.isfinite(figures).all():
            return figures
        if own is None:
            noise = reference.expected[i].distance(outcome(reference.encoder, window, float64=True))
            self.allowed = self.allowed.largest(noise.budget(_TIMES, _FLOOR))
            return figures
        self.run = self.run or self.decisions()
        if self.run is None:
            return figures
        outputs, compared = self.run(reference.windows[:batch], reference.text[:queries])
        taken = Decisions(
            outliers=outputs[2][i] if len(outputs) > 2 else None,
            before=compared[0][i],
            above_mean=compared[1][i],
            after=compared[2][i],
        )
        wide = outcome(reference.encoder, window, taken, float64=True)
        noise = outcome(reference.encoder, window, taken).distance(wide)
        allowed = noise.largest(reference.noise).budget(_TIMES, _FLOOR)
        fault = unexplained(taken, outputs[0][i], wide, allowed)
        if fault is not None:
            self.faults.append(f"window {i} in a batch of {batch}: {fault}")
            return figures
        self.allowed = self.allowed.largest(allowed)
        flips = taken.differ_from(own, getattr(reference.encoder.parts, "similarity_floor", 0.0))
        if flips:
            self.flips[i] = max(self.flips.get(i, 0), flips)
        found = _compare([output[i] for output in outputs], wide, reference.text[:queries])
        found[4] = 0.0  # its outliers are the highest scores, as near as rounding
        return found


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
        flipped_decisions=sum(p.flipped_decisions for p in every),
        outliers_agreement=_least(*(p.outliers_agreement for p in every)),
        outlier_sets_equal=_least(*(p.outlier_sets_equal for p in every)),
        thresholds=replace(first.thresholds, max_abs=_greatest(*(p.thresholds.max_abs for p in every))),
        faults=tuple(fault for p in every for fault in p.faults),
    )


def _compare(got: list[NDArray[Any]], expected: Outcome, text: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the `_FIGURES` of one window."""
    missed = 0.0
    if expected.decisions is not None and expected.decisions.outliers is not None:
        both = expected.decisions.outliers, got[2]
        wanted, found = (set(indices[indices >= 0].tolist()) for indices in both)
        missed = 1.0 - len(wanted & found) / max(len(wanted), len(found), 1) if wanted | found else 0.0
    features, logits = expected.features, expected.features @ text.T
    return np.array(
        [
            _max_abs(got[0], features),
            _max_abs(got[1], logits),
            np.abs(got[0] - features).mean(),
            (got[1].argmax(axis=-1) != logits.argmax(axis=-1)).mean(),
            missed,
        ]
    )


def text_reference(encoder: TextEncoder, tokens: Tensor) -> NDArray[np.float32]:
    """Embeddings (B, E) by the float32 torch model, which the graphs are compared with.

    Args:
        encoder: the torch model.
        tokens: int64 (B, context length), each row a start token, some tokens and an end token, then zeros.
    """
    with torch.inference_mode():
        embeddings: NDArray[np.float32] = encoder(tokens).numpy()
    return embeddings


def check_text_encoder(expected: NDArray[np.float32], path: Path, tokens: Tensor) -> dict[str, object]:
    """Compare the traced text encoder with its torch model at several lengths and batch sizes.

    Args:
        expected: of `text_reference`.
        path: the ONNX file.
        tokens: as for `text_reference`.

    Returns:
        The figures for bundle.json.

    Raises:
        ExportError: the threshold is missed.
    """
    longest = int(tokens.argmax(dim=-1).max()) + 1
    session, worst = cpu_session(str(path)), 0.0
    lengths = (longest, min(longest + 5, tokens.shape[1]), tokens.shape[1])
    for length in lengths:
        for batch in (1, len(tokens)):
            got = session.run(None, {"tokens": tokens[:batch, :length].numpy()})[0]
            worst = float(np.maximum(worst, _max_abs(got, expected[:batch])))
    return _text_figures("text encoder", worst, lengths=list(lengths), batches=[1, len(tokens)])


def check_resumed_text_encoder(
    expected: NDArray[np.float32], path: Path, tokens: Tensor
) -> dict[str, object]:
    """Compare the graph that goes on from known beginnings with the torch model on whole texts.

    Args:
        expected: of `text_reference`.
        path: the ONNX file.
        tokens: as for `text_reference`; every text is cut at another place.

    Returns:
        The figures for bundle.json.

    Raises:
        ExportError: the threshold is missed.
    """
    cuts = _cuts(tokens.numpy())
    worst = _max_abs(_resumed(path, tokens.numpy(), cuts), expected)
    return _text_figures("resumed text encoder", worst, cuts=cuts.tolist())


def _text_figures(what: str, worst: float, **compared: list[int]) -> dict[str, object]:
    """The figures of a float32 text encoder whose embeddings differ from torch's by at most `worst`."""
    threshold = THRESHOLDS["fp32"].max_abs or 0.0
    if not worst <= threshold:
        raise ExportError(
            f"the {what} misses parity: embeddings differ by {worst:.2e}, allowed {threshold:.0e}"
        )
    return {
        "threshold": threshold,
        "embeddings_max_abs": worst,
        **compared,
        "reference": "torch fp32",
    }


def check_int8_text_encoder(
    encoder: TextEncoder, path: Path, resumed: Path | None, tokens: Tensor
) -> tuple[dict[str, object], dict[str, object] | None]:
    """Compare the int8 text encoder with the float32 torch model: the cosine of each text's two embeddings.

    Args:
        encoder: the float32 torch model.
        path: the int8 file for whole texts.
        resumed: the one that goes on from known beginnings; None if there is none.
        tokens: as for `text_reference`.

    Returns:
        The figures of both for bundle.json.

    Raises:
        ExportError: a text's cosine is under `TEXT_COSINE`.
    """
    expected, rows = text_reference(encoder, tokens), tokens.numpy()
    whole = _cosines(path.name, cpu_session(str(path)).run(None, {"tokens": rows})[0], expected)
    if resumed is None:
        return whole, None
    return whole, _cosines(resumed.name, _resumed(resumed, rows, _cuts(rows)), expected)


def _cosines(file: str, got: NDArray[np.float32], expected: NDArray[np.float32]) -> dict[str, object]:
    """The figures of texts (B, E) by a narrow file."""
    cosines = (got.astype(np.float64) * expected).sum(axis=1)
    if not cosines.min() >= TEXT_COSINE:  # nor is NaN
        raise ExportError(
            f"parity missed by {file}: the least cosine of {len(got)} texts with float32's is "
            f"{cosines.min():.4f}, allowed {TEXT_COSINE}; no bundle was written. Calibrate it on your classes "
            "(--vocabulary), or leave --int8-text out"
        )
    return {
        "thresholds": {"least_cosine": TEXT_COSINE},
        "least_cosine": float(cosines.min()),
        "mean_cosine": float(cosines.mean()),
        "texts": len(got),
        "reference": "torch fp32",
    }


def _cuts(rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Where to cut texts into a beginning and a rest: each at another place, the end token in the rest."""
    return 1 + np.arange(len(rows)) % rows.argmax(axis=1)


def _resumed(path: Path, rows: NDArray[np.int64], cuts: NDArray[np.int64]) -> NDArray[np.float32]:
    """Embeddings of whole texts (B, T) by the graph that goes on from beginnings of `cuts` (B,) tokens."""
    session, ends = cpu_session(str(path)), rows.argmax(axis=1)
    layers, _, _, heads, _, width = next(x.shape for x in session.get_inputs() if x.name == "past")
    nothing = {
        "past": np.zeros((layers, 2, 1, heads, 1, width), np.float32),
        "past_lengths": np.zeros(1, np.int64),
        "beginnings": np.zeros(len(rows), np.int64),
    }
    _, *present = session.run(None, {"tokens": rows[:, : cuts.max()], **nothing})
    past = np.stack(present).reshape(layers, 2, *present[0].shape)
    rest = np.zeros((len(rows), int((ends - cuts).max()) + 1), np.int64)
    for row, whole, cut, end in zip(rest, rows, cuts, ends, strict=True):
        row[: end - cut + 1] = whole[cut : end + 1]
    known = {"past": past, "past_lengths": cuts, "beginnings": np.arange(len(rows))}
    embeddings: NDArray[np.float32] = session.run(["embeddings"], {"tokens": rest, **known})[0]
    return embeddings


def _max_abs(got: NDArray[np.float32], expected: NDArray[Any]) -> float:
    if got.shape != expected.shape:
        raise ExportError(f"the graph returns shape {got.shape}; the torch model {expected.shape}")
    return float(np.abs(got - expected).max())


def _maximum(values: NDArray[np.float64]) -> float:
    return float(values.max()) if len(values) else 0.0


def _greatest(*values: float | None) -> float | None:
    told = [value for value in values if value is not None]
    return max(told) if told else None


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
            f"{'-' if limit is None else f'{limit:.1e}':>9} {parity.features_mean_abs:9.1e} "
            f"{parity.thresholds.mean_abs:9.0e} {parity.labels_agreement:8.2%} "
            f"{'-' if parity.outliers_agreement is None else f'{parity.outliers_agreement:.2%}':>8}  "
            f"{'/'.join(map(str, parity.batches)):<9} {'/'.join(map(str, parity.queries)):<9} "
            f"{parity.windows} ({parity.tied_windows}){verdict}"
        )
        lines += [f"  {fault}" for fault in parity.faults[:3]]
    return "\n".join(lines)
