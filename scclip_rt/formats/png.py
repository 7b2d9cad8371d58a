"""PNG of labels: grey, 8 or 16 bits, the labels themselves. Lossless."""

from __future__ import annotations

from typing import IO, TYPE_CHECKING, Any

from numpy.typing import NDArray

from scclip_rt.formats.base import FormatWriter, ImageName, LabelFormat

if TYPE_CHECKING:
    from scclip_rt.segmentation import Segmentation

SUFFIX = ".labels.png"


def write_png(stream: IO[bytes], pixels: NDArray[Any]) -> None:
    """Write (H, W) uint8, uint16 or bool (1 bit), or (H, W, 3) uint8."""
    from PIL import Image

    Image.fromarray(pixels).save(stream, format="PNG")


class PngWriter(FormatWriter):
    """Writes `STEM.labels.png`."""

    def add(self, result: Segmentation, image: ImageName) -> None:
        """As `FormatWriter.add`."""
        with self.sink.open(image.stem + SUFFIX) as stream:
            write_png(stream, result.labels)


FORMAT = LabelFormat(
    name="png",
    summary=f"STEM{SUFFIX}: class numbers as grey values",
    writer=PngWriter,
    image_files=("{stem}" + SUFFIX,),
    media_type="image/png",
    suffix=SUFFIX,
)
