"""`/openapi.json`: the routes for people and generators of clients."""

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
        "paths": {**_plain_paths(), **_kserve_paths(), **_tool_paths(), **_operator_paths()},
        "components": {
            "securitySchemes": {
                "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
                "bearer": {"type": "http", "scheme": "bearer"},
            },
            "schemas": {
                "Error": {
                    "type": "object",
                    "properties": {"error": _TEXT},
                    "required": ["error"],
                },
                "Segmentation": _segmentation_schema(),
                "Vocabulary": _vocabulary_schema(),
            },
        },
        "security": [{}, {"key": []}, {"bearer": []}],
    }


def _plain_paths() -> dict[str, Any]:
    binary = {"schema": {"type": "string", "format": "binary"}}
    form = {
        "type": "object",
        "properties": {"image": {"type": "string", "format": "binary"}}
        | {name: schema | {"description": text} for name, (schema, text) in _SEGMENT.items()},
        "required": ["image"],
    }
    as_json = {
        "type": "object",
        "properties": {"image": {"type": "string", "contentEncoding": "base64"}}
        | {name: schema for name, (schema, _) in _SEGMENT.items()}
        | {"classes": {"oneOf": [_TEXT, {"type": "array", "items": _TEXT}]}},
        "required": ["image"],
    }
    segment = _operation(
        "Segment an image",
        "The image is the body, a form's file or base64 in JSON; the Accept header chooses the answer.",
        parameters=[
            {"name": name, "in": "query", "schema": schema, "description": text}
            for name, (schema, text) in _SEGMENT.items()
        ],
        body={
            "image/*": binary,
            "multipart/form-data": {"schema": form},
            "application/json": {"schema": as_json},
        },
        answer={
            "image/png": binary,
            "application/json": {"schema": {"$ref": "#/components/schemas/Segmentation"}},
            "application/octet-stream": binary,
        },
    )
    embed_body = {
        "type": "object",
        "properties": {
            "classes": {"type": "array", "items": _TEXT, "minItems": 1},
            "background": _TEXT,
            "model": _TEXT,
        },
        "required": ["classes"],
    }
    vocabulary = {"schema": {"$ref": "#/components/schemas/Vocabulary"}}
    return {
        "/v1/segment": {"post": segment},
        "/v1/vocabularies": {
            "post": _operation(
                "Embed a list of classes once",
                "Gives the name to ask for it.",
                body={"application/json": {"schema": embed_body}},
                answer={"application/json": vocabulary},
                status="201",
            ),
            "get": _operation("List vocabularies", "Those that may be asked for by name.", answer=_object()),
        },
        "/v1/models": {"get": _operation("List models", "Names under `data`.", answer=_object())},
    }


def _kserve_paths() -> dict[str, Any]:
    model = [{"name": "model", "in": "path", "required": True, "schema": _TEXT}]
    header = {
        "name": HEADER,
        "in": "header",
        "schema": {"type": "integer"},
        "description": "Bytes of the JSON part; binary tensors follow.",
    }
    infer = _operation(
        "KServe v2: inference",
        f"Inputs `image` (BYTES or UINT8 H×W×3) and `classes` (BYTES); outputs {', '.join(OUTPUTS)}.",
        parameters=[*model, header],
        body={
            "application/json": {"schema": {"type": "object"}},
            "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
        },
        answer={
            "application/json": {"schema": {"type": "object"}},
            "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
        },
    )
    return {
        "/v2": {"get": _operation("KServe v2: the server", "Name, version, extensions.", answer=_object())},
        "/v2/models/{model}": {
            "get": _operation("KServe v2: a model", "Its tensors.", parameters=model, answer=_object())
        },
        "/v2/models/{model}/ready": {
            "get": _operation(
                "KServe v2: is a model ready", "200 or 503.", parameters=model, answer=_object()
            )
        },
        "/v2/models/{model}/infer": {"post": infer},
        "/v2/repository/index": {
            "post": _operation("Triton: the repository's index", "Models and states.", answer=_object())
        },
    }


def _tool_paths() -> dict[str, Any]:
    body = {"application/json": {"schema": {"type": "object"}}}
    return {
        "/v1/predict": {
            "post": _operation(
                "X-AnyLabeling: predict", "Polygons for a text prompt.", body=body, answer=_object()
            )
        },
        "/predict": {
            "post": _operation("Label Studio: predict", "Brush masks for tasks.", body=body, answer=_object())
        },
        "/setup": {
            "post": _operation("Label Studio: set up", "A project connects.", body=body, answer=_object())
        },
        "/webhook": {
            "post": _operation("Label Studio: events", "Read and ignored.", body=body, answer=_object())
        },
        "/health": {"get": _operation("Label Studio: health", "200 or 503.", answer=_object())},
    }


def _operator_paths() -> dict[str, Any]:
    text = {"text/plain": {"schema": _TEXT}}
    return {
        "/v2/health/live": {"get": _operation("Is the process there", "200 at once.", answer=_object())},
        "/v2/health/ready": {"get": _operation("Are the models warm", "200 or 503.", answer=_object())},
        "/metrics": {"get": _operation("Prometheus metrics", "Counters and histograms.", answer=text)},
    }


def _operation(
    summary: str,
    description: str,
    *,
    answer: dict[str, Any],
    parameters: list[dict[str, Any]] | None = None,
    body: dict[str, Any] | None = None,
    status: str = "200",
) -> dict[str, Any]:
    error = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    operation: dict[str, Any] = {
        "summary": summary,
        "description": description,
        "responses": {status: {"description": "Done.", "content": answer}}
        | {code: {"description": text, "content": error} for code, text in _ERRORS.items()},
    }
    if parameters:
        operation["parameters"] = parameters
    if body:
        operation["requestBody"] = {"required": True, "content": body}
    return operation


def _object() -> dict[str, Any]:
    return {"application/json": {"schema": {"type": "object"}}}


def _segmentation_schema() -> dict[str, Any]:
    integer = {"type": "integer"}
    segment = {
        "type": "object",
        "properties": {
            "label": integer,
            "name": _TEXT,
            "share": _NUMBER,
            "area": integer,
            "colour": _TEXT,
            "rle": {
                "type": "object",
                "description": "COCO's compressed run lengths.",
                "properties": {"size": {"type": "array", "items": integer}, "counts": _TEXT},
            },
            "box": {"type": "array", "items": integer, "description": "left, top, width, height"},
        },
        "required": ["label", "name", "share", "area", "rle"],
    }
    return {
        "type": "object",
        "properties": {
            "model": _TEXT,
            "height": integer,
            "width": integer,
            "classes": {"type": "array", "items": _TEXT},
            "background": {"type": ["integer", "null"]},
            "unlabelled": integer,
            "segments": {"type": "array", "items": segment},
            "confidence_png": {"type": "string", "contentEncoding": "base64"},
        },
        "required": ["model", "height", "width", "classes", "unlabelled", "segments"],
    }


def _vocabulary_schema() -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {
            "name": _TEXT,
            "classes": {"type": "array", "items": _TEXT},
            "entries": {"type": "array", "items": _TEXT, "description": "classes with their synonyms"},
            "queries": {"type": "integer"},
            "background": {"type": ["integer", "null"]},
        },
        "required": ["name", "classes", "queries"],
    }
