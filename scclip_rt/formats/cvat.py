"""CVAT: "CVAT for images 1.1", one XML file for all images, one mask a class and image.

A mask is its box and the counts of zeros and ones in turn, row by row inside it. CVAT finds images by name, and takes
labels that the task has. Unlabelled and background pixels have no mask.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from xml.sax.saxutils import escape, quoteattr

from scclip_rt.formats.base import ClassTable, FormatWriter, ImageName, LabelFormat, Sink, Spool
from scclip_rt.formats.rle import CvatMask, cvat_masks
from scclip_rt.overlay import palette

if TYPE_CHECKING:
    from scclip_rt.segmentation import Segmentation

FILE = "annotations.xml"


class CvatWriter(FormatWriter):
    """Writes `annotations.xml`."""

    def __init__(self, sink: Sink, table: ClassTable) -> None:
        super().__init__(sink, table)
        self._images = Spool()
        self._count = 0

    def add(self, result: Segmentation, image: ImageName) -> None:
        """As `FormatWriter.add`."""
        height, width = result.labels.shape
        name = quoteattr(image.file)
        lines = [f'  <image id="{self._count}" name={name} width="{width}" height="{height}">']
        lines += [
            self._mask(mask) for mask in cvat_masks(result.labels) if self.table.is_foreground(mask.label)
        ]
        self._images.append("\n".join([*lines, "  </image>\n"]).encode())
        self._count += 1

    def finish(self) -> None:
        """As `FormatWriter.finish`."""
        with self.sink.open(FILE) as stream:
            stream.write(self._head().encode())
            self._images.copy_to(stream)
            stream.write(b"</annotations>\n")

    def _mask(self, mask: CvatMask) -> str:
        left, top, right, bottom = mask.box
        return (
            f'    <mask label={quoteattr(self.table.names[mask.label])} source="auto" occluded="0" '
            f'rle="{", ".join(map(str, mask.counts))}" left="{left}" top="{top}" '
            f'width="{right - left + 1}" height="{bottom - top + 1}" z_order="0">\n    </mask>'
        )

    def _head(self) -> str:
        labels = "".join(
            f"        <label><name>{escape(name)}</name><color>#{bytes(palette([label])[0]).hex()}</color>"
            "<type>mask</type><attributes></attributes></label>\n"
            for label, name in self.table.foreground()
        )
        return (
            '<?xml version="1.0" encoding="utf-8"?>\n<annotations>\n  <version>1.1</version>\n  <meta>\n    <task>\n'
            f"      <size>{self._count}</size>\n      <mode>annotation</mode>\n      <labels>\n{labels}"
            "      </labels>\n    </task>\n  </meta>\n"
        )


FORMAT = LabelFormat(
    name="cvat",
    summary=f'{FILE}: masks to upload as "CVAT 1.1"',
    writer=CvatWriter,
    run_files=(FILE,),
    media_type="application/xml",
    suffix=".cvat.xml",
)
