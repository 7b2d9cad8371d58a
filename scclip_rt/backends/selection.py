"""Which encoder of a bundle fits a grid, a kind of device and a precision, and how many windows go at once."""

from collections.abc import Sequence
from typing import Literal

from scclip_rt.backends.base import GridChoice
from scclip_rt.bundle.bundle import Bundle
from scclip_rt.bundle.manifest import EncoderSpec
from scclip_rt.errors import BackendError

DeviceKind = Literal["cpu", "cuda"]

# Patches per batch. On a CPU the matrix products are at full speed from a few windows on, and memory grows
# with every further one; a GPU wants more work at once.
_BATCH_PATCHES: dict[DeviceKind, int] = {"cpu": 8 * 196, "cuda": 32 * 196}


def grid_encoders(bundle: Bundle, grid: GridChoice) -> tuple[EncoderSpec, ...]:
    """The bundle's encoders for windows or for whole images, preferred first.

    Raises:
        BackendError: whole images are wanted and the bundle has no encoder for them.
    """
    if grid == "window":
        return bundle.encoders_for("window")
    # A dynamic grid keeps the image's ratio, so it goes before a fixed one.
    specs = bundle.encoders_for("dynamic") + bundle.encoders_for("fixed")
    if not specs:
        raise BackendError(
            f"{bundle.path}: no encoder for whole images; export the bundle with `--dynamic-grid` (any size) "
            "or `--image-size HxW` (one size), or leave out --whole-image",
            field="whole_image",
        )
    return specs


def choose_encoder(
    bundle: Bundle, *, precisions: Sequence[str], kind: DeviceKind, grid: GridChoice
) -> EncoderSpec:
    """The encoder in the first of `precisions` that the bundle has for this grid and kind of device.

    Raises:
        BackendError: the bundle has none; the message lists what it has.
    """
    wanted = grid_encoders(bundle, grid)
    for precision in precisions:
        for spec in wanted:
            if spec.precision == precision and kind in spec.runs_on:
                return spec
    have = ", ".join(f"{spec.precision} for {'/'.join(spec.runs_on)}" for spec in wanted) or "none"
    asked = " or ".join(repr(precision) for precision in precisions)
    raise BackendError(
        f"{bundle.path}: no {grid} encoder in precision {asked} for {kind}; the bundle has: {have}. "
        "Choose one with --precision, or export the bundle again with the one you need",
        field="precision",
    )


def batch_size(spec: EncoderSpec, asked: int | None, kind: DeviceKind) -> int:
    """Windows at once: what was asked for or suits the device, within what the encoder takes."""
    shape = next(tensor for tensor in spec.inputs if tensor.name == "windows").shape
    most = spec.axis(shape[0]).max if isinstance(shape[0], str) else shape[0]
    if asked is None:
        patches = (spec.grid.rows or 0) * (spec.grid.columns or 0)
        # A dynamic grid can have thousands of patches, whose attention alone fills the memory: one at a time.
        asked = max(1, _BATCH_PATCHES[kind] // patches) if patches else 1
    return asked if most is None else min(asked, most)
