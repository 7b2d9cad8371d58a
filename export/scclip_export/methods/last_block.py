"""Methods that change only the last block's attention (docs/methods.md, family A)."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from scclip_export.methods.base import Defaults, Method, MethodOptions, option, scaled
from scclip_export.model.parts import LastBlockParts, Term

QUERY_KEY = (Term(scores="qk"),)
QUERY_QUERY = (Term(scores="qq"),)
KEY_KEY = (Term(scores="kk"),)
IDENTITY = (Term(scores="identity"),)
CORRELATIVE = (Term(scores="qq"), Term(scores="kk"))  # SCLIP's: rows add to 2
ALL_SELF = (*CORRELATIVE, Term(scores="vv"))  # SegEarth-OV's: rows add to 3

PLAIN = LastBlockParts(terms=QUERY_KEY, residual=True, positions="bicubic")
VALUES = LastBlockParts(terms=IDENTITY, positions="bicubic")


def _no_neighborhood(option: str, value: str) -> Mapping[str, str]:
    return {"sigma": f"--{option} {value} has no neighbourhood"}


@dataclass(frozen=True, slots=True, kw_only=True)
class PlainOptions(MethodOptions):
    """CLIP as it is: the ordinary last block, dense."""

    def parts(self, *, layers: int, patch_size: int) -> LastBlockParts:  # noqa: ARG002
        """The ordinary block."""
        return PLAIN

    def defaults(self, *, layers: int, patch_size: int) -> Defaults:  # noqa: ARG002
        """SC-CLIP's, to compare with it."""
        return Defaults(whole_image="nearest")


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskClipOptions(MethodOptions):
    """MaskCLIP (arXiv 2112.01071): every patch attends to itself alone."""

    residual: bool = option(False, "keep the residual and the MLP of the last block")

    def parts(self, *, layers: int, patch_size: int) -> LastBlockParts:  # noqa: ARG002
        """The value path, or with the rest of the block."""
        return replace(VALUES, residual=self.residual)

    def defaults(self, *, layers: int, patch_size: int) -> Defaults:  # noqa: ARG002
        """SC-CLIP's, to compare with it."""
        return Defaults(whole_image="nearest")


@dataclass(frozen=True, slots=True, kw_only=True)
class SclipOptions(MethodOptions):
    """SCLIP (arXiv 2312.01597): correlative self-attention."""

    attention: Literal["csa", "vanilla"] = option(
        "csa",
        "csa: softmax(q qᵀ) + softmax(k kᵀ); vanilla: the ordinary attention",
        choices=("csa", "vanilla"),
    )

    def parts(self, *, layers: int, patch_size: int) -> LastBlockParts:  # noqa: ARG002
        """With residual and MLP."""
        terms = CORRELATIVE if self.attention == "csa" else QUERY_KEY
        return LastBlockParts(terms=terms, residual=True)

    def defaults(self, *, layers: int, patch_size: int) -> Defaults:  # noqa: ARG002
        """Its configurations'."""
        return Defaults(
            benchmarks={
                "voc21": {"logit_scale": 65.0, "prob_threshold": 0.1, "area_threshold": 0.1},
                "context60": {"logit_scale": 50.0, "prob_threshold": 0.1},
                "coco-object": {"logit_scale": 50.0, "prob_threshold": 0.1},
                "cityscapes": {"short_side": 560},
                "coco-stuff": {"short_side": 448},
            }
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ClearClipOptions(MethodOptions):
    """ClearCLIP (arXiv 2407.12442): query-query attention, no residual, no MLP."""

    attention: Literal["clearclip", "vanilla", "maskclip", "sclip"] = option(
        "clearclip",
        "clearclip: softmax(q qᵀ); vanilla: softmax(q kᵀ); maskclip: the identity; sclip: q qᵀ and k kᵀ",
        choices=("clearclip", "vanilla", "maskclip", "sclip"),
    )
    residual: bool = option(False, "keep the residual and the MLP of the last block")

    def parts(self, *, layers: int, patch_size: int) -> LastBlockParts:  # noqa: ARG002
        """Windows are padded to whole patches."""
        terms = {
            "clearclip": QUERY_QUERY,
            "vanilla": QUERY_KEY,
            "maskclip": IDENTITY,
            "sclip": CORRELATIVE,
        }[self.attention]
        return LastBlockParts(terms=terms, residual=self.residual, pads=True)

    def defaults(self, *, layers: int, patch_size: int) -> Defaults:  # noqa: ARG002
        """Its configurations'. Cityscapes also has windows of 224 without overlap, which is another encoder."""
        return Defaults(
            window=448,
            stride=224,
            short_side=448,
            logit_scale=50.0,
            benchmarks={
                "voc21": {"prob_threshold": 0.5},
                "context60": {"prob_threshold": 0.15},
                "coco-object": {"prob_threshold": 0.4},
            },
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class NaclipOptions(MethodOptions):
    """NACLIP (arXiv 2404.08181): patches attend to similar keys and to their neighbourhood."""

    architecture: Literal["reduced", "vanilla"] = option(
        "reduced", "vanilla: with the residual and the MLP", choices=("reduced", "vanilla")
    )
    attention: Literal["naclip", "kk", "csa", "vanilla", "nonly"] = option(
        "naclip",
        "naclip: softmax(k kᵀ + ω); kk: without ω; csa: SCLIP's; vanilla: softmax(q kᵀ); nonly: ω alone",
        choices=("naclip", "kk", "csa", "vanilla", "nonly"),
    )
    sigma: float = option(5.0, "width of the neighbourhood ω, patches")

    def idle(self) -> Mapping[str, str]:
        """The neighbourhood's width, where there is none."""
        return {} if self.attention in ("naclip", "nonly") else _no_neighborhood("attention", self.attention)

    def parts(self, *, layers: int, patch_size: int) -> LastBlockParts:  # noqa: ARG002
        """Its two switches."""
        terms = {
            "naclip": (Term(scores="kk", sigma=self.sigma),),
            "kk": KEY_KEY,
            "csa": CORRELATIVE,
            "vanilla": QUERY_KEY,
            "nonly": (Term(scores="none", sigma=self.sigma, amplitude="mean_norms"),),
        }[self.attention]
        whole = self.architecture == "vanilla"
        return LastBlockParts(terms=terms, residual=whole)

    def defaults(self, *, layers: int, patch_size: int) -> Defaults:  # noqa: ARG002
        """Its configurations', with PAMR on."""
        return Defaults(
            refine="pamr",
            benchmarks={
                "voc21": {"whole_image": True, "prob_threshold": 0.1},
                "voc20": {"whole_image": True},
                "context60": {"prob_threshold": 0.1},
                "coco-object": {"prob_threshold": 0.1},
                "cityscapes": {"short_side": 560},
            },
        )


# SegEarth-OV: least probability on each of its data sets, and the class that takes the rest where that isn't the first.
_EARTH = {
    "openearthmap": 0.1,
    "loveda": 0.3,
    "isaid": 0.4,
    "potsdam": 0.1,
    "vaihingen": 0.1,
    "uavid": 0.3,
    "udd5": 0.4,
    "vdd": 0.3,
    "whu-aerial": 0.6,
    "whu-sat-ii": 0.7,
    "inria": 0.6,
    "xbd": 0.0,
    "chn6-cug": 0.8,
    "deepglobe": 0.7,
    "massachusetts": 0.7,
    "spacenet": 0.7,
    "wbs-si": 0.6,
}
_EARTH_REST = {"potsdam": 5, "vaihingen": 5, "udd5": 4}


@dataclass(frozen=True, slots=True, kw_only=True)
class SegEarthOptions(MethodOptions):
    """SegEarth-OV (arXiv 2410.01768) without its learned upsampler."""

    attention: Literal["segearth", "clearclip", "sclip", "naclip", "nonly", "gav", "maskclip", "vanilla"] = (
        option(
            "segearth",
            "segearth: softmax(q qᵀ) + softmax(k kᵀ) + softmax(v vᵀ); clearclip, sclip, naclip, maskclip and vanilla: "
            "theirs; nonly: s‖q‖‖k‖ω; gav: q kᵀ and that",
            choices=("segearth", "clearclip", "sclip", "naclip", "nonly", "gav", "maskclip", "vanilla"),
        )
    )
    residual: bool = option(False, "keep the residual and the MLP of the last block")
    class_weight: float = option(-0.3, "λ of the class token: features become f + λ · class (0: off)")
    sigma: float = option(1.0, "width of the neighbourhood of naclip, nonly and gav, patches")

    def idle(self) -> Mapping[str, str]:
        """The neighbourhood's width, where there is none."""
        return (
            {}
            if self.attention in ("naclip", "nonly", "gav")
            else _no_neighborhood("attention", self.attention)
        )

    def parts(self, *, layers: int, patch_size: int) -> LastBlockParts:  # noqa: ARG002
        """Windows are padded to whole patches."""
        terms = {
            "segearth": ALL_SELF,
            "clearclip": QUERY_QUERY,
            "sclip": CORRELATIVE,
            "naclip": (Term(scores="kk", sigma=self.sigma),),
            "nonly": (Term(scores="none", sigma=self.sigma, amplitude="norms"),),
            "gav": (Term(scores="qk", sigma=self.sigma, amplitude="norms"),),
            "maskclip": IDENTITY,
            "vanilla": QUERY_KEY,
        }[self.attention]
        return LastBlockParts(
            terms=terms,
            residual=self.residual,
            class_weight=self.class_weight,
            pads=True,
        )

    def defaults(self, *, layers: int, patch_size: int) -> Defaults:  # noqa: ARG002
        """Its configurations': the long side becomes 448."""
        return Defaults(
            window=224,
            stride=112,
            short_side=448,
            long_side=448,
            logit_scale=50.0,
            benchmarks={
                name: {"prob_threshold": threshold, "rest_class": _EARTH_REST.get(name, 0)}
                for name, threshold in _EARTH.items()
            },
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ResClipOptions(MethodOptions):
    """ResCLIP's residual cross-correlation (arXiv 2411.15851), without its feedback of the text."""

    base: Literal["naclip", "clearclip", "vanilla", "sclip", "vanilla-residual"] = option(
        "naclip",
        "the attention it is added to: softmax(k kᵀ + ω), softmax(q qᵀ), softmax(q kᵀ); sclip and vanilla-residual: "
        "with the residual and the MLP",
        choices=("naclip", "clearclip", "vanilla", "sclip", "vanilla-residual"),
    )
    cross_weight: float = option(0.3, "λ, share of the middle blocks' attention (per benchmark .2 to .6)")
    temperature: float = option(2.0, "τ, factor on the attention")
    cross_blocks: tuple[int, int] | None = option(
        None,
        "blocks (from 0) whose attention is taken (5:9; scaled in models of fewer than 10 blocks)",
        metavar="A:B",
    )
    sigma: float = option(5.0, "width of the neighbourhood ω, patches")

    def __post_init__(self) -> None:
        start, end = self.cross_blocks or (0, 1)
        if not 0 <= start < end:
            raise ValueError(f"cross_blocks A:B needs 0 <= A < B; got {start}:{end}")

    def idle(self) -> Mapping[str, str]:
        """The neighbourhood's width, where there is none."""
        return {} if self.base == "naclip" else _no_neighborhood("base", self.base)

    def parts(self, *, layers: int, patch_size: int) -> LastBlockParts:  # noqa: ARG002
        """τ ((1 - λ) base + λ · mean of the middle blocks' attention)."""
        base = {
            "naclip": (Term(scores="kk", sigma=self.sigma),),
            "clearclip": QUERY_QUERY,
            "vanilla": QUERY_KEY,
            "sclip": CORRELATIVE,
            "vanilla-residual": QUERY_KEY,
        }[self.base]
        blocks = range(*(self.cross_blocks or (scaled(5, layers, needs=10), scaled(8, layers, needs=10) + 1)))
        share = self.temperature * self.cross_weight / len(blocks)
        kept = self.temperature * (1.0 - self.cross_weight)
        whole = self.base in ("sclip", "vanilla-residual")
        terms = (
            *(replace(term, weight=term.weight * kept) for term in base),
            *(Term(scores="qk", block=block, weight=share) for block in blocks),
        )
        return LastBlockParts(terms=terms, residual=whole)

    def defaults(self, *, layers: int, patch_size: int) -> Defaults:  # noqa: ARG002
        """Its configurations'; λ is another encoder, so it is not among them."""
        return Defaults(
            benchmarks={
                "voc21": {"whole_image": True, "prob_threshold": 0.1},
                "voc20": {"whole_image": True},
                "context60": {"prob_threshold": 0.1},
                "coco-object": {"prob_threshold": 0.1},
                "cityscapes": {"short_side": 560},
            }
        )


METHODS = (
    Method(name="none", title="the ordinary last block", options=PlainOptions),
    Method(name="maskclip", title="the last block's value path alone", options=MaskClipOptions),
    Method(name="sclip", title="query-query and key-key attention", options=SclipOptions),
    Method(name="clearclip", title="query-query attention, no residual, no MLP", options=ClearClipOptions),
    Method(name="naclip", title="key-key attention and the neighbourhood", options=NaclipOptions),
    Method(name="segearth", title="SegEarth-OV: for remote sensing", options=SegEarthOptions),
    Method(name="resclip", title="NACLIP and middle blocks' attention", options=ResClipOptions),
)
