"""The fused kernels as TensorRT's ahead-of-time plug-ins: what is compiled for each, and how it is launched.

What a plug-in takes and gives stands in `plugin_table`, which three sides read: the exporter (nodes of the ONNX file),
the engine builder (registration with TensorRT) and the tests.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import triton

from scclip_kernels.fused import affinity, anomaly, attention, plugin_kernels, resolution
from scclip_kernels.fused._launch import next_power_of_2
from scclip_kernels.plugin_table import PLUGINS, Plugin
from scclip_kernels.variants import Variant

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
    kernel, constants, num_warps, blocks = _SPECIAL[name](attributes, wide=True)
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
        num_warps=num_warps,
        # Left alone, the assembler keeps the product under 80 for occupancy and spills two on sm_120.
        max_registers=128,
    )
    return PluginKernel(plugin=plugin, variant=variant, blocks=blocks)


_Special = tuple[Any, dict[str, Any], int, tuple[int, int]]


def _k_distance(attributes: Mapping[str, Any], *, wide: bool) -> _Special:
    neighbors = int(attributes["neighbors"])
    constants = {
        "WIDTH": int(attributes["width"]),
        "NEIGHBORS": neighbors,
        "BLOCK_M": anomaly.BLOCK_M,
        "BLOCK_N": anomaly.BLOCK_N,
        "BLOCK_D": anomaly.BLOCK_D_WIDE if wide else anomaly.BLOCK_D,
        "TOP": next_power_of_2(neighbors),
    }
    return plugin_kernels._k_distance_plugin, constants, 4, (anomaly.BLOCK_M, 0)


def _anomaly_score(attributes: Mapping[str, Any], *, wide: bool) -> _Special:  # noqa: ARG001
    neighbors = int(attributes["neighbors"])
    constants = {"NEIGHBORS": neighbors, "BLOCK": anomaly.SCORE_BLOCK, "TOP": next_power_of_2(neighbors)}
    return plugin_kernels._anomaly_score_plugin, constants, 4, (anomaly.SCORE_BLOCK, 0)


def _resolution(attributes: Mapping[str, Any], *, wide: bool) -> _Special:  # noqa: ARG001
    constants = {
        "WIDTH": int(attributes["width"]),
        "COLUMNS": int(attributes["columns"]),
        "OUTLIERS": int(attributes["outliers"]),
        "BLOCK_M": resolution.BLOCK_M,
        "BLOCK_N": resolution.BLOCK_N,
        "BLOCK_D": resolution.BLOCK_D,
    }
    return plugin_kernels._resolution_plugin, constants, 4, (resolution.BLOCK_M, 0)


def _aggregate(attributes: Mapping[str, Any], *, wide: bool) -> _Special:
    sizes = dict(affinity.WIDE if wide else affinity.NARROW)
    num_warps, width = sizes.pop("num_warps"), int(attributes["width"])
    constants = {"WIDTH": width, "FLOOR": float(attributes["floor"]), "PRECISION": "ieee", **sizes}
    return (
        plugin_kernels._aggregate_plugin,
        constants,
        num_warps,
        (sizes["BLOCK_M"], triton.cdiv(width, sizes["BLOCK_D"])),
    )


def _calibrated_attention(attributes: Mapping[str, Any], *, wide: bool) -> _Special:
    width, heads = int(attributes["width"]), int(attributes["heads"])
    head_dim = width // heads
    sizes = attention.launch_sizes(heads, head_dim, wide=wide)
    num_warps = sizes.pop("num_warps")
    constants = {
        "WIDTH": width,
        "HEADS": heads,
        "HEAD_DIM": head_dim,
        "SCALE": head_dim**-0.5,
        "PRECISION": "ieee",
        **sizes,
    }
    blocks = (sizes["BLOCK_M"], triton.cdiv(heads, sizes["GROUP"]))
    return plugin_kernels._calibrated_attention_plugin, constants, num_warps, blocks


# The guide is float32 under every policy of the exporter, so blocks are those for float32 operands.
_SPECIAL: Mapping[str, Callable[..., _Special]] = {
    "k_distance": _k_distance,
    "anomaly_score": _anomaly_score,
    "resolution": _resolution,
    "aggregate": _aggregate,
    "calibrated_attention": _calibrated_attention,
}


def plugin_variants(narrow: str = "fp16") -> list[Variant]:
    """Every plug-in as ViT-B/16 needs it, to know that they fit every target."""
    sizes = {"width": 768, "neighbors": 30, "columns": 14, "outliers": 10, "floor": 0.4, "heads": 12}
    return [
        plugin_kernel(name, narrow, {key: sizes[key] for key in plugin.attributes}).variant
        for name, plugin in PLUGINS.items()
    ]
