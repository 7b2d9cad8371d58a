"""FiftyOne: a data set that `fiftyone.types.FiftyOneDataset` reads, with a PNG of classes an image.

Pixels hold labels plus 1, because 0 is FiftyOne's "nothing here"; unlabelled pixels are 0. The names are the data set's
`default_mask_targets`. It is written in the portable form, without the database's own documents, and points to the
images from where it lies.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from scclip_rt.formats.base import (
    ClassTable,
    FormatWriter,
    ImageName,
    JsonItems,
    LabelFormat,
    Sink,
    write_json_object,
)
from scclip_rt.image.png import encode_png

if TYPE_CHECKING:
    from scclip_rt.segmentation import Segmentation

SAMPLES = "samples.json"
METADATA = "metadata.json"
FIELD = "segmentation"
FOLDER = f"fields/{FIELD}"


class FiftyOneWriter(FormatWriter):
    """Writes `samples.json`, `metadata.json` and `fields/segmentation/STEM.png`."""

    def __init__(self, sink: Sink, table: ClassTable) -> None:
        super().__init__(sink, table)
        self._samples = JsonItems()

    def add(self, result: Segmentation, image: ImageName) -> None:
        """As `FormatWriter.add`."""
        mask = f"{FOLDER}/{image.stem}.png"
        with self.sink.open(mask) as stream:
            # In the labels' own type: the highest value, unlabelled, becomes 0.
            stream.write(encode_png(result.labels + np.array(1, result.labels.dtype)))
        self._samples.append(
            {
                "filepath": self.sink.reference(image),
                "tags": [],
                FIELD: {"_cls": "Segmentation", "tags": [], "mask_path": mask},
            }
        )

    def finish(self) -> None:
        """As `FormatWriter.finish`."""
        targets = {str(label + 1): name for label, name in enumerate(self.table.names)}
        with self.sink.open(SAMPLES) as stream:
            write_json_object(stream, {"samples": self._samples})
        with self.sink.open(METADATA) as stream:
            write_json_object(stream, {"media_type": "image", "info": {"default_mask_targets": targets}})


FORMAT = LabelFormat(
    name="fiftyone",
    summary=f"{SAMPLES}, {METADATA} and {FOLDER}/STEM.png: a data set for fiftyone.Dataset.from_dir",
    writer=FiftyOneWriter,
    image_files=(f"{FOLDER}/{{stem}}.png",),
    run_files=(SAMPLES, METADATA),
    media_type="application/zip",
    suffix=".fiftyone.zip",
)
