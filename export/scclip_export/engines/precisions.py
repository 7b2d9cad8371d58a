"""In which precision an engine computes, read back: an fp16 engine with fp32 matrix products is an error.

Two readings. The parsed, strongly typed network is there on every machine, and TensorRT may not change its types. The
layers of the engine come from the engine inspector, which needs a GPU to load it, or from TensorRT-RTX's builder, which
prints them into its log; they are held against the network's.
"""

import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from scclip_export.errors import ExportError

Counts = dict[str, dict[str, int]]

# Names of TensorRT's DataType by the precision of docs/bundle.md.
_DTYPES = {"fp32": "FLOAT", "fp16": "HALF", "bf16": "BF16", "fp8": "FP8"}
_PRECISIONS = {dtype: precision for precision, dtype in _DTYPES.items()}
_WEIGHTED = ("MATRIX_MULTIPLY", "CONVOLUTION")
_COUNTED = (
    *_WEIGHTED,
    "ATTENTION_INPUT",
    "EINSUM",
    "NORMALIZATION",
    "SOFTMAX",
    "TOPK",
    "PLUGIN_V3",
)
# Layers that pass weights on: from a matrix product's operand back to its constant.
_PASSING = frozenset({"SHUFFLE", "CAST", "IDENTITY", "SQUEEZE", "UNSQUEEZE", "SLICE"})
# The share of weights in products of the engine's own precision. What the policy keeps in fp32 (the last projection)
# is under 1 % of a ViT-B/16's weights and 6 % of the packaged demo model's, the smallest CLIP here.
_LEAST_SHARE = 0.9
# In fp8 both projections at the ends stay fp16, and so may a tenth of the multiplications (quantize/fp8.py).
_LEAST_FP8_SHARE = 0.75

# The engine inspector: kinds of layer, or parts of a tactic's name, that are matrix products.
_PRODUCT_TYPES = ("gemm", "matrixmultiply", "convolution", "conv", "fmha", "attention")
_PRODUCT_TACTICS = ("gemm", "fmha", "xmma", "cutlass", "fprop", "mha")
# Kernels by parts of their names, in lower case; the first that is found counts. `h16816` is a tensor core's shape with
# narrow sums; `s16816`, with wide ones, is fp16's and bf16's alike.
_TACTIC_DTYPES = (
    (r"tf32", "TF32"),
    (r"e4m3|fp8", "FP8"),
    (r"bf16", "BF16"),
    (r"f16f16|fp16|[_x]f16_|h16816|h1688|hgemm|hmma", "HALF"),
    (r"f32f32|sgemm|simt", "FLOAT"),
)
_INSPECTOR_DTYPES = {
    "float": "FLOAT",
    "half": "HALF",
    "bfloat16": "BF16",
    "fp32": "FLOAT",
    "fp16": "HALF",
    "bf16": "BF16",
    "fp8": "FP8",
    "e4m3": "FP8",
}
# A layer, and a tensor of it, in the builder's log.
_LOGGED_LAYER = re.compile(
    r"Name: (?P<name>\S+), LayerType: (?P<kind>\w+), Inputs: \[(?P<inputs>.*?)\], Constants: "
    r".*?, TacticName: (?P<tactic>[^,]*),"
)
_LOGGED_DTYPE = re.compile(r"Datatype: (\w+)")


@dataclass(slots=True)
class NetworkPrecisions:
    """What a parsed network computes in.

    Attributes:
        layers: number of layers by kind and dtype of the first input.
        weights: number of weights in matrix products and convolutions by dtype.
        products: names of those layers by dtype.
    """

    layers: Counts
    weights: Counter[str] = field(default_factory=Counter)
    products: dict[str, list[str]] = field(default_factory=dict)


def network_precisions(network: Any) -> NetworkPrecisions:
    """Count the layers of an INetworkDefinition by kind and dtype, and find the weights of its products."""
    layers = [network.get_layer(index) for index in range(network.num_layers)]
    producers = {layer.get_output(k).name: layer for layer in layers for k in range(layer.num_outputs)}
    counts: dict[str, Counter[str]] = {}
    found = NetworkPrecisions(layers={})
    for layer in layers:
        kind = layer.type.name
        if kind not in _COUNTED:
            continue
        dtype = _dtype(layer, producers)
        counts.setdefault(kind, Counter())[dtype] += 1
        if kind in _WEIGHTED and (size := _weights(layer, producers)):
            found.weights[dtype] += size
            found.products.setdefault(dtype, []).append(layer.name)
    found.layers = {kind: dict(counter) for kind, counter in sorted(counts.items())}
    return found


def _dtype(layer: Any, producers: Mapping[str, Any]) -> str:
    """What a layer computes in: its first input's type, or FP8 where both operands come out of float8."""
    if layer.type.name == "MATRIX_MULTIPLY":
        sources = [_origin(layer.get_input(index).name, producers) for index in range(2)]
        if all(source is not None and source.type.name == "DEQUANTIZE" for source in sources):
            return str(sources[0].get_input(0).dtype.name)
    return str(layer.get_input(0).dtype.name)


def _weights(layer: Any, producers: Mapping[str, Any]) -> int:
    """How many constant weights a product has: its own kernel, or an operand that comes from a constant."""
    if layer.type.name == "CONVOLUTION":
        return int(layer.get_input(0).shape[1]) * math.prod(layer.kernel_size_nd) * int(layer.num_output_maps)
    for index in range(layer.num_inputs):
        tensor = layer.get_input(index)
        if _is_constant(tensor.name, producers):
            return math.prod(int(length) for length in tensor.shape)
    return 0


def _is_constant(name: str, producers: Mapping[str, Any]) -> bool:
    producer = _origin(name, producers)
    if producer is not None and producer.type.name == "DEQUANTIZE":
        producer = _origin(producer.get_input(0).name, producers)
    return producer is not None and producer.type.name == "CONSTANT"


def _origin(name: str, producers: Mapping[str, Any]) -> Any:
    """The layer that made a tensor, behind those that pass it on; None for an input of the network."""
    producer = producers.get(name)
    while producer is not None and producer.type.name in _PASSING:
        producer = producers.get(producer.get_input(0).name)
    return producer


def check_network(found: NetworkPrecisions, precision: str, source: str) -> None:
    """Refuse a network that does not compute in the precision its file claims.

    Raises:
        ExportError: no products with weights at all, or more than a tenth of the weights in another dtype (fp32: any;
            fp8: more than a quarter).
    """
    wanted, total = _DTYPES[precision], found.weights.total()
    if not total:
        raise ExportError(
            f"{source}: no matrix product with weights was found in it; its precision can't be told"
        )
    share = found.weights[wanted] / total
    if share < {"fp32": 1.0, "fp8": _LEAST_FP8_SHARE}.get(precision, _LEAST_SHARE):
        others = [
            f"{name} ({dtype})"
            for dtype, names in found.products.items()
            if dtype != wanted
            for name in names
        ]
        raise ExportError(
            f"{source} claims {precision}, but {1 - share:.0%} of the weights of its matrix products are not: "
            f"{', '.join(others[:3])}{', …' if len(others) > 3 else ''} ({len(others)} layers); no engine was built"
        )


def logged_layers(text: str) -> dict[str, Any]:
    """Return the layers that TensorRT-RTX's builder logs in the inspector's form.

    Args:
        text: the log message, its lines joined by spaces or line feeds. For several targets there is one list.
    """
    return {
        "Layers": [
            {
                "Name": found["name"],
                "LayerType": found["kind"],
                "TacticName": found["tactic"].strip(),
                "Inputs": [{"DataType": dtype} for dtype in _LOGGED_DTYPE.findall(found["inputs"])],
            }
            for found in _LOGGED_LAYER.finditer(text)
        ]
    }


def engine_precisions(document: Mapping[str, Any]) -> Counts:
    """Count an engine's matrix products by dtype, from the inspector's JSON.

    The name of a tactic says what it multiplies (`sm80_xmma_gemm_f16f16_f16f32_…`), where it says anything: a product
    that does a cast of its input on the way is listed with the wide one. Else the input's dtype counts: TensorRT 10
    gives `Format/Datatype` of each tensor, 11 gives `DataType` and `Format`. Layers of other kinds, and inspectors that
    give names only, count nothing.
    """
    counter: Counter[str] = Counter()
    for layer in document.get("Layers", ()):
        if not isinstance(layer, Mapping):
            continue
        tactic = str(layer.get("TacticName", "")).lower()
        kind = str(layer.get("LayerType", "")).lower()
        if not any(word in kind for word in _PRODUCT_TYPES) and not any(
            word in tactic for word in _PRODUCT_TACTICS
        ):
            continue
        counter[_tactic_dtype(tactic) or next(_dtypes(layer), "UNKNOWN")] += 1
    return {"products": dict(sorted(counter.items()))} if counter else {}


def _tactic_dtype(tactic: str) -> str | None:
    """What a kernel of TensorRT, cuBLAS or CUTLASS multiplies, by its name; None where that does not say."""
    return next((dtype for pattern, dtype in _TACTIC_DTYPES if re.search(pattern, tactic)), None)


def _dtypes(layer: Mapping[str, Any]) -> Iterator[str]:
    for tensor in layer.get("Inputs", ()):
        text = str(
            tensor.get("DataType") or tensor.get("Format/Datatype") or tensor.get("Format") or ""
        ).lower()
        for word, dtype in _INSPECTOR_DTYPES.items():
            if word in text.replace("-", " ").split() or text == word:
                yield dtype
                break


def check_engine(engine: Counts, network: NetworkPrecisions, precision: str, source: str) -> None:
    """Refuse an engine whose products are wider than the network's, or run in TF32.

    Raises:
        ExportError: TF32 products; or an engine of a narrow precision with more fp32 products than its network.
    """
    products = engine.get("products", {})
    if products.get("TF32"):
        raise ExportError(
            f"the engine of {source} runs {products['TF32']} products in TF32, which was turned off"
        )
    if precision == "fp32":
        return
    wanted = _DTYPES[precision]
    wider = ("FLOAT", "HALF", "BF16") if precision == "fp8" else ("FLOAT",)
    allowed = dict.fromkeys(wider, 0)
    for kind, counts in network.layers.items():
        if kind in (*_WEIGHTED, "EINSUM"):
            for dtype in wider:
                allowed[dtype] += counts.get(dtype, 0)
    widened = [dtype for dtype in wider if products.get(dtype, 0) > allowed[dtype]]
    if products and (widened or not products.get(wanted)):
        dtype = (*widened, "FLOAT")[0]
        raise ExportError(
            f"the engine of {source} has {products.get(dtype, 0)} matrix products in {_PRECISIONS[dtype]} where its "
            f"graph has {allowed[dtype]}, and {products.get(wanted, 0)} in {precision}: the library has widened them. "
            "No engine was kept"
        )
