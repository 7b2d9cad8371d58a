"""PNG of labels: 8 bits with a palette, or 16 bits grey, the labels themselves. Lossless."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scclip_rt.formats.base import FormatWriter, ImageName, LabelFormat
from scclip_rt.overlay import labels_png

if TYPE_CHECKING:
    from scclip_rt.segmentation import Segmentation

SUFFIX = ".labels.png"


class PngWriter(FormatWriter):
    """Writes `STEM.labels.png`."""

    def add(self, result: Segmentation, image: ImageName) -> None:
        """As `FormatWriter.add`."""
        with self.sink.open(image.stem + SUFFIX) as stream:
            stream.write(
                labels_png(result.labels, background=result.background, unlabelled=result.unlabelled)
            )


FORMAT = LabelFormat(
    name="png",
    summary=f"STEM{SUFFIX}: class numbers as values, coloured by a palette",
    writer=PngWriter,
    image_files=("{stem}" + SUFFIX,),
    media_type="image/png",
    suffix=SUFFIX,
)
