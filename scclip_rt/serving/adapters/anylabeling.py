"""X-AnyLabeling's remote server: `GET /v1/models` and `POST /v1/predict` with a text prompt, polygons back.

The protocol is that of X-AnyLabeling 4 (`remote_server.py`); its models are listed under `data`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scclip_rt.formats.polygons import label_polygons
from scclip_rt.segmentation import Segmentation
from scclip_rt.serving.errors import BadRequestError
from scclip_rt.serving.kserve import decode_base64, text_of
from scclip_rt.serving.model import LoadedModel, Overrides
from scclip_rt.serving.plain import model_document
from scclip_rt.serving.service import Query
from scclip_rt.serving.vocabularies import split_classes

_SMALLEST_SHARE = 1 / 5000
"""Regions under this share of the image are left out: an editor with thousands of specks is of no use."""
_EPSILON = 0.001


def models_document(models: Mapping[str, LoadedModel | None]) -> dict[str, Any]:
    """`GET /v1/models`: what X-AnyLabeling reads, and what we tell of each model."""
    return {
        "data": {
            name: {
                "display_name": f"SC-CLIP {name}",
                "batch_processing_mode": "text_prompt",
                "available_tasks": [],
                "widgets": [
                    {"name": "edit_text", "value": None, "placeholder": "sky; grass, lawn; dog, puppy"},
                    {"name": "button_send", "value": None},
                    {"name": "edit_conf", "value": 0.0},
                    {"name": "mask_fineness_slider", "value": 1},
                    {"name": "toggle_preserve_existing_annotations", "value": False},
                ],
                "ready": model is not None,
                **({} if model is None else model_document(model)),
            }
            for name, model in models.items()
        }
    }


def read_request(content: Mapping[str, Any]) -> tuple[Query, float]:
    """`POST /v1/predict` to what is asked for, and how far outlines may be simplified (share of their length).

    Raises:
        BadRequestError: a part is missing or of another kind.
    """
    image, params = content.get("image"), content.get("params") or {}
    if not isinstance(image, str) or not isinstance(params, dict):
        raise BadRequestError("send `model`, `image` (base64) and `params`")
    prompt = params.get("text_prompt") or ""
    threshold, epsilon = params.get("conf_threshold") or 0.0, params.get("epsilon_factor", _EPSILON)
    if not isinstance(prompt, str):
        raise BadRequestError("`text_prompt` must be text")
    if not all(isinstance(number, int | float) and 0 <= number <= 1 for number in (threshold, epsilon)):
        raise BadRequestError("`conf_threshold` and `epsilon_factor` must be numbers from 0 to 1")
    query = Query(
        image=decode_base64(image, "image"),
        model=text_of(content, "model"),
        classes=prompt_classes(prompt) or None,
        overrides=Overrides(prob_threshold=float(threshold) or None),
        confidence=True,
    )
    return query, float(epsilon)


def prompt_classes(prompt: str) -> tuple[str, ...]:
    """Classes of a text prompt: after semicolons or full stops (then commas part synonyms), else after commas."""
    if ";" in prompt or "." in prompt or "\n" in prompt:
        return split_classes(prompt.replace(".", ";"))
    return split_classes(prompt.replace(",", ";"))


def shapes(result: Segmentation, epsilon: float) -> list[dict[str, Any]]:
    """In a worker: a polygon for each region that has a class and is no speck; holes are filled (the tool has none).

    Args:
        result: with confidence.
        epsilon: how far an outline may be simplified, as a share of its length.
    """
    least = result.labels.size * _SMALLEST_SHARE
    scores = _mean_confidence(result)
    found = []
    for polygon in label_polygons(result.labels):
        if polygon.area < least or polygon.label in (result.unlabelled, result.background):
            continue
        ring = polygon.rings[0]
        outline = simplified(ring, epsilon * float(np.hypot(*(ring - np.roll(ring, 1, axis=0)).T).sum()))
        if len(outline) >= 3:
            found.append(
                {
                    "label": result.classes[polygon.label],
                    "shape_type": "polygon",
                    "points": outline.tolist(),
                    "score": scores.get(polygon.label),
                    "group_id": None,
                }
            )
    return found


def simplified(ring: NDArray[np.int64], tolerance: float) -> NDArray[np.int64]:
    """A ring with fewer points, by Douglas and Peucker's rule from two points that are far from each other.

    Args:
        ring: (points, 2), not closed.
        tolerance: how far a point that is left out may be from the line that takes its place.

    Returns:
        (fewer points, 2), in the same order.
    """
    if tolerance == 0:
        return ring
    first = int(((ring - ring[0]) ** 2).sum(axis=1).argmax())
    closed = np.concatenate((ring[first:], ring[: first + 1]))
    kept = np.zeros(len(closed), bool)
    opposite = int(((closed - closed[0]) ** 2).sum(axis=1).argmax())
    parts = [(0, opposite), (opposite, len(closed) - 1)]
    while parts:
        start, end = parts.pop()
        kept[start] = True
        between, line = closed[start + 1 : end] - closed[start], closed[end] - closed[start]
        if len(between) == 0:
            continue
        along = np.clip(between @ line / max(1, int(line @ line)), 0, 1)
        distances = np.hypot(*(between - along[:, None] * line).T)
        farthest = int(distances.argmax())
        if distances[farthest] > tolerance:
            middle = start + 1 + farthest
            parts += [(start, middle), (middle, end)]
    return closed[kept]


def _mean_confidence(result: Segmentation) -> dict[int, float]:
    """The mean probability of each label's pixels."""
    if result.confidence is None:
        return {}
    flat = result.labels.ravel()
    sums, counts = np.bincount(flat, result.confidence.ravel()), np.bincount(flat)
    return {int(label): round(float(sums[label] / counts[label]), 4) for label in np.flatnonzero(counts)}


def answer(found: list[dict[str, Any]]) -> dict[str, Any]:
    """The answer of `POST /v1/predict`."""
    return {"success": True, "data": {"shapes": found, "description": "", "replace": True}}


def failure(status: int, message: str) -> dict[str, Any]:
    """An error as the tool reads it."""
    return {"success": False, "error": {"code": str(status), "message": message}}
