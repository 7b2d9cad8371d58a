"""Hard decisions of the method, and what the features are in float64 once they are taken.

SC-CLIP and SFP decide three times by comparing: which patches are outliers, which similarities reach the floor, and
which lie above their mean. Where both sides of a comparison agree to the last bits, another order of summation decides
the other way, and a few features move by far more than rounding. A graph that does so is right, if it follows its own
decisions and each of them was as close as rounding. Both are checked here against float64: the similarities and scores
that the graph compared, and the features that follow from its decisions.
"""

import copy
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from scclip_export.model.dtypes import DtypePolicy
from scclip_export.model.encoder import CalibratedEncoder, Trunk
from scclip_kernels import attention as attentions
from scclip_kernels import neighbor_weights, outlier_indices, repair
from scclip_kernels.operations import TorchOperations

_WIDE = torch.float64
FLOAT64 = DtypePolicy(linear=_WIDE, attention=_WIDE, aggregation=_WIDE, residual=_WIDE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Decisions:
    """What one window's comparisons were decided on.

    Attributes:
        outliers: int64 (m,), ascending, -1 where a detector found fewer; None without anomaly detection.
        before: similarities (N, N) compared with the floor before the last block, and with their mean.
        above_mean: similarities minus their mean (N, N), of either scale; SFP's are 0 under the floor.
        after: similarities (N, N) compared with the floor after the last block.
    """

    outliers: NDArray[np.int64] | None
    before: NDArray[Any]
    above_mean: NDArray[Any]
    after: NDArray[Any]

    def differ_from(self, other: "Decisions", floor: float) -> int:
        """How many comparisons come out the other way."""
        count = 0
        if self.outliers is not None and other.outliers is not None:
            mine, theirs = (set(found[found >= 0].tolist()) for found in (self.outliers, other.outliers))
            count = max(len(mine - theirs), len(theirs - mine))
        pairs = (
            (self.before >= floor, other.before >= floor),
            (self.above_mean >= 0, other.above_mean >= 0),
            (self.after >= floor, other.after >= floor),
        )
        return count + sum(int((own != others).sum()) for own, others in pairs)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """One window, its decisions taken or given: unit features (N, E), and what the comparisons are about.

    `decisions` is None without the calibration of SC-CLIP or SFP, `scores` without anomaly detection: what outliers are
    ranked by, (N,), or what SFP's detector by attention compares, (2, N): the first is more in outliers.
    """

    features: NDArray[Any]
    decisions: Decisions | None
    scores: NDArray[Any] | None

    def distance(self, other: Self) -> "Distance":
        """The largest differences from another computation of the same window, same decisions."""
        similarities = scores = 0.0
        if self.decisions is not None and other.decisions is not None:
            mine, theirs = self.decisions, other.decisions
            pairs = ((mine.before, theirs.before), (mine.after, theirs.after))
            similarities = max(float(np.abs(ours - others).max()) for ours, others in pairs)
        if self.scores is not None and other.scores is not None:
            scores = float(np.abs(self.scores / other.scores - 1.0).max())
        features = float(np.abs(self.features - other.features).max())
        return Distance(features=features, similarities=similarities, scores=scores)


@dataclass(frozen=True, slots=True, kw_only=True)
class Distance:
    """Largest absolute differences of features and similarities, largest relative one of outlier scores."""

    features: float
    similarities: float
    scores: float

    def budget(self, times: float, floor: float) -> "Distance":
        """What is allowed of another float32 computation, if this is how far plain torch is from float64.

        Similarities have four times the room: they are N² values of tokens before the last norm, whose largest error
        varies most, by model (4.6 times torch's on one of 100 with massive tokens, benchmarks.cpu.parity_margins) and
        by processor (10.5 times on Zen 4, in a test). Features are held to the decisions all the same.
        """
        return Distance(
            features=times * self.features + floor,
            similarities=4.0 * times * self.similarities + floor,
            scores=times * self.scores + floor,
        )

    def largest(self, other: "Distance") -> "Distance":
        """The larger of each figure."""
        return Distance(
            features=max(self.features, other.features),
            similarities=max(self.similarities, other.similarities),
            scores=max(self.scores, other.scores),
        )


@dataclass(slots=True, kw_only=True)
class _Decided:
    """The operations of the calibration with decisions that are given, or taken here (`decisions` None).

    It keeps what the comparisons were about, in the order `calibrate` asks for it: before, then after.
    """

    plain: TorchOperations
    decisions: Decisions | None
    floor: float
    scores: Tensor | None = None
    outliers: Tensor | None = None
    similarities: list[Tensor] | None = None
    above_mean: Tensor | None = None

    @property
    def attend(self) -> attentions.Attention:
        return self.plain.attend

    def anomaly_scores(self, features: Tensor, num_neighbors: int) -> Tensor:
        return self.plain.anomaly_scores(features, num_neighbors)

    def repair_outliers(
        self, patches: Tensor, guide: Tensor, scores: Tensor, *, num_outliers: int, columns: int
    ) -> tuple[Tensor, Tensor]:
        if self.decisions is None:
            outliers = outlier_indices(scores, num_outliers)
        else:
            outliers = torch.from_numpy(self.decisions.outliers)[None]
        self.scores, self.outliers = scores, outliers
        weights = neighbor_weights(outliers, patches.shape[1], columns).to(patches.dtype)
        return repair(patches, outliers, weights), repair(guide, outliers, weights)

    def similarity(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """The similarities, and those that count as reaching the floor."""
        found = self.plain.similarity(features)
        kept = found >= self.floor
        if self.decisions is not None:
            given = self.decisions.after if self.similarities else self.decisions.before
            kept = torch.from_numpy(given >= np.float32(self.floor))[None]
        self.similarities = [*(self.similarities or []), found]
        return found, kept

    def aggregate(self, features: Tensor, similarity: tuple[Tensor, Tensor], floor: float) -> Tensor:
        del floor
        kept = torch.where(similarity[1], similarity[0], 0.0)
        return kept / (kept.sum(dim=-1, keepdim=True) + 1e-6) @ features

    def calibrated_attention(
        self, key: Tensor, value: Tensor, similarity: tuple[Tensor, Tensor], num_heads: int
    ) -> Tensor:
        weights = self._attention(similarity[0])
        return attentions.calibrated_attention(key, value, weights, num_heads, self.attend)

    def thresholded_attention(self, similarity: tuple[Tensor, Tensor], floor: float) -> Tensor:
        del floor
        return self._attention(torch.where(similarity[1], similarity[0], 0.0))

    def _attention(self, similarity: Tensor) -> Tensor:
        self.above_mean = similarity - similarity.mean(dim=(1, 2), keepdim=True)
        above = self.above_mean >= 0.0
        if self.decisions is not None:
            above = torch.from_numpy(self.decisions.above_mean >= 0)[None]
        return torch.softmax(torch.where(above, 3.0 * self.above_mean, float("-inf")), dim=-1)

    def follow(self, trunk: Trunk, parts: Any) -> Trunk:
        """The trunk whose salience finds the outliers that are given; SFP's detector by attention has no operation."""
        if trunk.salience is None:
            return trunk
        to_class, to_itself = trunk.salience
        self.scores = torch.stack([parts.salience * parts.cls_residual * to_class, to_itself], dim=1)
        if self.decisions is None or self.decisions.outliers is None:
            return trunk
        index = np.arange(self.scores.shape[-1])
        found = torch.from_numpy(np.isin(index, self.decisions.outliers))[None].to(self.scores.dtype)
        return replace(trunk, salience=(found, torch.zeros_like(found)))

    def taken(self) -> Decisions | None:
        """What was compared; None if the calibration did not run."""
        if self.similarities is None or self.above_mean is None:
            return None
        before, after = (found[0].numpy() for found in self.similarities)
        return Decisions(
            outliers=None if self.outliers is None else self.outliers[0].sort().values.numpy(),
            before=before,
            above_mean=self.above_mean[0].numpy(),
            after=after,
        )


def outcome(
    encoder: CalibratedEncoder,
    window: NDArray[np.uint8],
    decisions: Decisions | None = None,
    *,
    float64: bool = False,
) -> Outcome:
    """Run an encoder on one window, following decisions that are given.

    Args:
        encoder: the float32 torch model.
        window: uint8 (H, W, 3).
        decisions: None to take them.
        float64: whether to compute in float64, block after block, so that one block at a time is held twice.
    """
    pixels = torch.from_numpy(window[None])
    grid = encoder.patch_grid(pixels)
    floor = getattr(encoder.parts, "similarity_floor", 0.0)
    decided = _Decided(plain=TorchOperations(encoder.attend), decisions=decisions, floor=floor)
    # Shares every module with the encoder; only what is replaced here is its own.
    model = copy.copy(encoder)
    model._modules = dict(encoder._modules)
    model.operations, model.debug_outputs = decided, True
    if float64:
        model.policy = FLOAT64
        model.blocks = nn.ModuleList(_OneAtATime(block) for block in encoder.blocks)
        for name in ("embedding", "ln_pre", "last", "ln_post", "proj"):
            setattr(model, name, _double(getattr(encoder, name)))
        if encoder.grid:
            model._buffers = {"fixed_positions": encoder.fixed_positions.double()}
    with torch.inference_mode():
        features, outliers = model.encode(decided.follow(model.trunk(pixels), encoder.parts), *grid)
    if decided.outliers is None:
        decided.outliers = outliers
    scores = None if decided.scores is None else decided.scores[0].numpy()
    return Outcome(features=features[0].numpy(), decisions=decided.taken(), scores=scores)


class _OneAtATime(nn.Module):
    """A block that is copied to float64 when it runs, and forgotten afterwards."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block

    def forward(self, *arguments: Any) -> Any:
        return _double(self.block)(*arguments)

    def tap(self, *arguments: Any) -> Any:
        return _double(self.block).tap(*arguments)

    def finish(self, *arguments: Any) -> Any:
        return _double(self.block).finish(*arguments)

    def attention_output(self, *arguments: Any) -> Any:
        return _double(self.block).attention_output(*arguments)


def _double(module: nn.Module) -> Any:
    # In the copy's place of each tensor, so that none is copied in float32 first.
    wide: dict[int, Any] = {id(x): x.double() for x in module.buffers() if x.is_floating_point()}
    wide |= {id(x): nn.Parameter(x.double(), requires_grad=False) for x in module.parameters()}
    twin: Any = copy.deepcopy(module, wide)
    if hasattr(twin, "policy"):
        twin.policy = FLOAT64
    return twin


def unexplained(
    graph: Decisions, features: NDArray[np.float32], reference: Outcome, allowed: Distance
) -> str | None:
    """Say what of a graph's window rounding does not explain; None if all of it is.

    Args:
        graph: what the graph decided on.
        features: what it returned.
        reference: the same window in float64, following the graph's decisions.
        allowed: how far float32 may be from it.
    """
    got = replace(reference, features=features, decisions=graph)
    found = got.distance(reference)
    if not found.similarities <= allowed.similarities:
        return f"similarities differ by {found.similarities:.1e}, allowed {allowed.similarities:.1e}"
    wide = reference.decisions
    if wide is not None:
        flipped = (graph.above_mean >= 0) != (wide.above_mean >= 0)
        far = float(np.abs(wide.above_mean[flipped]).max(initial=0.0))
        if not far <= 2 * allowed.similarities:  # of a similarity and of their mean
            return f"a similarity is {far:.1e} from the mean and counts as on its other side"
    if graph.outliers is not None and reference.scores is not None:
        short = _short_of(graph.outliers, reference.scores)
        if not short <= allowed.scores:
            return f"an outlier's score falls short by {short:.1e}, allowed {allowed.scores:.1e}"
    if not found.features <= allowed.features:
        return f"features differ by {found.features:.1e}, allowed {allowed.features:.1e}"
    return None


def _short_of(outliers: NDArray[np.int64], scores: NDArray[Any]) -> float:
    """By what share `Outcome.scores` would have to be off for these outliers to be those that the method finds."""
    chosen = np.isin(np.arange(scores.shape[-1]), outliers)
    if scores.ndim == 1:
        return float(1.0 - scores[chosen].min() / scores[~chosen].max())
    to_class, to_itself = scores
    salient = to_class / to_itself
    left = salient[~chosen]
    if (outliers >= 0).all():  # as many as may be: others are salient too, but rank behind
        left = np.minimum(left, to_class[~chosen] / to_class[chosen].min())
    return float(np.concatenate([1.0 - salient[chosen], left - 1.0]).max())
