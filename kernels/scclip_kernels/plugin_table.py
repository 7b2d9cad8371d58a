"""What each TensorRT plug-in takes and gives; without Triton, as the ONNX file is written without it.

`wide` tensors are float32 under every policy of the exporter; `narrow` ones have the encoder's precision.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Kind = Literal["wide", "narrow", "int"]
NAMESPACE = "scclip"
"""Of the plug-ins in TensorRT, and the domain of their nodes in an ONNX file."""


@dataclass(frozen=True, slots=True)
class Output:
    """An output: its kind of dtype, and its shape in `batch`, `patches`, attributes and numbers."""

    name: str
    kind: Kind
    shape: tuple[str, ...]


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
        return {"wide": "fp32", "narrow": narrow, "int": "i32"}[kind]


_TOKENS = ("batch", "patches", "width")

PLUGINS: Mapping[str, Plugin] = {
    plugin.name: plugin
    for plugin in (
        Plugin(
            name="k_distance",
            inputs={"features": "wide", "mean": "wide"},
            outputs=(
                Output("k_distance", "wide", ("batch", "patches")),
                Output("neighbors", "int", ("batch", "patches", "neighbors")),
            ),
            attributes={"width": int, "neighbors": int},
        ),
        Plugin(
            name="anomaly_score",
            inputs={"k_distance": "wide", "neighbors": "int"},
            outputs=(Output("scores", "wide", ("batch", "patches")),),
            attributes={"neighbors": int},
        ),
        Plugin(
            name="resolution",
            inputs={"patches": "wide", "guide": "wide", "scores": "wide"},
            outputs=(Output("out_patches", "wide", _TOKENS), Output("out_guide", "wide", _TOKENS)),
            attributes={"width": int, "columns": int, "outliers": int},
        ),
        Plugin(
            name="aggregate",
            inputs={"features": "narrow", "guide": "wide", "inverse_norm": "wide"},
            outputs=(Output("out", "narrow", _TOKENS),),
            attributes={"width": int, "floor": float},
        ),
        Plugin(
            name="calibrated_attention",
            inputs={
                "key": "narrow",
                "value": "narrow",
                "guide": "wide",
                "inverse_norm": "wide",
                "mean": "wide",
            },
            integers=("batch", "num_patches"),
            # The second is scratch memory: nothing reads it.
            outputs=(Output("out", "narrow", _TOKENS), Output("scratch", "wide", _TOKENS)),
            attributes={"width": int, "heads": int},
            axes=(1, 2),
        ),
    )
}
