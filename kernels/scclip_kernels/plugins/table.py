"""What each TensorRT plug-in takes and gives; without Triton, as the ONNX file is written without it.

`wide` tensors are float32 under every policy of the exporter, `half` ones float16; `narrow` ones have the encoder's
precision.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Kind = Literal["wide", "half", "narrow", "int"]
NAMESPACE = "scclip"
"""Of the plug-ins in TensorRT, and the domain of their nodes in an ONNX file."""


@dataclass(frozen=True, slots=True)
class Output:
    """An output: its kind of dtype, and its shape in `batch`, `patches`, attributes and numbers."""

    name: str
    kind: Kind
    shape: tuple[str, ...]

    def sizes(self, named: Mapping[str, Any]) -> list[Any]:
        """The shape, where `named` has batch, patches and attributes."""
        return [int(axis) if axis.isdecimal() else named[axis] for axis in self.shape]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plugin:
    """One kernel as a plug-in.

    Attributes:
        name: in TensorRT, and of the ONNX operator.
        inputs: kind of dtype by name, in order; each is contiguous.
        integers: sizes that are passed at launch, after the inputs: `batch` or `patches`.
        outputs: in order.
        attributes: type by name; constants of the kernel.
        axes: which axes of the first input are batch and patches.
    """

    name: str
    inputs: Mapping[str, Kind]
    integers: tuple[str, ...] = ("num_patches",)
    outputs: tuple[Output, ...]
    attributes: Mapping[str, type[int] | type[float]]
    axes: tuple[int, int] = (0, 1)

    def dtype(self, kind: Kind, narrow: str) -> str:
        """Triton's name of a kind of dtype where narrow tensors are `narrow`."""
        return {"wide": "fp32", "half": "fp16", "narrow": narrow, "int": "i32"}[kind]


_TOKENS = ("batch", "patches", "width")
_PATCHES = ("batch", "patches")
_HALVES: Mapping[str, Kind] = {"pair": "half", "scale": "wide", "square": "wide"}
# Nothing reads it: memory of the kernel's own.
_SCRATCH = Output("scratch", "wide", _TOKENS)

PLUGINS: Mapping[str, Plugin] = {
    plugin.name: plugin
    for plugin in (
        Plugin(
            name="halves",
            inputs={"features": "wide"},
            outputs=(
                Output("pair", "half", ("batch", "patches", "2", "width")),
                Output("scale", "wide", _PATCHES),
                Output("square", "wide", _PATCHES),
            ),
            attributes={"width": int},
        ),
        Plugin(
            name="k_distance",
            inputs=_HALVES,
            outputs=(
                Output("k_distance", "wide", _PATCHES),
                Output("neighbors", "int", (*_PATCHES, "neighbors")),
                Output("scratch", "int", (*_PATCHES, "neighbors")),
            ),
            attributes={"width": int, "neighbors": int},
        ),
        Plugin(
            name="anomaly_score",
            inputs={"k_distance": "wide", "neighbors": "int"},
            outputs=(Output("scores", "wide", _PATCHES),),
            attributes={"neighbors": int},
        ),
        Plugin(
            name="outlier_repair",
            inputs={"patches": "wide", "guide": "wide", "scores": "wide"},
            outputs=(Output("out_patches", "wide", _TOKENS), Output("out_guide", "wide", _TOKENS)),
            attributes={"width": int, "columns": int, "outliers": int},
        ),
        Plugin(
            name="aggregate",
            inputs={"features": "narrow", **_HALVES},
            outputs=(Output("out", "narrow", _TOKENS), _SCRATCH),
            attributes={"width": int, "floor": float},
        ),
        Plugin(
            name="attend_by_key",
            inputs={"key": "narrow", "value": "narrow"},
            integers=("batch", "num_patches"),
            outputs=(Output("out", "narrow", _TOKENS), Output("value_sum", "narrow", _TOKENS)),
            attributes={"width": int, "heads": int},
            axes=(1, 2),
        ),
        Plugin(
            name="attend_by_similarity",
            inputs={"value": "narrow", **_HALVES, "mean": "wide", "by_key": "narrow"},
            outputs=(Output("out", "narrow", _TOKENS), _SCRATCH),
            attributes={"width": int},
        ),
    )
}
