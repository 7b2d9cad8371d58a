"""The Open Inference Protocol: bodies as clients write them, over HTTP and gRPC."""

import base64
import json
import struct
from collections.abc import Iterator

import grpc
import numpy as np
import pytest

from scclip_rt import Segmenter
from scclip_rt.serving.errors import BadRequestError
from scclip_rt.serving.grpc_server import GrpcServer, load_messages
from scclip_rt.serving.kserve import HEADER, read_request
from services import Running, picture, png

IMAGE = picture(2)
FILE = png(IMAGE)
URL = "/v2/models/tiny/infer"


def binary(*elements: bytes) -> bytes:
    """A BYTES tensor: a length of four bytes before each element."""
    return b"".join(struct.pack("<I", len(element)) + element for element in elements)


def body(inputs: list[tuple[str, str, list[int], bytes]], **more: object) -> tuple[bytes, dict[str, str]]:
    """A request as Triton's client sends it: JSON, then binary tensors; no content type."""
    rows = [
        {"name": name, "datatype": kind, "shape": shape, "parameters": {"binary_data_size": len(raw)}}
        for name, kind, shape, raw in inputs
    ]
    head = json.dumps({"inputs": rows, **more}).encode()
    return head + b"".join(raw for *_, raw in inputs), {HEADER: str(len(head))}


def tensors(reply: object) -> dict[str, np.ndarray | list[bytes]]:
    """An answer's tensors, whether JSON or binary."""
    length = int(reply.headers.get(HEADER, len(reply.content)))
    document, tail, start, found = json.loads(reply.content[:length]), reply.content[length:], 0, {}
    types = {"UINT8": np.uint8, "UINT16": np.uint16, "FP32": np.float32}
    for row in document["outputs"]:
        size = row.get("parameters", {}).get("binary_data_size")
        raw = tail[start : start + size] if size is not None else None
        start += size or 0
        if row["datatype"] == "BYTES":
            found[row["name"]] = row["data"] if raw is None else unpacked(raw)
        elif raw is None:
            found[row["name"]] = np.array(row["data"], types[row["datatype"]]).reshape(row["shape"])
        else:
            found[row["name"]] = np.frombuffer(raw, types[row["datatype"]]).reshape(row["shape"])
    assert start == len(tail)
    return found


def unpacked(raw: bytes) -> list[str]:
    found, start = [], 0
    while start < len(raw):
        (length,) = struct.unpack_from("<I", raw, start)
        found.append(raw[start + 4 : start + 4 + length].decode())
        start += 4 + length
    return found


def test_a_file_as_bytes_gives_labels_and_names(running: Running, segmenter: Segmenter) -> None:
    content, headers = body([("image", "BYTES", [1], binary(FILE))], parameters={"binary_data_output": True})
    reply = running.client.post(URL, content=content, headers=headers)
    found = tensors(reply)
    assert reply.headers["content-type"] == "application/octet-stream"
    assert np.array_equal(found["labels"], segmenter(IMAGE).labels)
    assert found["class_names"] == ["red", "green", "blue", "background"]


@pytest.mark.parametrize("leading", [[], [1]])
def test_pixels_and_classes_give_every_output(
    running: Running, segmenter: Segmenter, leading: list[int]
) -> None:
    inputs = [
        ("image", "UINT8", [*leading, *IMAGE.shape], IMAGE.tobytes()),
        ("classes", "BYTES", [2], binary(b"red", "grün, green".encode())),
    ]
    outputs = [{"name": name} for name in ("features", "labels", "confidence", "class_names")]
    outputs[1]["parameters"] = {"binary_data": True}
    content, headers = body(inputs, outputs=outputs, id="41", parameters={"prob_threshold": 0.8})
    reply = running.client.post("/v2/models/tiny/versions/1/infer", content=content, headers=headers)
    found = tensors(reply)
    from dataclasses import replace

    strict = segmenter.with_options(replace(segmenter.options, prob_threshold=0.8))
    expected = strict.with_classes(["red", "grün, green"])(IMAGE, confidence=True)
    assert list(found) == ["features", "labels", "confidence", "class_names"]
    assert np.array_equal(found["labels"], expected.labels)
    assert np.array_equal(found["confidence"], expected.confidence)
    assert np.array_equal(found["features"], segmenter.encode(IMAGE).features)
    assert found["class_names"] == ["red", "grün"]


@pytest.mark.parametrize("kind", ["BYTES", "UINT8"])
def test_all_as_json(running: Running, segmenter: Segmenter, kind: str) -> None:
    data = [base64.b64encode(FILE).decode()] if kind == "BYTES" else IMAGE.ravel().tolist()
    shape = [1] if kind == "BYTES" else list(IMAGE.shape)
    row = {"name": "image", "datatype": kind, "shape": shape, "data": data}
    found = tensors(running.client.post(URL, json={"inputs": [row]}))
    assert np.array_equal(found["labels"], segmenter(IMAGE).labels)


def test_a_header_length_of_zero_makes_the_body_the_image(running: Running, segmenter: Segmenter) -> None:
    found = tensors(running.client.post(URL, content=FILE, headers={HEADER: "0"}))
    assert np.array_equal(found["labels"], segmenter(IMAGE).labels)


def test_metadata_and_readiness(running: Running) -> None:
    client = running.client
    assert client.get("/v2").json()["extensions"] == ["binary_tensor_data"]
    assert client.get("/v2/models/tiny/ready").json()["ready"]
    assert client.get("/v2/models/other/ready").status_code == 404
    assert client.get("/v2/models/tiny/versions/2").status_code == 404
    model = client.get("/v2/models/tiny").json()
    assert [row["name"] for row in model["inputs"]] == ["image", "classes"]
    assert model["outputs"][0] == {"name": "labels", "datatype": "UINT8", "shape": [-1, -1]}
    assert client.post("/v2/repository/index").json()[0]["state"] == "READY"


IMAGE_ROW = ("image", "BYTES", [1], binary(FILE))


@pytest.mark.parametrize(
    ("content", "headers", "message"),
    [
        (*body([]), "`image` is missing"),
        (*body([("picture", "BYTES", [1], b"")]), "picture"),
        (*body([IMAGE_ROW, IMAGE_ROW]), "once each"),
        (*body([("image", "BYTES", [2], binary(FILE, FILE))]), "one file; got 2"),
        (*body([("image", "FP32", [1], bytes(4))]), "FP32"),
        (*body([("image", "UINT8", [2, 2, 4], bytes(16))]), "(height, width, 3)"),
        (*body([("image", "UINT8", [2, 2, 3], bytes(11))]), "needs 12 bytes; got 11"),
        (*body([("image", "BYTES", [1], binary(FILE)[:9])]), "says"),
        (*body([("image", "BYTES", [1], b"ab")]), "inside an element's length"),
        (*body([IMAGE_ROW, ("classes", "BYTES", [1], binary(b"\xff"))]), "UTF-8"),
        (*body([IMAGE_ROW, ("classes", "INT32", [1], bytes(4))]), "`classes` must be BYTES"),
        (*body([IMAGE_ROW], outputs=[{"name": "masks"}]), "no output is called 'masks'"),
        (*body([IMAGE_ROW], outputs=[{"name": "labels", "parameters": {"classification": 3}}]), "classification"),
        (*body([IMAGE_ROW], parameters={"prob_treshold": 1}), "unknown parameter 'prob_treshold'"),
        (*body([IMAGE_ROW], parameters={"refine": "crf"}), "refine"),
        (*body([IMAGE_ROW], parameters=[1]), "JSON object"),
        (b"[]", {}, "JSON object"),
        (b"{", {}, "not JSON"),
        (b'{"inputs": 3}', {}, "list"),
        (b'{"inputs": [{"name": "image", "datatype": "BYTES", "shape": [-1], "data": []}]}', {}, "whole numbers"),
        (b'{"inputs": [{"name": "image", "datatype": "BYTES", "shape": [1]}]}', {}, "neither binary data nor"),
        (b'{"inputs": [{"name": "image", "datatype": "UINT8", "shape": [1, 1, 3], "data": [1, 2, 300]}]}', {}, "255"),
        (b'{"inputs": [{"name": "image", "datatype": "UINT8", "shape": [1, 1, 3], "data": [1, 2, 1.5]}]}', {}, "whole"),
        (b'{"inputs": [{"name": "image", "datatype": "UINT8", "shape": [1, 1, 3], "data": ["1", "2"]}]}', {}, "whole"),
        (
            b'{"inputs": [{"name": "image", "datatype": "UINT8", "shape": [4294967296, 4294967296, 3], "data": []}]}',
            {}, "whole",
        ),
        (*body([IMAGE_ROW, ("classes", "BYTES", [3], binary(b"a", b"b"))]), "has 3 elements; got 2"),
        (*body([IMAGE_ROW], id=7), "`id` must be text"),
        (*body([IMAGE_ROW], outputs={}), "`outputs` must be a list"),
        (*body([IMAGE_ROW], parameters={"binary_data_output": "maybe"}), "1 or 0"),
        (*body([IMAGE_ROW], parameters={"prob_threshold": True}), "must be a number"),
        (b"abc", {HEADER: "4"}, "at most the body's 3"),
        (b"abc", {HEADER: "9" * 5000}, HEADER),
        (b"abc", {HEADER: "-1"}, HEADER),
        (body([IMAGE_ROW])[0] + b"x", body([IMAGE_ROW])[1], "follow the last input"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_request(content: bytes, headers: dict[str, str], message: str) -> None:
    with pytest.raises(BadRequestError, match=None) as error:
        read_request(content, headers.get(HEADER), model="tiny")
    assert message in str(error.value)


def test_flags_are_read_as_such_and_an_id_may_be_null() -> None:
    content, headers = body(
        [IMAGE_ROW], id=None, parameters={"binary_data_output": "false", "confidence": True}
    )
    request = read_request(content, headers[HEADER], model="tiny")
    assert request.id == ""
    assert request.outputs == (("labels", False), ("class_names", False), ("confidence", False))
    assert request.query.confidence


def test_pixels_of_two_shapes_are_two_images(running: Running) -> None:
    """The cache of features must not take one for the other: their bytes are the same."""
    for shape in ((64, 96, 3), (96, 64, 3)):
        content, headers = body([("image", "UINT8", list(shape), bytes(64 * 96 * 3))])
        labels = tensors(running.client.post(URL, content=content, headers=headers))["labels"]
        assert labels.shape == shape[:2]


@pytest.fixture(scope="module")
def call(running: Running) -> Iterator[object]:
    """Calls the shared service over gRPC: `call("ModelInfer", …)`."""
    import asyncio
    import threading

    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    server = GrpcServer(running.service, host="127.0.0.1", port=0)
    asyncio.run_coroutine_threadsafe(server.start(), loop).result(30)
    messages = load_messages()
    with grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:

        def ask(method: str, /, **fields: object) -> object:
            send = channel.unary_unary(
                f"/inference.GRPCInferenceService/{method}",
                request_serializer=lambda message: message.SerializeToString(),
                response_deserializer=messages[f"{method}Response"].FromString,
            )
            return send(messages[f"{method}Request"](**fields), timeout=30)

        yield ask
    asyncio.run_coroutine_threadsafe(server.stop(), loop).result(30)
    loop.call_soon_threadsafe(loop.stop)
    thread.join(30)


def test_grpc_gives_the_labels_of_http(call: object, segmenter: Segmenter) -> None:
    inputs = [
        {"name": "image", "datatype": "BYTES", "shape": [1]},
        {"name": "classes", "datatype": "BYTES", "shape": [2]},
    ]
    reply = call(
        "ModelInfer",
        model_name="tiny",
        id="5",
        inputs=inputs,
        raw_input_contents=[binary(FILE), binary(b"red", b"green")],
        parameters={"prob_threshold": {"double_param": 0.0}},
    )
    expected = segmenter.with_classes(["red", "green"])(IMAGE).labels
    assert reply.id == "5"
    labels = np.frombuffer(reply.raw_output_contents[0], np.uint8).reshape(tuple(reply.outputs[0].shape))
    assert np.array_equal(labels, expected)
    assert unpacked(reply.raw_output_contents[1]) == ["red", "green"]


def test_grpc_takes_typed_contents(call: object, segmenter: Segmenter) -> None:
    pixels = {"uint_contents": IMAGE.ravel().tolist()}
    row = {"name": "image", "datatype": "UINT8", "shape": IMAGE.shape, "contents": pixels}
    reply = call("ModelInfer", model_name="tiny", inputs=[row], outputs=[{"name": "labels"}])
    labels = np.frombuffer(reply.raw_output_contents[0], np.uint8).reshape(tuple(reply.outputs[0].shape))
    assert np.array_equal(labels, segmenter(IMAGE).labels)


def test_grpc_errors_have_their_codes(call: object) -> None:
    assert call("ServerLive").live
    assert call("ServerReady").ready
    assert call("ModelReady", name="tiny").ready
    assert call("ServerMetadata").name == "scclip"
    assert call("ModelMetadata", name="tiny").inputs[0].datatype == "BYTES"
    row = {"name": "image", "datatype": "BYTES", "shape": [1]}
    for fields, code in (
        ({"model_name": "other", "inputs": [row], "raw_input_contents": [binary(FILE)]}, grpc.StatusCode.NOT_FOUND),
        ({"model_name": "tiny", "inputs": []}, grpc.StatusCode.INVALID_ARGUMENT),
        ({"model_name": "tiny", "inputs": [row], "raw_input_contents": [b"", b""]}, grpc.StatusCode.INVALID_ARGUMENT),
        (
            {"model_name": "tiny", "inputs": [row], "raw_input_contents": [binary(b"no image")]},
            grpc.StatusCode.INVALID_ARGUMENT,
        ),
        (
            {
                "model_name": "tiny", "inputs": [row], "raw_input_contents": [binary(FILE)],
                "outputs": [{"name": "labels", "parameters": {"classification": {"int64_param": 3}}}],
            },
            grpc.StatusCode.INVALID_ARGUMENT,
        ),
        ({"model_name": "tiny", "model_version": "7"}, grpc.StatusCode.NOT_FOUND),
    ):  # fmt: skip
        with pytest.raises(grpc.RpcError) as error:
            call("ModelInfer", **fields)
        assert error.value.code() == code
