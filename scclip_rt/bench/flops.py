"""What one image costs the encoder, counted from the manifest: 2 operations for each multiply-add of a matrix product.

Only matrix products are counted: norms, activations and soft-max move memory, and are what keeps an encoder below the
library's rate for products alone. Replacing the few outlier patches (under 0.1 %) is left out.
"""

from __future__ import annotations

from dataclasses import dataclass

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
    model = bundle.model
    n, t, d, e = patches, patches + 1, model.width, model.embed_dim
    blocks = model.layers - 1
    block = _block_products(model, t)
    embed = 2 * n * 3 * model.patch_size**2 * d
    linear = embed + blocks * sum(product.flops for product in block) + 2 * n * d * e + 2 * n * e * queries
    last = calibration = 0
    method = bundle.manifest.calibration.get("method")
    if method == "scclip":
        # Two passes share the P·v product and the output projection (METHOD §2).
        linear += 2 * (2 * n) * d * (2 * d) + 2 * n * d * d
        last = 2 * _attention(n, d) + 2 * n * n * d
        # Similarities of two layers and two averages over them; with outliers also distances and neighbour means.
        with_outliers = float(str(bundle.manifest.calibration["outlier_fraction"])) > 0
        calibration = 2 * n * n * d * (5 if with_outliers else 4)
    elif method == "sfp":
        linear += 2 * n * d * (4 * d) + 2 * n * d * d
        last = 2 * _attention(n, d) + 2 * n * n * d
        calibration = 2 * n * n * d * 4
    elif method == "maskclip":
        linear += 2 * (2 * n * d * d)
    else:  # of further methods the ordinary block is the measure: their own attentions cost a few percent of it
        linear += sum(product.flops for product in block)
        last = _attention(t, d)
    return Flops(linear=linear, attention=blocks * _attention(t, d), last_block=last, calibration=calibration)


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
