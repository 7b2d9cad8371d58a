"""`/openapi.json`: the routes for people and generators of clients."""

from collections.abc import Mapping
from functools import partial
from types import MappingProxyType
from typing import Any

from scclip_rt.formats import FORMATS
from scclip_rt.serving.kserve import HEADER, OUTPUTS

_ERRORS = {
    "400": "A part of the request is missing, damaged or out of range.",
    "401": "The server wants a key.",
    "404": "No such model or vocabulary.",
    "408": "The body did not arrive in time.",
    "413": "More bytes, pixels or classes than the limits.",
    "415": "Not an image in a known format.",
    "503": "The queue is full, or the model is not ready; Retry-After says when to come back.",
    "504": "No answer within the deadline.",
}
_TEXT: dict[str, Any] = {"type": "string"}
_NUMBER: dict[str, Any] = {"type": "number"}
_INTEGER: dict[str, Any] = {"type": "integer"}
_BYTES: dict[str, Any] = {"type": "string", "format": "binary"}
_BASE64: dict[str, Any] = {"type": "string", "contentEncoding": "base64"}
_BOOLEAN: dict[str, Any] = {"type": "boolean"}
_OBJECT: dict[str, Any] = {"type": "object"}
_MODEL = {"name": "model", "in": "path", "required": True, "schema": _TEXT}
_HEADER = {
    "name": HEADER,
    "in": "header",
    "schema": _INTEGER,
    "description": "Bytes of the JSON part; binary tensors follow.",
}
_FLAG: dict[str, Any] = {"type": "string", "enum": ["0", "1"]}
_SEGMENT = {
    "classes": (_TEXT, "Class names: `sky; grass, lawn; dog, puppy` (synonyms after commas)."),
    "vocabulary": (_TEXT, "Instead of classes, the name of a vocabulary."),
    "background": (_TEXT, "The class that takes what no class claims, or `none`."),
    "model": (_TEXT, "One of GET /v1/models; the first without it."),
    "overlay": (_FLAG, "Give the picture under the classes' colours (PNG)."),
    "legend": (_FLAG, "With overlay: add the legend (1 by default)."),
    "confidence": (_FLAG, "Also give probabilities (JSON and raw labels)."),
    "boxes": (_FLAG, "Also give boxes (JSON)."),
    "format": (
        {"type": "string", "enum": list(FORMATS)},
        "Give the labels as another tool reads them (docs/formats.md); several files come as a ZIP archive.",
    ),
    "name": (_TEXT, "With `format`: what the image is called in the answer."),
    "logit_scale": (_NUMBER, "Factor on cosines before the softmax."),
    "prob_threshold": (_NUMBER, "Pixels of lower probability become background, or unlabelled."),
    "area_threshold": (_NUMBER, "Drop classes of at most this share of the foreground."),
    "refine": ({"type": "string", "enum": ["pamr", "none"]}, "Follow the image's edges more closely."),
}


def openapi_document(version: str) -> dict[str, Any]:
    """OpenAPI 3.1."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "scclip serve",
            "version": version,
            "description": "Open-vocabulary segmentation: name the classes, get a label map.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": _paths(),
        "components": {
            "securitySchemes": {
                "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
                "bearer": {"type": "http", "scheme": "bearer"},
            },
            "schemas": {
                "Error": _record({"error": _TEXT}, "error"),
                "ToolError": _record(
                    {"success": _BOOLEAN, "error": _record({"code": _TEXT, "message": _TEXT}, "message")},
                    "error",
                ),
                "Segmentation": _segmentation_schema(),
                "Vocabulary": _vocabulary_schema(),
            },
        },
        "security": [{}, {"key": []}, {"bearer": []}],
    }


def _paths() -> dict[str, Any]:
    either = {"application/json": _OBJECT, "application/octet-stream": _BYTES}
    options = {name: schema for name, (schema, _) in _SEGMENT.items()}
    told = {name: schema | {"description": text} for name, (schema, text) in _SEGMENT.items()}
    classes = {"oneOf": [_TEXT, _list(_TEXT)]}
    segment = _operation(
        "Segment an image",
        "The image is the body, a form's file or base64 in JSON; the Accept header chooses the answer.",
        parameters=[
            {"name": name, "in": "query", "schema": schema, "description": text}
            for name, (schema, text) in _SEGMENT.items()
        ],
        body={
            "image/*": _BYTES,
            "multipart/form-data": _record({"image": _BYTES} | told, "image"),
            "application/json": _record({"image": _BASE64} | options | {"classes": classes}, "image"),
        },
        answer={
            "image/png": _BYTES,
            "application/json": {"$ref": "#/components/schemas/Segmentation"},
            "application/octet-stream": _BYTES,
        },
    )
    names = {"classes": _list(_TEXT) | {"minItems": 1}, "background": _TEXT, "model": _TEXT}
    embed = _operation(
        "Embed a list of classes once",
        "Gives the name to ask for it.",
        body={"application/json": _record(names, "classes")},
        answer={"application/json": {"$ref": "#/components/schemas/Vocabulary"}},
        status="201",
    )
    infer = _operation(
        "KServe v2: inference",
        f"Inputs `image` (BYTES or UINT8 H×W×3) and `classes` (BYTES); outputs {', '.join(OUTPUTS)}.",
        parameters=[_MODEL, _HEADER],
        body=either,
        answer={"application/json": _OBJECT, "application/octet-stream": _BYTES},
    )
    body, model, text = {"application/json": _OBJECT}, [_MODEL], {"text/plain": _TEXT}
    rows = {
        "application/json": _list(_record({"name": _TEXT, "version": _TEXT, "state": _TEXT}, "name", "state"))
    }
    get, post = _operation, partial(_operation, body=body)
    return {
        "/v1/segment": {"post": segment},
        "/v1/vocabularies": {
            "post": embed,
            "get": get("List vocabularies", "Those that may be asked for by name."),
        },
        "/v1/models": {"get": get("List models", "Names under `data`.")},
        "/v2": {"get": get("KServe v2: the server", "Name, version, extensions.")},
        "/v2/models/{model}": {"get": get("KServe v2: a model", "Its tensors.", parameters=model)},
        "/v2/models/{model}/ready": {
            "get": get("KServe v2: is a model ready", "200 or 503.", parameters=model)
        },
        "/v2/models/{model}/infer": {"post": infer},
        "/v2/repository/index": {
            "post": get("Triton: the repository's index", "Models and states.", answer=rows)
        },
        "/v1/predict": {
            "post": post("X-AnyLabeling: predict", "Polygons for a text prompt.", refusal="ToolError")
        },
        "/predict": {"post": post("Label Studio: predict", "Brush masks for tasks.")},
        "/setup": {"post": post("Label Studio: set up", "A project connects.")},
        "/webhook": {"post": post("Label Studio: events", "Read and ignored.")},
        "/health": {"get": get("Label Studio: health", "200 or 503.")},
        "/v2/health/live": {"get": get("Is the process there", "200 at once.")},
        "/v2/health/ready": {"get": get("Are the models warm", "200 or 503.")},
        "/metrics": {"get": get("Prometheus metrics", "Counters and histograms.", answer=text)},
    }


def _operation(
    summary: str,
    description: str,
    *,
    answer: Mapping[str, Any] = MappingProxyType({"application/json": _OBJECT}),
    parameters: list[dict[str, Any]] | None = None,
    body: Mapping[str, Any] | None = None,
    status: str = "200",
    refusal: str = "Error",
) -> dict[str, Any]:
    """One operation; `answer` and `body` are schemas by media type, `refusal` is the errors' schema."""
    error = _content({"application/json": {"$ref": f"#/components/schemas/{refusal}"}})
    operation: dict[str, Any] = {
        "summary": summary,
        "description": description,
        "responses": {status: {"description": "Done.", "content": _content(answer)}}
        | {code: {"description": text, "content": error} for code, text in _ERRORS.items()},
    }
    if parameters:
        operation["parameters"] = parameters
    if body:
        operation["requestBody"] = {"required": True, "content": _content(body)}
    return operation


def _content(schemas: Mapping[str, Any]) -> dict[str, Any]:
    return {media: {"schema": schema} for media, schema in schemas.items()}


def _record(properties: dict[str, Any], *required: str) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(required)}


def _list(items: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": items}


def _segmentation_schema() -> dict[str, Any]:
    rle = {
        "type": "object",
        "description": "COCO's compressed run lengths.",
        "properties": {"size": _list(_INTEGER), "counts": _TEXT},
    }
    segment = {
        "label": _INTEGER,
        "name": _TEXT,
        "share": _NUMBER,
        "area": _INTEGER,
        "colour": _TEXT,
        "rle": rle,
        "box": _list(_INTEGER) | {"description": "left, top, width, height"},
    }
    document = {
        "model": _TEXT,
        "height": _INTEGER,
        "width": _INTEGER,
        "classes": _list(_TEXT),
        "background": {"type": ["integer", "null"]},
        "unlabelled": _INTEGER,
        "segments": _list(_record(segment, "label", "name", "share", "area", "rle")),
        "confidence_png": _BASE64,
    }
    return _record(document, "model", "height", "width", "classes", "unlabelled", "segments")


def _vocabulary_schema() -> dict[str, Any]:
    document = {
        "name": _TEXT,
        "classes": _list(_TEXT),
        "entries": _list(_TEXT) | {"description": "classes with their synonyms"},
        "queries": _INTEGER,
        "background": {"type": ["integer", "null"]},
    }
    return _record(document, "name", "classes", "queries")
