"""YOLO segmentation: one text file an image, a line a region, and `data.yaml` with the classes.

A line is the class and an outline through the region's border pixels, as shares of width and height: what OpenCV's
`findContours` gives, and what its `fillPoly`, with which Ultralytics and supervision read polygons, turns back into the
same pixels. The format has no holes: a cut along pixels of the region leads to each, and `fillPoly` leaves them open.
Regions are pixels that touch along edges or at corners. Classes count from 0 without gaps, a background left out.

`data.yaml` expects the images in `images` beside `labels`, under the same names.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from scclip_rt.formats.base import ClassTable, FormatWriter, ImageName, LabelFormat, Sink, json_bytes
from scclip_rt.formats.polygons import border_pixels

if TYPE_CHECKING:
    from scclip_rt.decode.best import Labels
    from scclip_rt.segmentation import Segmentation

FILE = "data.yaml"
FOLDER = "labels"
_INSIDE = 0.01
"""Added to pixel numbers: a reader that cuts decimals off stays in the pixel."""
_FEWEST_POINTS = 3


class YoloSegWriter(FormatWriter):
    """Writes `labels/STEM.txt` and `data.yaml`."""

    def __init__(self, sink: Sink, table: ClassTable) -> None:
        super().__init__(sink, table)
        self._number = {label: number for number, (label, _) in enumerate(table.foreground())}

    def add(self, result: Segmentation, image: ImageName) -> None:
        """As `FormatWriter.add`."""
        height, width = result.labels.shape
        with self.sink.open(f"{FOLDER}/{image.stem}.txt") as stream:
            for label, (outline, *holes) in border_pixels(result.labels):
                if (number := self._number.get(label)) is None:
                    continue
                ring = _turns(_joined(result.labels, label, outline, holes))
                points = " ".join(
                    f"{share:.7f}" for share in ((ring + _INSIDE) / (width, height)).ravel().tolist()
                )
                stream.write(f"{number} {points}\n".encode())

    def finish(self) -> None:
        """As `FormatWriter.finish`."""
        with self.sink.open(FILE) as stream:
            stream.write(b"train: images\nval: images\nnames:\n")
            for number, (_, name) in enumerate(self.table.foreground()):
                stream.write(
                    f"  {number}: ".encode() + json_bytes(name) + b"\n"
                )  # a JSON string is YAML, too


def _joined(
    labels: Labels, label: int, ring: NDArray[np.int64], holes: list[NDArray[np.int64]]
) -> NDArray[np.int64]:
    """Outline and holes as one ring. Leftmost holes first: the way left from a hole ends at what is joined already."""
    for hole in sorted(holes, key=lambda hole: int(hole[:, 0].min())):
        start = int(hole[:, 0].argmin())
        x, y = hole[start].tolist()
        gaps = np.flatnonzero(labels[y, :x] != label)
        first = int(gaps[-1]) + 1 if len(gaps) else 0
        at = int(np.flatnonzero((ring[:, 0] == first) & (ring[:, 1] == y))[0])
        ring = np.concatenate(
            (ring[: at + 1], np.roll(hole, -start, axis=0), hole[start : start + 1], ring[at:])
        )
    return ring


def _turns(ring: NDArray[Any]) -> NDArray[Any]:
    """The points where the direction changes; short rings with points repeated, as readers want three."""
    came = np.sign(ring - np.roll(ring, 1, axis=0))
    goes = np.sign(np.roll(ring, -1, axis=0) - ring)
    kept = ring[(came != goes).any(axis=1)] if len(ring) > _FEWEST_POINTS else ring
    return np.resize(kept, (max(len(kept), _FEWEST_POINTS), 2))


FORMAT = LabelFormat(
    name="yolo-seg",
    summary=f"{FOLDER}/STEM.txt: a polygon a region, and {FILE}, for Ultralytics and supervision",
    writer=YoloSegWriter,
    image_files=(f"{FOLDER}/{{stem}}.txt",),
    run_files=(FILE,),
    media_type="application/zip",
    suffix=".yolo.zip",
)
