"""The matrix products of an encoder's ONNX graph that can run in 8 bits, under the names of their modules."""

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto

from scclip_export.errors import ExportError

# These stay float. The visual projection decides the directions that queries are compared with. The patch projection
# takes small differences of large pixel values, which rounded weights spoil (docs/quantisation.md has the figures).
FLOAT_LAYERS = frozenset({"proj", "embedding.proj"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Product:
    """One product y = x · W (+ b) with a constant weight.

    Attributes:
        name: of the module, such as `blocks.3.query`.
        node: index in `graph.node` of the Gemm or MatMul.
        weight: initializer W: (N, K) of a Gemm, (K, N) of a MatMul.
        bias: initializer b (N,), or None.
        gemm: whether the node is a Gemm, which adds its bias itself; an Add does it after a MatMul.
        columns: N.
    """

    name: str
    node: int
    weight: str
    bias: str | None
    gemm: bool
    columns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """The products of one input: they share its scale, so that it is rounded once.

    Attributes:
        name: such as `blocks.3.fc`, or `blocks.3.qkv` for several.
        source: their input x (…, K), in the graph's own float type.
        products: in the graph's order; taken together their weight is (K, all columns).
        norm: the LayerNormalization's (gain, bias) initializers if x is its output and nobody else reads it.
        shape: (K, all columns).
    """

    name: str
    source: str
    products: tuple[Product, ...]
    norm: tuple[str, str] | None
    shape: tuple[int, int]

    def split(self, columns: NDArray[Any]) -> list[NDArray[Any]]:
        """Split (…, all columns) into the products' shares."""
        ends = np.cumsum([product.columns for product in self.products])[:-1]
        return np.split(columns, ends, axis=-1)


class _Graph:
    """Who writes and who reads what."""

    def __init__(self, model: ModelProto) -> None:
        self.dims = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
        self.readers: dict[str, list[NodeProto]] = {}
        self.writers: dict[str, NodeProto] = {}
        for node in model.graph.node:
            for name in node.input:
                self.readers.setdefault(name, []).append(node)
            self.writers.update(dict.fromkeys(node.output, node))

    def product(self, index: int, node: NodeProto) -> Product | None:
        """The product that a node is, if its weight is a constant."""
        dims = self.dims.get(node.input[1], ()) if node.op_type in ("MatMul", "Gemm") else ()
        if len(dims) != 2 or node.input[0] in self.dims:
            return None
        gemm = node.op_type == "Gemm"
        if gemm and not any(a.name == "transB" and a.i == 1 for a in node.attribute):
            return None
        bias = (node.input[2] if len(node.input) > 2 else None) if gemm else self._added(node)
        return Product(
            name=self._name(node, bias),
            node=index,
            weight=node.input[1],
            bias=bias,
            gemm=gemm,
            columns=dims[0] if gemm else dims[1],
        )

    def _added(self, node: NodeProto) -> str | None:
        """The one-dimensional constant that the only reader of a product, an Add, adds to it."""
        after = self.readers.get(node.output[0], [])
        if len(after) != 1 or after[0].op_type != "Add":
            return None
        return next((name for name in after[0].input if len(self.dims.get(name, ())) == 1), None)

    def _name(self, node: NodeProto, bias: str | None) -> str:
        """The module's name, from the names that tracing keeps."""
        for name, kind in ((node.input[1], ".weight"), (bias or "", ".bias")):
            if name.endswith(kind):
                return name.removesuffix(kind)
        # Weights that are computed while tracing have lost their names.
        norm = self.norm(node.input[0], 1)
        known = {"ln_post.weight": "proj", "last.ln_1.weight": "last.key_value"}
        return known.get(norm[0] if norm else "", "last.out_proj")

    def norm(self, source: str, readers: int) -> tuple[str, str] | None:
        """Gain and bias of the LayerNormalization behind `source`, if `readers` nodes read that and no others."""
        if len(self.readers[source]) != readers:
            return None
        writer = self.writers.get(source)
        while (
            writer is not None
            and writer.op_type in ("Reshape", "Cast")  # a cast: to the float16 of a narrow graph
            and len(self.readers[writer.input[0]]) == 1
        ):
            writer = self.writers.get(writer.input[0])
        if writer is None or writer.op_type != "LayerNormalization":
            return None
        gain, bias = writer.input[1], writer.input[2]
        # Equal initializers are stored once: one that others read as well can't be changed.
        return (gain, bias) if len(self.readers[gain]) == len(self.readers[bias]) == 1 else None


def find_layers(model: ModelProto) -> list[Layer]:
    """Return the products with a constant weight, by their inputs, in the graph's order, without `FLOAT_LAYERS`.

    A weight that several products take (a second stream through the blocks, SFP's values) stays float: their inputs
    would need different factors on its rows, and different rounding.

    Args:
        model: an encoder as `graph.onnx_from_encoder` writes it; weights need not be loaded.

    Raises:
        ExportError: the graph holds none, or two of one name.
    """
    graph = _Graph(model)
    found = [(node, graph.product(index, node)) for index, node in enumerate(model.graph.node)]
    takers = Counter(product.weight for _, product in found if product is not None)
    by_source: dict[str, list[Product]] = {}
    for node, product in found:
        if product is not None and product.name not in FLOAT_LAYERS and takers[product.weight] == 1:
            by_source.setdefault(node.input[0], []).append(product)
    layers = [
        Layer(
            name=_group_name([product.name for product in products]),
            source=source,
            products=tuple(products),
            norm=graph.norm(source, len(products)),
            shape=(_depth(graph, products[0]), sum(product.columns for product in products)),
        )
        for source, products in by_source.items()
    ]
    repeated = [name for name, count in Counter(layer.name for layer in layers).items() if count > 1]
    if repeated or not layers:
        what = f"several layers are called {', '.join(repeated)}" if repeated else "no product has a weight"
        raise ExportError(f"the graph can't be quantised: {what}; export it with this version")
    return layers


def _depth(graph: _Graph, product: Product) -> int:
    return graph.dims[product.weight][1 if product.gemm else 0]


def _group_name(names: list[str]) -> str:
    if len(names) == 1:
        return names[0]
    parts = [name.rpartition(".") for name in names]
    tail = "_".join(tail for *_, tail in parts)
    return f"{parts[0][0]}.{'qkv' if tail == 'query_key_value' else tail}"


def joint_weight(layer: Layer, arrays: dict[str, NDArray[np.float32]]) -> NDArray[np.float32]:
    """Return the weights of all products as one (K, all columns), from initializers by name."""
    return np.concatenate(
        [arrays[p.weight].T if p.gemm else arrays[p.weight] for p in layer.products], axis=1
    )
