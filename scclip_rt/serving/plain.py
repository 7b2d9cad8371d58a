"""The plain way over HTTP: an image and classes in, by the `Accept` header a PNG, JSON or raw labels out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from starlette.datastructures import Headers

from scclip_rt.errors import OptionError
from scclip_rt.formats import encode, find_format
from scclip_rt.serving.body import read_form
from scclip_rt.serving.errors import BadRequestError, NotAcceptableError
from scclip_rt.serving.kserve import decode_base64, json_object, overrides_of, string, text_of
from scclip_rt.serving.model import LoadedModel
from scclip_rt.serving.render import (
    JSON,
    PNG,
    RAW,
    Rendered,
    document,
    json_bytes,
    labels_png,
    overlay_png,
    raw_labels,
)
from scclip_rt.serving.service import Answer, Query
from scclip_rt.serving.vocabularies import split_classes
from scclip_rt.vocabulary.file import Vocabulary

PARAMETERS = (
    "classes", "vocabulary", "background", "model", "overlay", "legend", "confidence", "boxes", "format", "name",
    "logit_scale", "prob_threshold", "area_threshold", "refine",
)  # fmt: skip
_FORM = "multipart/form-data"
_TRUE, _FALSE = ("1", "true", "yes", "on"), ("", "0", "false", "no", "off")


async def segment_parameters(
    body: bytes, headers: Headers, query: Mapping[str, str]
) -> tuple[bytes, dict[str, Any]]:
    """The image and the parameters of `POST /v1/segment`, however they came.

    A form has the image as `image` or `file` and parameters as fields; JSON has it as base64; else the body
    is the image. Parameters in the URL go with each of them; a field wins.

    Raises:
        BadRequestError: no image, or an unknown parameter.
    """
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    parameters: dict[str, Any] = dict(query)
    if kind == _FORM:
        fields, files = await read_form(body, headers)
        image = files.get("image") or files.get("file") or b""
        if not image:
            raise BadRequestError("the form has no file called `image` (curl: -F image=@photo.jpg)")
        parameters |= fields
    elif kind == JSON:
        content = json_object(body)
        image = decode_base64(string(content.pop("image", None), "image"), "image")
        if isinstance(content.get("classes"), list):
            content["classes"] = tuple(string(entry, "classes") for entry in content["classes"])
        parameters |= content
    else:  # whatever it is called: curl calls an image a form, and the image's header is looked at anyway
        image = body
    unknown = sorted(set(parameters) - set(PARAMETERS))
    if unknown:
        raise BadRequestError(f"unknown parameter {unknown[0]!r}; there are {', '.join(PARAMETERS)}")
    if not image:
        raise BadRequestError("the body is empty; send an image")
    return image, parameters


def make_query(image: bytes, parameters: Mapping[str, Any]) -> Query:
    """Parameters to what is asked for.

    Raises:
        BadRequestError: a value that makes no sense.
    """
    classes = parameters.get("classes") or None
    if isinstance(classes, str):
        classes = split_classes(classes)
    return Query(
        image=image,
        model=text_of(parameters, "model"),
        classes=classes,
        vocabulary=text_of(parameters, "vocabulary"),
        background=text_of(parameters, "background"),
        overrides=overrides_of(parameters),
        confidence=flag(parameters, "confidence"),
    )


def choose_media(accept: str) -> str:
    """The first of PNG, JSON and raw labels among those that the client likes best; PNG if it doesn't say.

    Raises:
        NotAcceptableError: it wants none of them.
    """
    best: tuple[float, str] | None = None
    for part in accept.split(",") if accept else ["*/*"]:
        kind, *options = (piece.strip().lower() for piece in part.split(";"))
        weight = 1.0
        for option in options:
            if option.startswith("q="):
                try:
                    weight = float(option[2:])
                except ValueError:
                    weight = 0.0
        for offered in (PNG, JSON, RAW):
            if kind in (offered, "*/*", f"{offered.partition('/')[0]}/*"):
                if weight > 0 and (best is None or weight > best[0]):
                    best = (weight, offered)
                break
    if best is None:
        raise NotAcceptableError(f"this route gives {PNG}, {JSON} or {RAW}; the client accepts {accept!r}")
    return best[1]


def render(answer: Answer, media: str, parameters: Mapping[str, Any]) -> Rendered:
    """In a worker: the answer's body."""
    if parameters.get("format"):
        name = str(parameters.get("name") or "image.png")
        encoded = encode(str(parameters["format"]), answer.result, file_name=name)
        return Rendered(body=encoded.data, media_type=encoded.media_type)
    if flag(parameters, "overlay"):
        legend = flag(parameters, "legend", default=True)
        return Rendered(body=overlay_png(answer.result, legend=legend), media_type=PNG)
    if media == PNG:
        return Rendered(body=labels_png(answer.result), media_type=PNG)
    if media == RAW:
        return raw_labels(answer.result)
    content = document(answer.result, model=answer.model.name, boxes=flag(parameters, "boxes"))
    return Rendered(body=json_bytes(content), media_type=JSON)


def check_flags(parameters: Mapping[str, Any]) -> None:
    """Refuse a flag that is neither on nor off, and a format that isn't known, before any work.

    Raises:
        BadRequestError: there is one.
    """
    for name in ("overlay", "legend", "confidence", "boxes"):
        flag(parameters, name)
    if parameters.get("format"):
        try:
            find_format(str(parameters["format"]))
        except OptionError as error:
            raise BadRequestError(str(error)) from error


def vocabulary_request(body: bytes) -> tuple[tuple[str, ...], str | None, str | None]:
    """`POST /v1/vocabularies`: classes, background and model.

    Raises:
        BadRequestError: it is no JSON with a list `classes`.
    """
    content = json_object(body)
    classes = content.get("classes")
    if isinstance(classes, str):
        entries = split_classes(classes)
    elif isinstance(classes, list) and classes:
        entries = tuple(string(entry, "classes") for entry in classes)
    else:
        raise BadRequestError('send {"classes": ["sky", "grass, lawn", …]}')
    return entries, text_of(content, "background"), text_of(content, "model")


def vocabulary_document(name: str, vocabulary: Vocabulary) -> dict[str, Any]:
    """What is told of a vocabulary."""
    return {
        "name": name,
        "classes": vocabulary.classes,
        "entries": class_entries(vocabulary),
        "queries": len(vocabulary.queries),
        "background": vocabulary.background,
    }


def class_entries(vocabulary: Vocabulary) -> list[str]:
    """The classes as a request would name them: synonyms after commas."""
    names: list[list[str]] = [[] for _ in vocabulary.classes]
    for name, index in zip(vocabulary.queries, vocabulary.query_class.tolist(), strict=True):
        names[index].append(name)
    return [", ".join(entry) for entry in names]


def model_document(model: LoadedModel) -> dict[str, Any]:
    """What `GET /v1/models` tells of a model."""
    info = model.segmenter.backend.describe()
    default = model.vocabularies.default
    return {
        "backend": info["backend"],
        "precision": info["precision"],
        "device": info["device"],
        "encoder": info["encoder"],
        "short_side": model.segmenter.preparation.short_side,
        "classes": () if default is None else default.classes,
        "entries": () if default is None else class_entries(default),
        "vocabularies": {
            name: len(vocabulary.classes) for name, vocabulary in model.vocabularies.names().items()
        },
    }


def flag(parameters: Mapping[str, Any], name: str, *, default: bool = False) -> bool:
    """A parameter that is on or off.

    Raises:
        BadRequestError: it is neither.
    """
    value = parameters.get(name, default)
    text = str(value).lower()
    if value is True or text in _TRUE:
        return True
    if value is False or text in _FALSE:
        return False
    raise BadRequestError(f"{name} must be 1 or 0; got {value!r}")
