"""What other tools read beside the graph: QGIS's Deepness, geoai, and STAC's Machine Learning Model extension."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from scclip_rt.baking.graph import IMAGE, Ingredients
from scclip_rt.baking.options import BakeOptions
from scclip_rt.bundle.bundle import Bundle
from scclip_rt.decode.plan import label_type

_MLM = "https://stac-extensions.github.io/mlm/v1.4.0/schema.json"
_CLASSIFICATION = "https://stac-extensions.github.io/classification/v2.0.0/schema.json"
_BANDS = "https://stac-extensions.github.io/eo/v1.1.0/schema.json"
_DEEPNESS_CLASSES = 255
"""Deepness 0.6.3 counts classes from 1 in a map of bytes: the 256th would be pixels outside."""
_WHOLE_EARTH = (-180.0, -90.0, 180.0, 90.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """What a baked file is, for whoever reads it.

    Attributes:
        bundle: where the encoder comes from.
        encoder: its file.
        precision: its precision.
        classes: names, in the order of the result's channels.
        parts: what the graph is made of.
        options: the form of the file.
    """

    bundle: Bundle
    encoder: str
    precision: str
    classes: tuple[str, ...]
    parts: Ingredients
    options: BakeOptions

    @property
    def suits_deepness(self) -> bool:
        """Whether Deepness gets our labels from the file."""
        height, width = self.parts.size
        shares = self.takes_unit_tiles and self.options.result == "probabilities"
        return shares and height == width and len(self.classes) <= _DEEPNESS_CLASSES

    @property
    def takes_unit_tiles(self) -> bool:
        """Whether tools that feed float tiles of 0..1 and read a map per class can use the file."""
        return self.options.pixels == "unit" and self.options.result != "labels"

    def properties(self) -> dict[str, str]:
        """`metadata_props`, each value as JSON: Deepness's keys where it can use the file, and ours."""
        values: dict[str, Any] = {"class_names": {str(i): name for i, name in enumerate(self.classes)}}
        if self.suits_deepness:
            values |= {
                "model_type": "Segmentor",
                "tile_size": self.parts.size[1],
                "standardization_mean": [0.0, 0.0, 0.0],
                "standardization_std": [1.0, 1.0, 1.0],
                # Deepness gives pixels below its threshold to class 0; ours is in the graph.
                "seg_thresh": 0.0,
                # Else its window asks for a median of 9 pixels over class numbers, which makes up classes between two.
                "seg_small_segment": 0,
            }
            if self.options.resolution is not None:
                values["resolution"] = self.options.resolution
        values["scclip"] = self.origin()
        return {name: json.dumps(value, ensure_ascii=False) for name, value in values.items()}

    def origin(self) -> dict[str, Any]:
        """Where the file comes from, and the numbers that are folded in."""
        settings = self.parts.settings
        return {
            "bundle": self.bundle.name,
            "encoder": self.encoder,
            "encoder_sha256": self.bundle.manifest.files[self.encoder].sha256,
            "precision": self.precision,
            "image": self.options.pixels,
            "windows": len(self.parts.tiling),
            "resized": [self.parts.tiling.height, self.parts.tiling.width],
            "logit_scale": settings.logit_scale,
            "prob_threshold": settings.prob_threshold,
            "area_threshold": settings.area_threshold,
            "class_threshold": settings.class_threshold,
            "background": settings.background,
        }

    def geoai(self) -> dict[str, Any]:
        """The sidecar `FILE.onnx.json` of geoai."""
        height, width = self.parts.size
        return {
            "model_name": self.bundle.name,
            "task": "semantic-segmentation",
            "input_height": height,
            "input_width": width,
            "input_channels": 3,
            "opset_version": self.options.opset,
            "output_names": [self.options.result],
            "num_labels": len(self.classes),
            "id2label": {str(index): name for index, name in enumerate(self.classes)},
        }

    def stac(self, file: str) -> dict[str, Any]:
        """A STAC item of the MLM extension.

        Args:
            file: the baked file's name, which the item lies beside.
        """
        west, south, east, north = _WHOLE_EARTH
        corners = [[west, south], [east, south], [east, north], [west, north], [west, south]]
        return {
            "type": "Feature",
            "stac_version": "1.0.0",
            "stac_extensions": [_MLM, _CLASSIFICATION, _BANDS],
            "id": _slug(file.removesuffix(".onnx"), "model"),
            "geometry": {"type": "Polygon", "coordinates": [corners]},
            "bbox": list(_WHOLE_EARTH),
            "properties": {
                "description": f"Open-vocabulary segmentation of {len(self.classes)} classes",
                "datetime": None,
                "start_datetime": "1900-01-01T00:00:00Z",
                "end_datetime": "9999-12-31T23:59:59Z",
                "mlm:name": _model_name(self.bundle.name),
                "mlm:architecture": self.bundle.model.architecture,
                "mlm:framework": "ONNX",
                "mlm:tasks": ["semantic-segmentation"],
                "mlm:pretrained": True,
                "mlm:input": [self._stac_input()],
                "mlm:output": [self._stac_output()],
            },
            "links": [],
            "assets": {
                "model": {
                    "href": f"./{file}",
                    "type": "application/octet-stream; framework=onnx",
                    "roles": ["mlm:model", "mlm:weights", "data"],
                    "mlm:artifact_type": "ONNX",
                    "eo:bands": [{"name": name, "common_name": name} for name in ("red", "green", "blue")],
                }
            },
        }

    def _stac_input(self) -> dict[str, Any]:
        sides, order = list(self.parts.size), ["height", "width"]
        channels = self.options.channels_last
        scaling: dict[str, Any] = (
            {"value_scaling": [{"type": "scale", "value": 255}]} if self.options.pixels == "unit" else {}
        )
        return {
            "name": IMAGE,
            "bands": ["red", "green", "blue"],
            "input": {
                "shape": [self._batch, *sides, 3] if channels else [self._batch, 3, *sides],
                "dim_order": ["batch", *order, "channel"] if channels else ["batch", "channel", *order],
                "data_type": "uint8" if channels else "float32",
            },
            "pre_processing_function": None,
            **scaling,
        }

    def _stac_output(self) -> dict[str, Any]:
        labels, number = self.options.result == "labels", len(self.classes)
        return {
            "name": self.options.result,
            "bands": [],
            "tasks": ["semantic-segmentation"],
            "result": {
                "shape": [self._batch, *(() if labels else (number,)), *self.parts.size],
                "dim_order": ["batch", *(() if labels else ("channel",)), "height", "width"],
                "data_type": label_type(number)[0].__name__ if labels else "float32",
            },
            "classification:classes": [
                {"value": index, "name": _slug(name, f"class-{index}"), "description": name}
                for index, name in enumerate(self.classes)
            ],
            "post_processing_function": None,
        }

    @property
    def _batch(self) -> int:
        return -1 if self.options.batch is None else self.options.batch


def _slug(name: str, otherwise: str) -> str:
    """A name of letters, digits and dashes, as STAC's schemas want."""
    return re.sub("[^0-9A-Za-z]+", "-", name).strip("-") or otherwise


def _model_name(name: str) -> str:
    """A name that begins with a letter and has at least three characters."""
    return f"scclip {_slug(name, 'model')}"
