"""Label Studio's ML backend: `/setup`, `/predict` and `/health`, with brush masks as predictions.

A project's `<BrushLabels>` are the classes. If the server's own list has all of them, that list is used (its other
classes then take what no label of the project claims), else the labels themselves are.
"""

from __future__ import annotations

import http.client
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree as ET

from scclip_rt.formats.labelstudio import brush_results
from scclip_rt.segmentation import Segmentation
from scclip_rt.serving.errors import BadRequestError, TooLargeError
from scclip_rt.serving.kserve import decode_base64
from scclip_rt.serving.model import LoadedModel


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelConfig:
    """What a project's labelling configuration says.

    Attributes:
        control: name of its `BrushLabels`.
        image: name of the `Image` that they are for.
        key: of the image in a task's data.
        labels: names.
    """

    control: str
    image: str
    key: str
    labels: tuple[str, ...]

    @classmethod
    def read(cls, text: object) -> LabelConfig:
        """Read the XML.

        Raises:
            BadRequestError: no XML, or no brush labels on an image.
        """
        if not isinstance(text, str) or "<!" in text.replace("<!--", ""):
            raise BadRequestError("`label_config` must be Label Studio's XML, without declarations")
        try:
            root = ET.fromstring(text)
        except ET.ParseError as error:
            raise BadRequestError(f"`label_config` is not XML: {error}") from error
        images = {tag.get("name"): tag.get("value", "") for tag in root.iter("Image")}
        for control in root.iter("BrushLabels"):
            target = control.get("toName")
            labels = tuple(tag.get("value", "") for tag in control.iter("Label"))
            if target in images and all(labels) and labels:
                return cls(
                    control=control.get("name", ""),
                    image=str(target),
                    key=images[target].removeprefix("$"),
                    labels=labels,
                )
        raise BadRequestError(
            "the project has no <BrushLabels> with labels for an <Image>; this backend predicts brush masks"
        )


def model_version(model: LoadedModel) -> str:
    """What predictions are filed under."""
    return f"{model.name}-{model.segmenter.bundle.model.checkpoint_sha256[:8]}"


def classes_for(config: LabelConfig, model: LoadedModel) -> tuple[str, ...] | None:
    """The classes to ask for; None where the server's own list has all labels."""
    default = model.vocabularies.default
    return None if default is not None and set(config.labels) <= set(default.classes) else config.labels


def image_address(task: object, config: LabelConfig) -> str:
    """Where a task's image is.

    Raises:
        BadRequestError: the task has none.
    """
    data = task.get("data") if isinstance(task, Mapping) else None
    address = data.get(config.key) if isinstance(data, Mapping) else None
    if not isinstance(address, str) or not address:
        raise BadRequestError(f"a task has no image under {config.key!r}")
    return address


def fetch_image(
    address: str, *, origin: str | None, token: str | None, max_bytes: int, timeout: float
) -> bytes:
    """A task's image. May take a while: call it in a thread.

    Args:
        address: `data:…` with base64, a path on the Label Studio server, or a URL there.
        origin: of that server; None fetches nothing over the network.
        token: sent as `Authorization: Token …`.
        max_bytes: largest image.
        timeout: seconds.

    Raises:
        BadRequestError: another server, or no answer.
        TooLargeError: it is larger.
    """
    if address.startswith("data:"):
        return decode_base64(address, "the task's image")
    if origin is None:
        raise BadRequestError(
            "the task names its image by address; start the server with --label-studio URL to let it fetch from there"
        )
    try:
        url = urllib.parse.urljoin(f"{origin}/", address)
        if urllib.parse.urlsplit(url)[:2] != urllib.parse.urlsplit(origin)[:2]:
            raise BadRequestError(f"images are fetched from {origin} only; the task names another server")
        request = urllib.request.Request(url, headers={"Authorization": f"Token {token}"} if token else {})
        with _OPENER.open(request, timeout=timeout) as reply:
            data: bytes = reply.read(max_bytes + 1)
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise BadRequestError(f"the task's image can't be fetched from {origin}: {error}") from error
    if len(data) > max_bytes:
        raise TooLargeError(f"the task's image is larger than this server's {max_bytes:,} bytes")
    return data


def prediction(result: Segmentation, config: LabelConfig, version: str) -> dict[str, Any]:
    """In a worker: one task's prediction."""
    rows = [
        {**row, "from_name": config.control, "to_name": config.image}
        for row in brush_results(result)
        if set(row["value"]["brushlabels"]) <= set(config.labels)
    ]
    score = None if result.confidence is None else round(float(result.confidence.mean()), 4)
    return {"result": rows, "score": score, "model_version": version}


def tasks_of(content: Mapping[str, Any]) -> Sequence[object]:
    """The tasks of `POST /predict`.

    Raises:
        BadRequestError: there are none.
    """
    tasks = content.get("tasks")
    if not isinstance(tasks, list) or not tasks:
        raise BadRequestError("`tasks` must be a list with at least one task")
    return tasks


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A redirect could lead to a server that was not allowed."""

    def redirect_request(self, *_: Any) -> None:
        return None


_OPENER = urllib.request.build_opener(_NoRedirects)
