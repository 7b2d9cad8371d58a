"""The plain way over HTTP: an image and classes in, by the `Accept` header a PNG, JSON or raw labels out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from starlette.datastructures import Headers, QueryParams

from scclip_rt.errors import OptionError
from scclip_rt.formats import encode, find_format
from scclip_rt.serving.body import FormParts, read_form
from scclip_rt.serving.errors import BadRequestError, NotAcceptableError
from scclip_rt.serving.kserve import decode_base64, flag, json_object, overrides_of, string, text_of
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
from scclip_rt.vocabulary.classes import shorten
from scclip_rt.vocabulary.file import Vocabulary

PARAMETERS = (
    "classes", "vocabulary", "background", "model", "overlay", "legend", "confidence", "boxes", "format", "name",
    "logit_scale", "prob_threshold", "area_threshold", "refine",
)  # fmt: skip
_FORM = "multipart/form-data"


async def form_of(body: bytes, headers: Headers) -> FormParts | None:
    """The parts of a multipart form; None where the body is something else.

    Raises:
        BadRequestError: not the form that the content type says.
    """
    return await read_form(body, headers) if _kind(headers) == _FORM else None


def segment_parameters(
    body: bytes, form: FormParts | None, headers: Headers, query: QueryParams
) -> tuple[bytes, dict[str, Any]]:
    """The image and the parameters of `POST /v1/segment`, however they came.

    A form has the image as `image` or `file` and parameters as fields; JSON has it as base64; else the body
    is the image. Parameters in the URL go with each of them; a field wins.

    Raises:
        BadRequestError: no image, or an unknown parameter, or one that comes twice.
    """
    parameters: dict[str, Any] = once(query.multi_items())
    if form is not None:
        files = {name: value for name, value in once(form).items() if isinstance(value, bytes)}
        if set(files) not in ({"image"}, {"file"}):
            found = ", ".join(map(repr, files)) or "none"
            raise BadRequestError(
                f"the form must have one file, called `image` (curl: -F image=@photo.jpg); got {found}"
            )
        (image,) = files.values()
        parameters |= {name: value for name, value in form if isinstance(value, str)}
    elif _kind(headers) == JSON:
        content = json_object(body)
        image = decode_base64(string(content.pop("image", None), "image"), "image")
        classes = content.get("classes")
        if isinstance(classes, list):
            content["classes"] = tuple(string(entry, "classes") for entry in classes)
        elif classes is not None:
            string(classes, "classes")
        parameters |= content
    else:  # whatever it is called: curl calls an image a form, and the image's header is looked at anyway
        image = body
    refuse_unknown(parameters, PARAMETERS)
    if not image:
        raise BadRequestError("the image is empty (0 bytes); send one")
    return image, parameters


def _kind(headers: Headers) -> str:
    return headers.get("content-type", "").partition(";")[0].strip().lower()


def refuse_unknown(parameters: Mapping[str, Any], known: Sequence[str]) -> None:
    """Refuse a parameter that is none of these.

    Raises:
        BadRequestError: there is one.
    """
    unknown = sorted(set(parameters) - set(known))
    if unknown:
        raise BadRequestError(f"unknown parameter {shorten(unknown[0])!r}; there are {', '.join(known)}")


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


def choose_media(accept: Sequence[str]) -> str:
    """What the client likes best of PNG, JSON and raw labels: by weight, then by its order, then by ours.

    Raises:
        NotAcceptableError: it wants none of them.
    """
    ranges = [_media_range(part) for part in ",".join(accept).split(",") if part.strip()] or [("*/*", 1.0)]
    best: tuple[float, int, str] | None = None
    for offered in (PNG, JSON, RAW):
        # The closest range counts: `*/*, image/png;q=0` is anything but a PNG.
        for wanted in (offered, f"{offered.partition('/')[0]}/*", "*/*"):
            found = [(weight, -place) for place, (kind, weight) in enumerate(ranges) if kind == wanted]
            if found:
                weight, order = found[0]
                if weight > 0 and (best is None or (weight, order) > best[:2]):
                    best = (weight, order, offered)
                break
    if best is None:
        raise NotAcceptableError(
            f"this route gives {PNG}, {JSON} or {RAW}; the client accepts {shorten(', '.join(accept), 200)!r}"
        )
    return best[2]


def _media_range(text: str) -> tuple[str, float]:
    """`image/*;q=0.5` to its kind and weight; a weight that is no number from 0 to 1 is 0."""
    kind, *options = (piece.strip().lower() for piece in text.split(";"))
    for option in options:
        if option.startswith("q="):
            try:
                weight = float(option[2:])
            except ValueError:
                return kind, 0.0
            return kind, weight if 0 <= weight <= 1 else 0.0
    return kind, 1.0


def once(items: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """Names and values as a dictionary.

    Raises:
        BadRequestError: a name comes twice.
    """
    for name, count in Counter(name for name, _ in items).items():
        if count > 1:
            raise BadRequestError(
                f"{shorten(name)!r} comes {count} times; classes go into one text, after semicolons"
            )
    return dict(items)


def render(answer: Answer, media: str, parameters: Mapping[str, Any]) -> Rendered:
    """In a worker: the answer's body."""
    if parameters.get("format"):
        name = text_of(parameters, "name") or "image.png"
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


def media_of(parameters: Mapping[str, Any], accept: Sequence[str]) -> str:
    """What to answer with, before any work: `format` and `overlay` say it themselves, else the `Accept` header does.

    Raises:
        BadRequestError: a flag that is neither on nor off, or an unknown format.
        NotAcceptableError: the client wants nothing that is made here.
    """
    for name in ("overlay", "legend", "confidence", "boxes"):
        flag(parameters, name)
    text_of(parameters, "name")
    if form := text_of(parameters, "format"):
        try:
            return find_format(form).media_type
        except OptionError as error:
            raise BadRequestError(str(error)) from error
    return PNG if flag(parameters, "overlay") else choose_media(accept)


def vocabulary_request(body: bytes) -> tuple[tuple[str, ...], str | None, str | None]:
    """`POST /v1/vocabularies`: classes, background and model.

    Raises:
        BadRequestError: it is no JSON with a list `classes`.
    """
    content = json_object(body)
    refuse_unknown(content, ("classes", "background", "model"))
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
