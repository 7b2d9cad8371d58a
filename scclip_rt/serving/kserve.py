"""The Open Inference Protocol (KServe v2): requests and answers, with binary tensors, apart from any transport.

Inputs: `image`, BYTES of one encoded file or UINT8 (H, W, 3) RGB, and `classes`, BYTES (C,), an entry a class.
Outputs: `labels`, `class_names`, `confidence`, `features`; without a list of outputs the first two, and the third if
the parameter `confidence` says so.
"""

from __future__ import annotations

import base64
import binascii
import math
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from scclip_rt.serving.errors import BadRequestError, NotFoundError
from scclip_rt.serving.images import WireImage
from scclip_rt.serving.model import LoadedModel, Overrides
from scclip_rt.serving.render import JSON, RAW, Rendered, json_bytes
from scclip_rt.serving.service import Answer, Query
from scclip_rt.vocabulary.classes import shorten

VERSION = "1"
HEADER = "Inference-Header-Content-Length"
OUTPUTS = ("labels", "class_names", "confidence", "features")
DEFAULT_OUTPUTS = OUTPUTS[:2]

PARAMETERS = frozenset(
    {"vocabulary", "background", "logit_scale", "prob_threshold", "area_threshold", "refine", "confidence"}
)
_OF_THE_PROTOCOL = frozenset(
    {"binary_data_output", "sequence_id", "sequence_start", "sequence_end", "priority", "timeout", "headers"}
)
"""Clients send these on their own; they change nothing here."""
_TRUE, _FALSE = ("1", "true", "yes", "on"), ("", "0", "false", "no", "off")
_LENGTH_DIGITS = 18  # of a number of bytes that fits anywhere


@dataclass(frozen=True, slots=True, kw_only=True)
class Tensor:
    """An input as it came: binary bytes, or JSON values."""

    name: str
    shape: tuple[int, ...]
    datatype: str
    raw: bytes | None = None
    data: Any = None


@dataclass(frozen=True, slots=True, kw_only=True)
class InferRequest:
    """An inference request of either transport.

    Attributes:
        id: given back.
        query: what it asks for.
        outputs: names, in order; whether each comes back as binary (HTTP only).
    """

    id: str
    query: Query
    outputs: tuple[tuple[str, bool], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """A tensor of the answer; `values` is an array, or strings for BYTES."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    values: NDArray[Any] | Sequence[str]

    def raw(self) -> bytes:
        """Little-endian values in order; BYTES with a length of four bytes before each."""
        if isinstance(self.values, np.ndarray):
            return (
                np.ascontiguousarray(self.values)
                .astype(self.values.dtype.newbyteorder("<"), copy=False)
                .tobytes()
            )
        return b"".join(_with_length(value.encode()) for value in self.values)

    def listed(self) -> Any:
        """Values in order, for JSON."""
        return self.values.ravel() if isinstance(self.values, np.ndarray) else list(self.values)


@dataclass(frozen=True, slots=True, kw_only=True)
class InferAnswer:
    """An answer of either transport."""

    id: str
    model: str
    outputs: tuple[Output, ...] = field(default=())


def server_metadata(version: str) -> dict[str, Any]:
    """`GET /v2`."""
    return {"name": "scclip", "version": version, "extensions": ["binary_tensor_data"]}


def model_metadata(model: LoadedModel) -> dict[str, Any]:
    """`GET /v2/models/NAME`."""
    labels = "UINT8"
    default = model.vocabularies.default
    if default is not None and len(default.classes) > 254:
        labels = "UINT16"
    return {
        "name": model.name,
        "versions": [VERSION],
        "platform": "scclip",
        "inputs": [
            {"name": "image", "datatype": "BYTES", "shape": [1]},
            {"name": "classes", "datatype": "BYTES", "shape": [-1]},
        ],
        "outputs": [
            {"name": "labels", "datatype": labels, "shape": [-1, -1]},
            {"name": "class_names", "datatype": "BYTES", "shape": [-1]},
            {"name": "confidence", "datatype": "FP32", "shape": [-1, -1]},
            {
                "name": "features",
                "datatype": "FP32",
                "shape": [-1, -1, model.segmenter.bundle.model.embed_dim],
            },
        ],
    }


def read_request(body: bytes, header_length: str | None, *, model: str) -> InferRequest:
    """An HTTP body to a request.

    Args:
        body: JSON, and after it the binary tensors in the order of the inputs.
        header_length: of the JSON part, bytes; None where all is JSON; 0 where all is the image.
        model: from the URL.

    Raises:
        BadRequestError: says what is wrong with which part.
    """
    head, tail = _split(body, header_length)
    if not head:
        query = make_query(
            {}, [Tensor(name="image", shape=(1,), datatype="BYTES", data=[tail])], (), model=model
        )
        return InferRequest(id="", query=query, outputs=tuple((name, False) for name in DEFAULT_OUTPUTS))
    document = json_object(head)
    parameters = _object(document.get("parameters"), "parameters")
    tensors = list(_tensors(document.get("inputs"), tail))
    outputs = _outputs(document.get("outputs"), parameters)
    query = make_query(parameters, tensors, [name for name, _ in outputs], model=model)
    return InferRequest(id=text_of(document, "id") or "", query=query, outputs=outputs)


def make_query(
    parameters: Mapping[str, Any], tensors: Sequence[Tensor], outputs: Sequence[str], *, model: str
) -> Query:
    """Parameters and tensors of either transport to what is asked for.

    Raises:
        BadRequestError: an input is missing, unknown or of another type or shape, a parameter is unknown or no number.
    """
    strange = sorted(set(parameters) - PARAMETERS - _OF_THE_PROTOCOL)
    if strange:
        raise BadRequestError(f"unknown parameter {strange[0]!r}; there are {', '.join(sorted(PARAMETERS))}")
    inputs = {tensor.name: tensor for tensor in tensors}
    unknown = set(inputs) - {"image", "classes"}
    if unknown or len(inputs) < len(tensors):
        raise BadRequestError(f"inputs are `image` and `classes`, once each; got {[t.name for t in tensors]}")
    if "image" not in inputs:
        raise BadRequestError("the input `image` is missing: BYTES of an encoded file, or UINT8 (H, W, 3)")
    classes = strings_of(inputs["classes"]) if "classes" in inputs else None
    return Query(
        image=image_of(inputs["image"]),
        model=model,
        classes=classes,
        vocabulary=text_of(parameters, "vocabulary"),
        background=text_of(parameters, "background"),
        overrides=overrides_of(parameters),
        confidence="confidence" in outputs,
        features="features" in outputs,
    )


def overrides_of(parameters: Mapping[str, Any]) -> Overrides:
    """Settings of decoding out of parameters, form fields or a query string.

    Raises:
        BadRequestError: a value that is no number, or an unknown refinement.
    """
    refine = parameters.get("refine") or None
    if refine not in (None, "pamr", "none"):
        raise BadRequestError(f"refine must be pamr or none; got {refine!r}")
    return Overrides(
        logit_scale=_number(parameters, "logit_scale"),
        prob_threshold=_number(parameters, "prob_threshold"),
        area_threshold=_number(parameters, "area_threshold"),
        refine=refine,
    )


def image_of(tensor: Tensor) -> WireImage:
    """The input `image`.

    Raises:
        BadRequestError: another type or shape, or more than one image.
    """
    if tensor.datatype == "BYTES":
        files = _elements(tensor, base64_text=True)
        if len(files) != 1:
            raise BadRequestError(
                f"`image` must hold one file; got {len(files)}. Send a request for each: they are batched here"
            )
        return files[0]
    if tensor.datatype != "UINT8":
        raise BadRequestError(f"`image` must be BYTES or UINT8; got {tensor.datatype}")
    shape = tensor.shape[1:] if len(tensor.shape) == 4 and tensor.shape[0] == 1 else tensor.shape
    if len(shape) != 3 or shape[2] != 3 or min(shape) < 1:
        raise BadRequestError(f"`image` as UINT8 must be (height, width, 3) RGB; got {list(tensor.shape)}")
    if tensor.raw is not None:
        if len(tensor.raw) != shape[0] * shape[1] * 3:
            raise BadRequestError(
                f"`image` of shape {list(tensor.shape)} needs {shape[0] * shape[1] * 3:,} bytes; "
                f"got {len(tensor.raw):,}"
            )
        return np.frombuffer(tensor.raw, np.uint8).reshape(shape)
    try:
        values = np.asarray(tensor.data)
    except ValueError as error:
        raise BadRequestError("`image` as UINT8 must hold rows of equal length") from error
    if values.dtype.kind not in "iu":
        raise BadRequestError("`image` as UINT8 must hold whole numbers")
    if values.size != math.prod(shape) or not 0 <= values.min() <= values.max() <= 255:
        raise BadRequestError(
            f"`image` of shape {list(tensor.shape)} needs as many numbers from 0 to 255; got {values.size:,}"
        )
    return values.astype(np.uint8).reshape(shape)


def strings_of(tensor: Tensor) -> tuple[str, ...]:
    """A BYTES input as text.

    Raises:
        BadRequestError: another type, or not UTF-8.
    """
    if tensor.datatype != "BYTES":
        raise BadRequestError(f"`{tensor.name}` must be BYTES; got {tensor.datatype}")
    try:
        return tuple(element.decode("utf-8") for element in _elements(tensor, base64_text=False))
    except UnicodeDecodeError as error:
        raise BadRequestError(f"`{tensor.name}` must be UTF-8 text") from error


def answer_of(request: InferRequest, answer: Answer) -> InferAnswer:
    """In a worker: the result as tensors."""
    return InferAnswer(
        id=request.id,
        model=answer.model.name,
        outputs=tuple(_output(name, answer) for name, _ in request.outputs),
    )


def write_answer(request: InferRequest, answer: InferAnswer) -> Rendered:
    """In a worker: an answer as an HTTP body, binary where the request says so."""
    rows, tail = [], []
    for output, (_, binary) in zip(answer.outputs, request.outputs, strict=True):
        row: dict[str, Any] = {
            "name": output.name,
            "datatype": output.datatype,
            "shape": list(output.shape),
        }
        if binary:
            tail.append(output.raw())
            row["parameters"] = {"binary_data_size": len(tail[-1])}
        else:
            row["data"] = output.listed()
        rows.append(row)
    document: dict[str, Any] = {"model_name": answer.model, "model_version": VERSION, "outputs": rows}
    if answer.id:
        document["id"] = answer.id
    head = json_bytes(document)
    if not tail:
        return Rendered(body=head, media_type=JSON)
    return Rendered(body=b"".join([head, *tail]), media_type=RAW, headers={HEADER: str(len(head))})


def _output(name: str, answer: Answer) -> Output:
    result = answer.result
    if name == "labels":
        datatype = "UINT8" if result.labels.dtype == np.uint8 else "UINT16"
        return Output(name=name, datatype=datatype, shape=result.labels.shape, values=result.labels)
    if name == "class_names":
        return Output(name=name, datatype="BYTES", shape=(len(result.classes),), values=result.classes)
    features = None if answer.encoded is None else answer.encoded.features
    values = result.confidence if name == "confidence" else features
    if values is None:
        raise NotFoundError(f"this model gave no {name}")
    return Output(name=name, datatype="FP32", shape=values.shape, values=values)


def _split(body: bytes, header_length: str | None) -> tuple[bytes, bytes]:
    if header_length is None:
        return body, b""
    number = header_length.isascii() and header_length.isdigit() and len(header_length) <= _LENGTH_DIGITS
    if not number or int(header_length) > len(body):
        raise BadRequestError(
            f"{HEADER} must be the bytes of the JSON part, at most the body's {len(body):,}; "
            f"got {header_length[:40]!r}"
        )
    return body[: int(header_length)], body[int(header_length) :]


def _tensors(inputs: Any, tail: bytes) -> Iterator[Tensor]:
    if not isinstance(inputs, list):
        raise BadRequestError("`inputs` must be a list of tensors")
    start = 0
    for row in inputs:
        entry = _object(row, "an input")
        name, shape, datatype = entry.get("name"), entry.get("shape"), entry.get("datatype")
        if not isinstance(name, str) or not isinstance(datatype, str):
            raise BadRequestError("each input needs a `name`, a `datatype` and a `shape`")
        if not isinstance(shape, list) or not all(type(side) is int and side >= 0 for side in shape):
            raise BadRequestError(
                f"the shape of input {name!r} must be a list of whole numbers; got {shape!r}"
            )
        size = _object(entry.get("parameters"), f"parameters of {name!r}").get("binary_data_size")
        raw = None
        if size is not None:
            if type(size) is not int or not 0 <= size <= len(tail) - start:
                raise BadRequestError(
                    f"input {name!r} has binary_data_size {size!r}; {len(tail) - start:,} bytes are left"
                )
            raw = tail[start : start + size]
            start += size
        yield Tensor(name=name, shape=tuple(shape), datatype=datatype, raw=raw, data=entry.get("data"))
    if start != len(tail):
        raise BadRequestError(f"{len(tail) - start:,} bytes follow the last input")


def _outputs(outputs: Any, parameters: Mapping[str, Any]) -> tuple[tuple[str, bool], ...]:
    binary = flag(parameters, "binary_data_output")
    if outputs is None or outputs == []:
        return tuple((name, binary) for name in default_outputs(parameters))
    if not isinstance(outputs, list):
        raise BadRequestError("`outputs` must be a list")
    wanted = []
    for row in outputs:
        entry = _object(row, "an output")
        own = _object(entry.get("parameters"), "parameters of an output")
        wanted.append((check_output(entry.get("name"), own), flag(own, "binary_data", default=binary)))
    return tuple(wanted)


def default_outputs(parameters: Mapping[str, Any]) -> tuple[str, ...]:
    """The outputs of a request that lists none."""
    return (*DEFAULT_OUTPUTS, "confidence") if flag(parameters, "confidence") else DEFAULT_OUTPUTS


def check_output(name: object, parameters: Mapping[str, Any]) -> str:
    """The name of an output.

    Raises:
        BadRequestError: there is none of that name, or classes are to be counted in it.
    """
    if parameters.get("classification"):
        raise BadRequestError(
            "the classification extension doesn't go with label maps; leave out class_count"
        )
    if name not in OUTPUTS:
        raise BadRequestError(f"no output is called {name!r}; there are {', '.join(OUTPUTS)}")
    return str(name)


def check_version(version: str) -> None:
    """Refuse a version of a model that there is none of; no version is the only one.

    Raises:
        NotFoundError: it is another.
    """
    if version not in ("", VERSION):
        raise NotFoundError(f"there is version {VERSION} only; got {version!r}")


def _elements(tensor: Tensor, *, base64_text: bool) -> list[bytes]:
    """The elements of a BYTES tensor, as many as its shape says."""
    elements, wanted = list(_all_elements(tensor, base64_text=base64_text)), math.prod(tensor.shape)
    if len(elements) != wanted:
        raise BadRequestError(
            f"input {tensor.name!r} of shape {list(tensor.shape)} has {wanted:,} elements; got {len(elements):,}"
        )
    return elements


def _all_elements(tensor: Tensor, *, base64_text: bool) -> Iterator[bytes]:
    """In JSON files are base64, names are text."""
    if tensor.raw is not None:
        yield from unpack_bytes(tensor.raw, tensor.name)
        return
    data = tensor.data
    while isinstance(data, list) and len(data) == 1 and isinstance(data[0], list):
        data = data[0]
    if not isinstance(data, list):
        raise BadRequestError(f"input {tensor.name!r} has neither binary data nor a list `data`")
    for value in data:
        if isinstance(value, bytes):
            yield value
        elif not isinstance(value, str):
            raise BadRequestError(f"input {tensor.name!r} must hold strings; got {type(value).__name__}")
        elif not base64_text:
            yield value.encode()
        else:
            yield decode_base64(value, tensor.name)


def decode_base64(text: str, name: str) -> bytes:
    """Base64, with or without a `data:` prefix.

    Raises:
        BadRequestError: it is something else.
    """
    try:
        return base64.b64decode(text.partition(",")[2] if text.startswith("data:") else text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise BadRequestError(f"{name!r} is not base64: {error}") from error


def unpack_bytes(raw: bytes, name: str) -> Iterator[bytes]:
    """Elements with a length of four bytes before each.

    Raises:
        BadRequestError: a length that goes past the end.
    """
    start = 0
    while start < len(raw):
        if start + 4 > len(raw):
            raise BadRequestError(f"input {name!r} ends inside an element's length")
        (length,) = struct.unpack_from("<I", raw, start)
        start += 4
        if start + length > len(raw):
            raise BadRequestError(
                f"an element of input {name!r} says {length:,} bytes; {len(raw) - start:,} are left"
            )
        yield raw[start : start + length]
        start += length


def _with_length(element: bytes) -> bytes:
    return struct.pack("<I", len(element)) + element


def _object(value: Any, what: str) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise BadRequestError(f"{what} must be a JSON object; got {type(value).__name__}")
    return value


def json_object(body: bytes) -> dict[str, Any]:
    """A body as a JSON object.

    Raises:
        BadRequestError: it is something else.
    """
    try:
        content = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise BadRequestError(f"the body is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise BadRequestError("the body must be a JSON object")
    return content


def text_of(parameters: Mapping[str, Any], name: str) -> str | None:
    """A parameter that is a text; an empty one is none.

    Raises:
        BadRequestError: it is something else.
    """
    value = parameters.get(name)
    return None if value in (None, "") else string(value, name)


def string(value: Any, name: str) -> str:
    """A value that must be a text.

    Raises:
        BadRequestError: it is something else.
    """
    if not isinstance(value, str):
        raise BadRequestError(f"`{name}` must be text; got {type(value).__name__}")
    return value


def flag(parameters: Mapping[str, Any], name: str, *, default: bool = False) -> bool:
    """A parameter that is on or off.

    Raises:
        BadRequestError: it is neither.
    """
    value = parameters.get(name)
    if value is None:
        return default
    text = str(value).lower()
    if text not in _TRUE + _FALSE:
        raise BadRequestError(f"{name} must be 1 or 0; got {shorten(str(value))!r}")
    return text in _TRUE


def _number(parameters: Mapping[str, Any], name: str) -> float | None:
    value = parameters.get(name)
    if value is None or value == "":
        return None
    try:
        if isinstance(value, bool):
            raise TypeError
        return float(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise BadRequestError(f"{name} must be a number; got {shorten(str(value))!r}") from error
