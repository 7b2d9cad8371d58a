"""What one image costs the encoder, counted from the manifest: 2 operations for each multiply-add of a matrix product.

Only matrix products are counted: norms, activations and soft-max move memory, and are what keeps an encoder below the
library's rate for products alone. Replacing the few outlier patches (under 0.1 %) is left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from scclip_rt.bundle.bundle import Bundle
from scclip_rt.bundle.manifest import ModelSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Flops:
    """Operations of one window, by what they are for.

    Attributes:
        linear: products with weights: patch projection, attention projections, MLPs, the last projection.
        attention: queries with keys, and weights with values, of the ordinary blocks.
        last_block: the same of the last block.
        calibration: distances, similarities and the averages over them (METHOD §2).
    """

    linear: int
    attention: int
    last_block: int
    calibration: int

    @property
    def total(self) -> int:
        """All of them."""
        return self.linear + self.attention + self.last_block + self.calibration


@dataclass(frozen=True, slots=True, kw_only=True)
class Product:
    """A matrix product with weights, rows × inner by inner × outer."""

    name: str
    rows: int
    inner: int
    outer: int

    @property
    def flops(self) -> int:
        """Operations, 2 for each multiply-add."""
        return 2 * self.rows * self.inner * self.outer


def count_flops(bundle: Bundle, patches: int, queries: int = 1) -> Flops:
    """Operations of one window (or whole image) of so many patches.

    Args:
        bundle: whose sizes and calibration method count.
        patches: N, without the class token.
        queries: rows of the graph's `text` input; the runtime asks with one.
    """
    model, calibration = bundle.model, bundle.manifest.calibration
    n, t, d, e = patches, patches + 1, model.width, model.embed_dim
    blocks = model.layers - 1
    embed = 2 * n * 3 * model.patch_size**2 * d
    trunk = blocks * sum(product.flops for product in _block_products(model, t))
    own = _last_block(model, calibration, n)
    kept = t if calibration.get("class_weight") or calibration.get("method") == "surgery" else n
    features = 2 * kept * d * e + 2 * n * e * queries
    return Flops(
        linear=embed + trunk + own.linear + features,
        attention=blocks * _attention(t, d),
        last_block=own.last_block,
        calibration=own.calibration,
    )


def _last_block(model: ModelSpec, calibration: Mapping[str, object], n: int) -> Flops:
    """What a method does behind the ordinary blocks."""
    t, d, method = n + 1, model.width, calibration.get("method")
    linear = last = similarities = 0
    if method == "scclip":
        # Two passes share the P·v product and the output projection (METHOD §2).
        linear = 2 * (2 * n) * d * (2 * d) + 2 * n * d * d
        last = 2 * _attention(n, d) + 2 * n * n * d
        # Similarities of two layers and two averages over them; with outliers also distances and neighbour means.
        with_outliers = float(str(calibration["outlier_fraction"])) > 0
        similarities = 2 * n * n * d * (5 if with_outliers else 4)
    elif method == "sfp":
        linear = 2 * n * d * (4 * d) + 2 * n * d * d
        last = 2 * _attention(n, d) + 2 * n * n * d
        similarities = 2 * n * n * d * (5 if calibration.get("detector") == "lof" else 4)
    elif method in ("surgery", "gem"):
        streamed = int(str(calibration["blocks"]))
        # Each block's own output projection; queries, keys and values of all but the last are there.
        linear = 2 * t * d * (3 * d) + streamed * 2 * t * d * d
        # GEM: three maps a time, and at the end one product of their sum with the values.
        attentions = 1 if method == "surgery" else 3 * int(str(calibration["iterations"])) + 2
        last = streamed * attentions * _attention(t, d)
        if method == "surgery":  # the class token of the ordinary block
            linear += sum(product.flops for product in _block_products(model, 1)[1:])
            last += 4 * t * d
    else:
        linear, last = _own_attention(model, calibration, n)
    return Flops(linear=linear, attention=0, last_block=last, calibration=similarities)


_TERMS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "identity": (),
        "maskclip": (),
        "vanilla": ("qk",),
        "vanilla-residual": ("qk",),
        "clearclip": ("qq",),
        "naclip": ("kk",),
        "kk": ("kk",),
        "csa": ("qq", "kk"),
        "sclip": ("qq", "kk"),
        "segearth": ("qq", "kk", "vv"),
        "gav": ("qk",),
        "nonly": ("none",),
    }
)
"""The attentions whose sum each name stands for, as docs/methods.md has them; `none` weighs by the neighbourhood."""


def _own_attention(model: ModelSpec, calibration: Mapping[str, object], n: int) -> tuple[int, int]:
    """Products with weights, and attention, of a method that changes the last block's attention alone."""
    t, d, method = n + 1, model.width, str(calibration.get("method"))
    chosen = {"none": "vanilla", "maskclip": "identity"}.get(method)
    name = chosen or str(calibration.get("base", calibration.get("attention")))
    terms = _TERMS[name]
    whole = (
        method in ("none", "sclip")
        or bool(calibration.get("residual"))
        or calibration.get("architecture") == "vanilla"
        or (method == "resclip" and name in ("sclip", "vanilla-residual"))
    )
    used = set("".join(terms).replace("none", "qk" if terms == ("none",) else "")) | {"v"}
    rows = n if method == "maskclip" and not whole else t
    projections = 2 * rows * d * (len(used) * d) + 2 * rows * d * d
    mlp = sum(product.flops for product in _block_products(model, t)[2:]) if whole else 0
    cross = calibration.get("cross_blocks")
    taken = 0 if not isinstance(cross, list | tuple) else int(cross[1]) - int(cross[0])
    attention = sum(_attention(t, d) // (2 if term == "none" else 1) for term in terms)
    # Of another block's attention only the product with the values is new: its map is the ordinary one.
    return projections + mlp, attention + taken * _attention(t, d) // 2


def block_products(bundle: Bundle, tokens: int) -> tuple[Product, ...]:
    """The four products with weights of one transformer block, over so many tokens (class tokens included)."""
    return _block_products(bundle.model, tokens)


def _block_products(model: ModelSpec, tokens: int) -> tuple[Product, ...]:
    d, hidden = model.width, model.mlp_width or 4 * model.width
    return tuple(
        Product(name=name, rows=tokens, inner=inner, outer=outer)
        for name, inner, outer in (
            ("qkv", d, 3 * d),
            ("attention out", d, d),
            ("mlp in", d, hidden),
            ("mlp out", hidden, d),
        )
    )


def _attention(tokens: int, width: int) -> int:
    """All heads: queries with keys, weights with values."""
    return 4 * tokens * tokens * width
