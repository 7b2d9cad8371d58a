"""What a method is made of: short, frozen descriptions that `CalibratedEncoder` builds an encoder from.

Three kinds, by what they change: the last block alone (`LastBlockParts`), the last block with what earlier blocks
know (`CalibrationConfig`, scclip_export.model.calibration), or a second stream through the last blocks (`StreamParts`).
Symbols are docs/methods.md's: q, k, v of a block with bias, s = head width^-1/2, ω the neighbourhood, O the output
projection, F_i the output of block i.
"""

from dataclasses import dataclass
from typing import Literal

from scclip_rt.limits import in_range

Scores = Literal["qk", "qq", "kk", "vv", "none", "identity"]
Amplitude = Literal["one", "norms", "mean_norms"]
Positions = Literal["bicubic", "bicubic-step", "bilinear", "bicubic-antialias"]
"""How the trained grid of positions becomes another, see scclip_export.model.positions."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Term:
    """weight · softmax(s x yᵀ + a ω) v, one summand of the last block's attention.

    Attributes:
        scores: x and y; `none` for the neighbourhood alone, `identity` for v itself.
        weight: may add up to more than 1 with the other terms'; the bias of O doesn't grow with it.
        sigma: width of the neighbourhood ω in patches; None for no neighbourhood.
        amplitude: a: 1, `norms` (s ‖x_p‖ ‖y_p'‖ of queries and keys), or `mean_norms` (the mean of them).
        block: whose queries and keys, where it is not the last block's; with `qk` only.
    """

    scores: Scores
    weight: float = 1.0
    sigma: float | None = None
    amplitude: Amplitude = "one"
    block: int | None = None

    def __post_init__(self) -> None:
        if self.sigma is not None:
            in_range("sigma", self.sigma)
        if self.scores == "none" and self.sigma is None:
            raise ValueError("attention by the neighbourhood alone needs sigma")
        if self.block is not None and (self.scores != "qk" or self.sigma is not None):
            raise ValueError("another block's attention is softmax(s q kᵀ)")


@dataclass(frozen=True, slots=True, kw_only=True)
class LastBlockParts:
    """y = O(sum of terms) [+ F_{L-2}, then y + MLP(ln_2 y)]; the class token takes part everywhere.

    Attributes:
        terms: of the attention.
        residual: whether F_{L-2} is added and the MLP follows: no method has one without the other.
        class_weight: λ; features become f + λ · class, which are no unit vectors.
        positions: where the grid is not the trained one.
        pads: whether windows are padded to whole patches inside the graph; else they must be multiples.
    """

    terms: tuple[Term, ...]
    residual: bool = False
    class_weight: float = 0.0
    positions: Positions = "bicubic-step"
    pads: bool = False

    @property
    def projections(self) -> tuple[str, ...]:
        """What of the last block's queries, keys and values the terms read."""
        own = [term for term in self.terms if term.block is None]
        read = {
            "query": any("q" in term.scores or term.amplitude != "one" for term in own),
            "key": any("k" in term.scores or term.amplitude != "one" for term in own),
            "value": True,
        }
        return tuple(name for name, is_read in read.items() if is_read)

    def check(self, *, layers: int, num_patches: int) -> None:  # noqa: ARG002  (the other kinds need it)
        """Raise ValueError if there is no block before the last, or a term reads one that the model doesn't have."""
        if layers < 2:
            raise ValueError("the last block is changed, and one before it is read; the model has 1 block")
        for term in self.terms:
            if term.block is not None and not 0 <= term.block < layers - 1:
                raise ValueError(
                    f"block {term.block} is not one of the model's 0 to {layers - 2} before the last; give others with "
                    "--cross-blocks A:B"
                )

    def taps(self, layers: int) -> frozenset[int]:  # noqa: ARG002
        """Blocks before the last whose queries and keys are kept."""
        return frozenset(term.block for term in self.terms if term.block is not None)


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamParts:
    """y = F_{L-n-1} + sum over the last n blocks of O_i(A_i v_i): no MLP, and F_i goes on unchanged.

    Attributes:
        attention: A: `vv` is softmax(s v vᵀ); `self` is the mean over p = q, k, v of softmax(τ p pᵀ), p unit vectors.
        blocks: n.
        iterations: of `self`: how often p becomes softmax(τ p pᵀ) p, then a unit vector.
        temperature: τ of `self`; None is s times the mean length of ln_1's output, per image and block.
        class_row: whether the features begin with the class token's, of the ordinary last block.
        positions: where the grid is not the trained one.
    """

    attention: Literal["vv", "self"]
    blocks: int = 6
    iterations: int = 1
    temperature: float | None = None
    class_row: bool = False
    positions: Positions = "bilinear"
    pads: bool = False
    class_weight: float = 0.0

    def __post_init__(self) -> None:
        in_range("blocks", self.blocks)
        in_range("self_iterations", self.iterations)
        if self.temperature is not None:
            in_range("temperature", self.temperature)

    def check(self, *, layers: int, num_patches: int) -> None:  # noqa: ARG002
        """Raise ValueError if the model has too few blocks."""
        if self.blocks >= layers:
            raise ValueError(
                f"a stream of {self.blocks} blocks needs a model of more; it has {layers}. Give fewer with --blocks"
            )

    def taps(self, layers: int) -> frozenset[int]:
        """Blocks before the last whose queries, keys and values are kept."""
        return frozenset(range(layers - self.blocks, layers - 1))
