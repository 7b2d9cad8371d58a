"""Results as bytes: the label PNG, the overlay, JSON with run lengths, raw labels. Workers call these."""

from __future__ import annotations

import base64
import io
import zlib
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin

from scclip_rt.formats.rle import coco_masks
from scclip_rt.overlay import class_colours
from scclip_rt.segmentation import UNLABELLED, Segmentation

PNG = "image/png"
JSON = "application/json"
RAW = "application/octet-stream"
LABEL_HEADERS = ("X-Labels-Shape", "X-Labels-Dtype", "X-Labels-Unlabelled")

_PNG_OPTIONS: dict[str, Any] = {"format": "PNG", "compress_level": 1, "compress_type": zlib.Z_RLE}
"""Label maps are long runs: level 1 with run lengths only is the quickest and not the largest (docs/serving.md)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rendered:
    """An answer's body.

    Attributes:
        body: its bytes.
        media_type: what they are.
        headers: to go with it.
    """

    body: bytes
    media_type: str
    headers: dict[str, str] = field(default_factory=dict)


def labels_png(result: Segmentation) -> bytes:
    """The labels as a PNG: a palette of the overlay's colours up to 256 values, else grey of 16 bits.

    A text chunk `scclip` holds the class names as JSON.
    """
    image = Image.fromarray(result.labels)
    if result.labels.dtype == np.uint8:
        colours = class_colours(range(256), background=result.background, unlabelled=result.unlabelled)
        image.putpalette(colours.tobytes())  # mode L becomes P, the values stay
    info = PngImagePlugin.PngInfo()
    names = {
        "classes": result.classes,
        "background": result.background,
        "unlabelled": result.unlabelled,
    }
    info.add_itxt("scclip", orjson.dumps(names).decode())
    return _png(image, pnginfo=info)


def overlay_png(result: Segmentation, *, legend: bool = True) -> bytes:
    """The picture under the classes' colours."""
    return _png(Image.fromarray(result.overlay(legend=legend)), compress_type=zlib.Z_DEFAULT_STRATEGY)


def confidence_png(confidence: NDArray[np.float32]) -> bytes:
    """Probabilities as grey, 0..255."""
    return _png(
        Image.fromarray((confidence * 255 + 0.5).astype(np.uint8)), compress_type=zlib.Z_DEFAULT_STRATEGY
    )


def segments(result: Segmentation, *, boxes: bool) -> list[dict[str, Any]]:
    """A row for each label that occurs, the largest first: name, share, COCO run lengths, colour."""
    masks = list(coco_masks(result.labels))
    colours = class_colours(
        [mask.label for mask in masks], background=result.background, unlabelled=result.unlabelled
    )
    rows = []
    for mask, colour in zip(masks, colours.tolist(), strict=True):
        row = {
            "label": mask.label,
            "name": UNLABELLED if mask.label == result.unlabelled else result.classes[mask.label],
            "share": mask.area / result.labels.size,
            "area": mask.area,
            "colour": "#{:02x}{:02x}{:02x}".format(*colour),
            "rle": {"size": list(result.labels.shape), "counts": mask.counts},
        }
        if boxes:
            row["box"] = list(mask.box)
        rows.append(row)
    return sorted(rows, key=lambda row: -row["area"])


def document(result: Segmentation, *, model: str, boxes: bool) -> dict[str, Any]:
    """`POST /v1/segment` as JSON."""
    height, width = result.labels.shape
    content: dict[str, Any] = {
        "model": model,
        "height": height,
        "width": width,
        "classes": result.classes,
        "background": result.background,
        "unlabelled": result.unlabelled,
        "segments": segments(result, boxes=boxes),
    }
    if result.confidence is not None:
        content["confidence_png"] = base64.b64encode(confidence_png(result.confidence)).decode()
    return content


def json_bytes(content: Any) -> bytes:
    """JSON with numpy arrays allowed."""
    return orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY)


def raw_labels(result: Segmentation) -> Rendered:
    """The labels' bytes, little-endian, row by row; headers say shape and dtype. Then confidence, bytes 0..255."""
    height, width = result.labels.shape
    body = result.labels.astype(result.labels.dtype.newbyteorder("<"), copy=False).tobytes()
    if result.confidence is not None:
        body += (result.confidence * 255 + 0.5).astype(np.uint8).tobytes()
    values = (f"{height},{width}", result.labels.dtype.name, str(result.unlabelled))
    return Rendered(body=body, media_type=RAW, headers=dict(zip(LABEL_HEADERS, values, strict=True)))


def _png(image: Image.Image, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, **{**_PNG_OPTIONS, **options})
    return stream.getvalue()
