"""labelme: one JSON file an image, one mask a class as a PNG of its box.

The file points to its image from where it lies, as labelme wants it. Unlabelled and background pixels have no mask.
"""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from scclip_rt.formats.base import FormatWriter, ImageName, LabelFormat, json_bytes
from scclip_rt.formats.rle import cvat_masks

if TYPE_CHECKING:
    from scclip_rt.segmentation import Segmentation

SUFFIX = ".json"
_VERSION = "5.5.0"
"""Of labelme: the first versions whose `mask` shapes are these are older, and later ones read it."""


class LabelmeWriter(FormatWriter):
    """Writes `STEM.json`."""

    def add(self, result: Segmentation, image: ImageName) -> None:
        """As `FormatWriter.add`."""
        document = {
            "version": _VERSION,
            "flags": {},
            "shapes": self._shapes(result),
            "imagePath": self.sink.reference(image, image.stem),
            "imageData": None,
            "imageHeight": result.labels.shape[0],
            "imageWidth": result.labels.shape[1],
        }
        with self.sink.open(image.stem + SUFFIX) as stream:
            stream.write(json_bytes(document))

    def _shapes(self, result: Segmentation) -> list[dict[str, Any]]:
        shapes: list[dict[str, Any]] = []
        for mask in cvat_masks(result.labels):
            if not self.table.is_foreground(mask.label):
                continue
            left, top, right, bottom = mask.box
            inside = result.labels[top : bottom + 1, left : right + 1] == mask.label
            shapes.append(
                {
                    "label": self.table.names[mask.label],
                    "points": [[left, top], [right, bottom]],
                    "group_id": None,
                    "description": "",
                    "shape_type": "mask",
                    "flags": {},
                    "mask": base64.b64encode(_one_bit_png(inside)).decode("ascii"),
                }
            )
        return shapes


def _one_bit_png(mask: NDArray[np.bool_]) -> bytes:
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(mask).save(stream, format="PNG")
    return stream.getvalue()


FORMAT = LabelFormat(
    name="labelme",
    summary=f"STEM{SUFFIX}: a mask a class",
    writer=LabelmeWriter,
    image_files=("{stem}" + SUFFIX,),
    media_type="application/json",
    suffix=".labelme.json",
)
