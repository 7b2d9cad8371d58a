"""The Triton kernels as TensorRT's ahead-of-time plug-ins: what is compiled for each, and how it is launched.

What a plug-in takes and gives stands in `plugin_table`, which three sides read: the exporter (nodes of the ONNX file),
the engine builder (registration with TensorRT) and the tests.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from scclip_kernels.plugins import kernels as plugin_kernels
from scclip_kernels.plugins.table import PLUGINS, Plugin
from scclip_kernels.triton import anomaly, attention, halves, outlier_repair, similarity
from scclip_kernels.triton.launch import next_power_of_2
from scclip_kernels.variant import Variant

# The least that a launch gets without asking the driver for more, which TensorRT is not known to do.
MAX_SHARED_BYTES = 48 << 10


@dataclass(frozen=True, slots=True, kw_only=True)
class PluginKernel:
    """A plug-in of the table with its kernel.

    Attributes:
        plugin: inputs, integers, outputs and attributes.
        variant: what is compiled; its types are the arguments of a launch, in TensorRT's order.
        blocks: what a program covers along x, y and z: patches, channels or heads, windows; see `grid`.
    """

    plugin: Plugin
    variant: Variant
    blocks: tuple[int, int]

    def grid(self, patches: Any, batch: Any, cdiv: Callable[[Any, int], Any]) -> tuple[Any, Any, Any]:
        """Number of blocks along x, y and z.

        Args:
            patches: N, a number or TensorRT's expression for it.
            batch: B, likewise.
            cdiv: rounds a quotient of the two up.
        """
        rows, columns = self.blocks
        along_x = cdiv(patches, rows)
        return (along_x, batch, 1) if columns == 0 else (along_x, columns, batch)


def plugin_kernel(name: str, narrow: str, attributes: Mapping[str, int | float]) -> PluginKernel:
    """Return a plug-in's kernel, ready to compile.

    Args:
        name: a key of `PLUGINS`.
        narrow: `fp32`, `fp16` or `bf16`: the type of the narrow tensors.
        attributes: every attribute of the plug-in.

    Raises:
        ValueError: a name or attribute that isn't the table's.
    """
    plugin = PLUGINS.get(name)
    if plugin is None:
        raise ValueError(f"no plug-in {name!r}; there are {', '.join(PLUGINS)}")
    if set(attributes) != set(plugin.attributes):
        raise ValueError(
            f"plug-in {name} takes {', '.join(plugin.attributes)}; got {', '.join(attributes) or 'nothing'}"
        )
    kernel, constants, blocks = _SPECIAL[name](attributes, wide=narrow == "fp32")
    launch = {key: constants.pop(key) for key in ("num_warps", "num_stages") if key in constants}
    types = {
        **{tensor: f"*{plugin.dtype(kind, narrow)}" for tensor, kind in plugin.inputs.items()},
        **dict.fromkeys(plugin.integers, "i32"),
        **{tensor.name: f"*{plugin.dtype(tensor.kind, narrow)}" for tensor in plugin.outputs},
    }
    pointers = frozenset(key for key, kind in types.items() if kind.startswith("*"))
    variant = Variant(
        name=f"{name}_plugin",
        kernel=kernel,
        types=types,
        constants=constants,
        aligned=pointers,
        notes={"dtype": narrow},
        **launch,
    )
    return PluginKernel(plugin=plugin, variant=variant, blocks=blocks)


_Special = tuple[Any, dict[str, Any], tuple[int, int]]


def _halves(attributes: Mapping[str, Any], *, wide: bool) -> _Special:  # noqa: ARG001
    width = int(attributes["width"])
    constants = {
        "WIDTH": width,
        "ROWS": halves.ROWS,
        "BLOCK_D": next_power_of_2(width),
        "num_warps": halves.WARPS,
    }
    return plugin_kernels._halves_plugin, constants, (halves.ROWS, 0)


def _k_distance(attributes: Mapping[str, Any], *, wide: bool) -> _Special:  # noqa: ARG001
    neighbors = int(attributes["neighbors"])
    constants = {
        "WIDTH": int(attributes["width"]),
        "NEIGHBORS": neighbors,
        "TOP": next_power_of_2(neighbors),
        **anomaly.LONG,
    }
    return plugin_kernels._k_distance_plugin, constants, (anomaly.LONG["BLOCK_M"], 0)


def _anomaly_score(attributes: Mapping[str, Any], *, wide: bool) -> _Special:  # noqa: ARG001
    neighbors = int(attributes["neighbors"])
    constants = {"NEIGHBORS": neighbors, "BLOCK": anomaly.SCORE_BLOCK, "TOP": next_power_of_2(neighbors)}
    return plugin_kernels._anomaly_score_plugin, constants, (anomaly.SCORE_BLOCK, 0)


def _repair(attributes: Mapping[str, Any], *, wide: bool) -> _Special:  # noqa: ARG001
    constants = {
        "WIDTH": int(attributes["width"]),
        "COLUMNS": int(attributes["columns"]),
        "OUTLIERS": int(attributes["outliers"]),
        "BLOCK_M": outlier_repair.BLOCK_M,
        "BLOCK_N": outlier_repair.BLOCK_N,
        "BLOCK_D": outlier_repair.BLOCK_D,
    }
    return plugin_kernels._repair_plugin, constants, (outlier_repair.BLOCK_M, 0)


def _aggregate(attributes: Mapping[str, Any], *, wide: bool) -> _Special:
    sizes = similarity.WIDE if wide else similarity.NARROW
    constants = {"WIDTH": int(attributes["width"]), "FLOOR": float(attributes["floor"]), **sizes}
    return plugin_kernels._aggregate_plugin, constants, (sizes["BLOCK_M"], 0)


def _attend_by_key(attributes: Mapping[str, Any], *, wide: bool) -> _Special:
    heads = int(attributes["heads"])
    head_dim = int(attributes["width"]) // heads
    sizes = attention.WIDE if wide else attention.NARROW
    constants = {
        "HEADS": heads,
        "HEAD_DIM": head_dim,
        "SCALE": head_dim**-0.5,
        "HEAD": attention.padded_head(head_dim),
        **sizes,
    }
    return plugin_kernels._attend_by_key_plugin, constants, (sizes["BLOCK_M"], heads)


def _attend_by_similarity(attributes: Mapping[str, Any], *, wide: bool) -> _Special:
    sizes = similarity.WIDE if wide else similarity.NARROW
    constants = {"WIDTH": int(attributes["width"]), **sizes}
    return plugin_kernels._attend_by_similarity_plugin, constants, (sizes["BLOCK_M"], 0)


_SPECIAL: Mapping[str, Callable[..., _Special]] = {
    "halves": _halves,
    "k_distance": _k_distance,
    "anomaly_score": _anomaly_score,
    "outlier_repair": _repair,
    "aggregate": _aggregate,
    "attend_by_key": _attend_by_key,
    "attend_by_similarity": _attend_by_similarity,
}


def plugin_variants() -> list[Variant]:
    """Every plug-in as ViT-B/16 needs it, to know that they fit every target."""
    sizes = {"width": 768, "neighbors": 30, "columns": 14, "outliers": 10, "floor": 0.4, "heads": 12}
    return [
        plugin_kernel(name, "fp16", {key: sizes[key] for key in plugin.attributes}).variant
        for name, plugin in PLUGINS.items()
    ]
