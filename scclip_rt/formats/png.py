"""PNG of labels: grey, 8 or 16 bits, the labels themselves. Lossless."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scclip_rt.formats.base import FormatWriter, ImageName, LabelFormat
from scclip_rt.image.png import encode_png

if TYPE_CHECKING:
    from scclip_rt.segmentation import Segmentation

SUFFIX = ".labels.png"


class PngWriter(FormatWriter):
    """Writes `STEM.labels.png`."""

    def add(self, result: Segmentation, image: ImageName) -> None:
        """As `FormatWriter.add`."""
        with self.sink.open(image.stem + SUFFIX) as stream:
            stream.write(encode_png(result.labels))


FORMAT = LabelFormat(
    name="png",
    summary=f"STEM{SUFFIX}: class numbers as grey values",
    writer=PngWriter,
    image_files=("{stem}" + SUFFIX,),
    media_type="image/png",
    suffix=SUFFIX,
)
