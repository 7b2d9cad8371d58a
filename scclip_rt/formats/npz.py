"""NumPy: labels, class names and, where it was asked for, confidence, in one `.npz` an image. Lossless."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from scclip_rt.formats.base import FormatWriter, ImageName, LabelFormat

if TYPE_CHECKING:
    from scclip_rt.segmentation import Segmentation

SUFFIX = ".labels.npz"


class NpzWriter(FormatWriter):
    """Writes `STEM.labels.npz`."""

    def add(self, result: Segmentation, image: ImageName) -> None:
        """As `FormatWriter.add`."""
        arrays = {
            "labels": result.labels,
            "classes": np.array(result.classes, np.str_),
            "unlabelled": np.array(result.unlabelled),
            "background": np.array(-1 if result.background is None else result.background),
        }
        if result.confidence is not None:
            arrays["confidence"] = result.confidence
        with self.sink.open(image.stem + SUFFIX) as stream:
            np.savez_compressed(stream, **arrays)  # type: ignore[arg-type]  # its stub takes them for allow_pickle


FORMAT = LabelFormat(
    name="npz",
    summary=f"STEM{SUFFIX}: labels, classes, unlabelled, background (-1 for none) and confidence, for numpy.load",
    writer=NpzWriter,
    image_files=("{stem}" + SUFFIX,),
    media_type="application/octet-stream",
    suffix=SUFFIX,
)
