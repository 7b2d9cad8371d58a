"""Label Studio: tasks with predictions, one brush mask a class, and the labelling configuration that they need.

Images are named as Label Studio's local storage serves them (`/data/local-files/?d=PATH`, the path below its document
root). Unlabelled and background pixels have no mask.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

from scclip_rt.formats.base import ClassTable, FormatWriter, ImageName, JsonItems, LabelFormat, Sink
from scclip_rt.formats.rle import label_studio_masks
from scclip_rt.overlay import palette

if TYPE_CHECKING:
    from scclip_rt.segmentation import Segmentation

FILE = "labelstudio.json"
CONFIG = "labelstudio.xml"
_CONTROL, _OBJECT = "labels", "image"


def brush_results(result: Segmentation) -> list[dict[str, Any]]:
    """A prediction's `result`: what Label Studio's ML backends answer, too."""
    height, width = result.labels.shape
    table = ClassTable(names=result.classes, background=result.background)
    return [
        {
            "id": f"class-{label}",
            "type": "brushlabels",
            "from_name": _CONTROL,
            "to_name": _OBJECT,
            "original_width": width,
            "original_height": height,
            "image_rotation": 0,
            "value": {"format": "rle", "rle": list(data), "brushlabels": [result.classes[label]]},
        }
        for label, data in label_studio_masks(result.labels)
        if table.is_foreground(label)
    ]


def labelling_config(table: ClassTable) -> str:
    """The XML that a project needs for these predictions."""
    labels = "".join(
        f'    <Label value={quoteattr(name)} background="#{bytes(palette([label])[0]).hex()}"/>\n'
        for label, name in table.foreground()
    )
    return (
        f'<View>\n  <Image name="{_OBJECT}" value="${_OBJECT}" zoom="true"/>\n'
        f'  <BrushLabels name="{_CONTROL}" toName="{_OBJECT}">\n{labels}  </BrushLabels>\n</View>\n'
    )


class LabelStudioWriter(FormatWriter):
    """Writes `labelstudio.json` and `labelstudio.xml`."""

    def __init__(self, sink: Sink, table: ClassTable) -> None:
        super().__init__(sink, table)
        self._tasks = JsonItems()

    def add(self, result: Segmentation, image: ImageName) -> None:
        """As `FormatWriter.add`."""
        self._tasks.append(
            {
                "data": {_OBJECT: f"/data/local-files/?d={quote(image.file)}"},
                "predictions": [{"model_version": "scclip-rt", "result": brush_results(result)}],
            }
        )

    def finish(self) -> None:
        """As `FormatWriter.finish`."""
        with self.sink.open(FILE) as stream:
            self._tasks.write_to(stream)
        with self.sink.open(CONFIG) as stream:
            stream.write(labelling_config(self.table).encode())


FORMAT = LabelFormat(
    name="labelstudio",
    summary=f"{FILE}: tasks with brush predictions, and {CONFIG}, the labelling configuration",
    writer=LabelStudioWriter,
    run_files=(FILE, CONFIG),
    media_type="application/zip",
    suffix=".labelstudio.zip",
)
