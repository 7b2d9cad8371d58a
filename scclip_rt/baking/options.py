"""What a baked file is to look like."""

from dataclasses import dataclass
from typing import Literal

from scclip_rt.limits import in_range

Pixels = Literal["unit", "byte", "uint8"]
Result = Literal["probabilities", "logits", "labels"]


@dataclass(frozen=True, slots=True, kw_only=True)
class BakeOptions:
    """The form of a baked file.

    Attributes:
        size: (height, width) of the image that it takes, pixels; None: a square of the bundle's short side, which
            needs no resizing.
        pixels: `unit` takes float32 (B, 3, H, W) from 0 to 1, `byte` the same from 0 to 255, `uint8` (B, H, W, 3).
        result: `probabilities` (B, C, H, W) float32, `logits` the same before the softmax, `labels` (B, H, W).
        batch: images at once; None leaves it open.
        opset: of the default domain.
        ir: IR version of the file: 8 is read by every ONNX Runtime since 1.12, 9 since 1.15, 10 since 1.18.
        weights: `inside` the file, or `beside` it in FILE.data.
        resolution: centimetres per pixel, for QGIS; None leaves it out.
        precision: of the encoder, where it is not the segmenter's: `fp16`, which the CPU's backends refuse to serve.
    """

    size: tuple[int, int] | None = None
    pixels: Pixels = "unit"
    result: Result = "probabilities"
    batch: int | None = None
    opset: int = 17
    ir: int = 8
    weights: Literal["inside", "beside"] = "inside"
    resolution: float | None = None
    precision: str | None = None

    def __post_init__(self) -> None:
        for side in self.size or ():
            in_range("image_side", side)
        if self.batch is not None:
            in_range("batch", self.batch)
        in_range("baked_opset", self.opset)
        in_range("ir", self.ir)
        if self.resolution is not None:
            in_range("baked_resolution", self.resolution)

    @property
    def channels_last(self) -> bool:
        """Whether the image is (B, H, W, 3)."""
        return self.pixels == "uint8"
