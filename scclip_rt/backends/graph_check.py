"""A loaded graph against the manifest: names, dtypes and shapes, whatever the library that loaded it."""

from collections.abc import Mapping

from scclip_rt.bundle.manifest import GraphSpec, TensorSpec
from scclip_rt.errors import BundleError

GraphTensors = Mapping[str, tuple[str, tuple[int | str | None, ...]]]
"""Name → dtype as numpy calls it, and shape; what is no number is dynamic."""


def check_graph(spec: GraphSpec, inputs: GraphTensors, outputs: GraphTensors) -> None:
    """Compare a graph's inputs and outputs with the manifest, in name, dtype and shape.

    Axis names are free: only which axes are dynamic and how long the others are must agree.

    Raises:
        BundleError: the first difference.
    """
    for side, wanted, found in (("input", spec.inputs, inputs), ("output", spec.outputs, outputs)):
        if set(found) != {tensor.name for tensor in wanted}:
            raise BundleError(
                f"{spec.file}: the graph's {side}s are {', '.join(found)}; bundle.json says "
                f"{', '.join(tensor.name for tensor in wanted)}. Export the bundle again"
            )
        for tensor in wanted:
            _check_tensor(spec.file, tensor, *found[tensor.name])


def _check_tensor(file: str, tensor: TensorSpec, dtype: str, shape: tuple[int | str | None, ...]) -> None:
    agrees = len(shape) == len(tensor.shape) and all(
        # An output whose length the exporter could not infer is dynamic in the graph: no contradiction.
        want == have or not isinstance(have, int)
        for want, have in zip(tensor.shape, shape, strict=True)
    )
    if dtype != tensor.dtype or not agrees:
        lengths = ", ".join(str(length) for length in shape)
        raise BundleError(
            f"{file}: tensor {tensor.name!r} is {dtype} ({lengths}) in the graph; bundle.json says {tensor}. "
            "Export the bundle again"
        )
