"""Every route over a real socket, compared with what Python gives for the same image."""

import base64
import gzip
import io
import json
import socket
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from png_file import RGB, png_file
from scclip_rt import Segmenter
from scclip_rt.formats import FORMATS, encode
from scclip_rt.serving.plain import choose_media
from scclip_rt.serving.render import JSON, PNG, RAW
from scclip_rt.serving.settings import Limits, ServeSettings
from services import CLASSES, Running, picture, png, settings_of, wait_for

IMAGE = picture(1)
FILE = png(IMAGE)
MEMBERS = gzip.compress(FILE[:100]) + gzip.compress(b"") + gzip.compress(FILE[100:])


def labels_of(body: bytes) -> np.ndarray:
    return np.array(Image.open(io.BytesIO(body)))


def mask_of(rle: dict) -> np.ndarray:
    """COCO's compressed counts, by pycocotools."""
    from pycocotools import mask

    return mask.decode({"size": rle["size"], "counts": rle["counts"].encode()}).astype(bool)


@pytest.mark.parametrize("way", ["raw", "form", "json", "curl"])
def test_labels_are_those_of_python(running: Running, segmenter: Segmenter, way: str) -> None:
    expected = segmenter.with_classes(["red", "green"])(IMAGE)
    names = "red; green"
    post = running.client.post
    if way == "raw":
        reply = post(
            "/v1/segment", params={"classes": names}, content=FILE, headers={"Content-Type": "image/png"}
        )
    elif way == "curl":  # --data-binary calls everything a form
        kind = {"Content-Type": "application/x-www-form-urlencoded"}
        reply = post("/v1/segment", params={"classes": names}, content=FILE, headers=kind)
    elif way == "form":
        reply = post("/v1/segment", data={"classes": names}, files={"image": FILE})
    else:
        body = {"image": base64.b64encode(FILE).decode(), "classes": ["red", "green"]}
        reply = post("/v1/segment", json=body, headers={"Accept": "image/png"})
    assert reply.status_code == 200, reply.text
    image = Image.open(io.BytesIO(reply.content))
    assert image.mode == "P"
    assert np.array_equal(np.array(image), expected.labels)
    assert json.loads(image.text["scclip"])["classes"] == ["red", "green"]


def test_json_holds_coco_masks_boxes_and_shares(running: Running, segmenter: Segmenter) -> None:
    expected = segmenter(IMAGE, confidence=True)
    reply = running.client.post(
        "/v1/segment",
        params={"boxes": 1, "confidence": 1},
        content=FILE,
        headers={"Accept": "application/json"},
    ).json()
    assert reply["classes"] == ["red", "green", "blue", "background"]
    labels = np.full(expected.labels.shape, expected.unlabelled)
    for row in reply["segments"]:
        mask = mask_of(row["rle"])
        labels[mask] = row["label"]
        ys, xs = np.nonzero(mask)
        assert row["box"] == [xs.min(), ys.min(), np.ptp(xs) + 1, np.ptp(ys) + 1]
        assert row["share"] == pytest.approx(expected.shares()[row["name"]])
    assert np.array_equal(labels, expected.labels)
    grey = labels_of(base64.b64decode(reply["confidence_png"]))
    assert np.abs(grey / 255 - expected.confidence).max() < 0.51 / 255


@pytest.mark.parametrize("name", FORMATS)
def test_labels_come_in_every_format(name: str, running: Running, segmenter: Segmenter) -> None:
    reply = running.client.post(
        "/v1/segment", params={"classes": "red; green", "format": name, "name": "photos/a.png"}, content=FILE
    )
    expected = encode(name, segmenter.with_classes(["red", "green"])(IMAGE), file_name="photos/a.png")
    assert reply.headers["content-type"].split(";")[0] == expected.media_type
    if expected.media_type == "application/zip":  # which holds the time
        ours, theirs = (zipfile.ZipFile(io.BytesIO(data)) for data in (reply.content, expected.data))
        assert [ours.read(file) for file in theirs.namelist()] == [
            theirs.read(file) for file in theirs.namelist()
        ]
    elif name != "npz":  # a ZIP archive inside
        assert reply.content == expected.data


def test_an_unknown_format_is_refused(running: Running) -> None:
    reply = running.client.post("/v1/segment", params={"format": "shapefile"}, content=FILE)
    assert reply.status_code == 400
    assert "unknown format 'shapefile'" in reply.text


def test_raw_labels_say_their_shape(running: Running, segmenter: Segmenter) -> None:
    reply = running.client.post("/v1/segment", content=FILE, headers={"Accept": "application/octet-stream"})
    height, width = map(int, reply.headers["x-labels-shape"].split(","))
    values = np.frombuffer(reply.content, reply.headers["x-labels-dtype"])
    assert np.array_equal(values.reshape(height, width), segmenter(IMAGE).labels)


def test_overlay_is_the_picture(running: Running, segmenter: Segmenter) -> None:
    reply = running.client.post("/v1/segment", params={"overlay": 1, "legend": 0}, content=FILE)
    assert np.array_equal(labels_of(reply.content), segmenter(IMAGE).overlay(legend=False))


def test_settings_and_background_of_a_request(running: Running, segmenter: Segmenter) -> None:
    from dataclasses import replace

    plain = segmenter.with_classes(["red", "green"], background="green")
    expected = plain.with_options(replace(plain.options, prob_threshold=0.9, refine="pamr"))(IMAGE)
    parameters = {
        "classes": "red\ngreen", "background": "green", "prob_threshold": "0.9", "refine": "pamr",
    }  # fmt: skip
    reply = running.client.post("/v1/segment", params=parameters, content=FILE)
    assert np.array_equal(labels_of(reply.content), expected.labels)


def test_a_vocabulary_is_embedded_once_and_asked_for_by_name(running: Running, segmenter: Segmenter) -> None:
    made = running.client.post("/v1/vocabularies", json={"classes": ["sea", "sun, star"]})
    assert made.status_code == 201
    name = made.json()["name"]
    assert made.json()["queries"] == 3
    listed = running.client.get("/v1/vocabularies").json()["vocabularies"]
    assert name in [row["name"] for row in listed]
    reply = running.client.post("/v1/segment", params={"vocabulary": name}, content=FILE)
    expected = segmenter.with_classes(["sea", "sun, star"])(IMAGE)
    assert np.array_equal(labels_of(reply.content), expected.labels)


def test_the_same_image_with_other_classes_needs_no_encoding(running: Running) -> None:
    file = png(picture(77))
    running.client.post("/v1/segment", content=file)
    before = _metric(running.client, "scclip_feature_cache_hits_total")
    running.client.post("/v1/segment", params={"classes": "a; b"}, content=file)
    assert _metric(running.client, "scclip_feature_cache_hits_total") == before + 1


@pytest.mark.parametrize(
    ("request_", "status", "message"),
    [
        ({"content": b""}, 400, "empty"),
        ({"content": b"no picture at all"}, 415, "known format"),
        ({"content": FILE[:300]}, 400, "cut off"),
        ({"content": FILE, "params": {"clases": "a"}}, 400, "unknown parameter 'clases'"),
        ({"content": FILE, "params": {"classes": "a; a"}}, 400, "two classes"),
        ({"content": FILE, "params": {"classes": "a", "vocabulary": "b"}}, 400, "not both"),
        ({"content": FILE, "params": {"vocabulary": "b"}}, 404, "no vocabulary"),
        ({"content": FILE, "params": {"model": "huge"}}, 404, "no model"),
        ({"content": FILE, "params": {"prob_threshold": "7"}}, 400, "from 0 to 1"),
        ({"content": FILE, "params": {"prob_threshold": "x"}}, 400, "number"),
        ({"content": FILE, "params": {"confidence": "maybe"}}, 400, "1 or 0"),
        ({"content": FILE, "params": {"classes": "/etc/passwd"}}, 200, ""),
        ({"content": FILE, "params": {"classes": "a" * 300}}, 400, "300 characters"),
        ({"content": FILE, "params": {"classes": ";".join(f"n{i}" for i in range(21))}}, 413, "21 class names"),
        ({"content": FILE, "headers": {"Accept": "text/html"}}, 406, "accepts"),
        ({"content": FILE, "headers": {"Content-Encoding": "br"}}, 415, "content coding"),
        ({"content": FILE, "headers": {"Content-Encoding": "gzip"}}, 400, "gzip"),
        ({"content": bytes(2 << 20)}, 413, "larger"),
        ({"content": gzip.compress(bytes(2 << 20)), "headers": {"Content-Encoding": "gzip"}}, 413, "larger"),
        ({"content": png(np.zeros((700, 700, 3), np.uint8))}, 413, "490,000 pixels"),
        ({"data": {"classes": "a"}, "files": {"other": FILE}}, 400, "called `image`"),
        ({"files": {"image": FILE, "classes": b"a"}}, 400, "got 'image', 'classes'"),
        ({"files": [("image", FILE), ("image", FILE)]}, 400, "'image' comes 2 times"),
        ({"content": FILE, "params": [("classes", "a"), ("classes", "b")]}, 400, "'classes' comes 2 times"),
        ({"json": {"image": base64.b64encode(FILE).decode(), "classes": 5}}, 400, "`classes` must be text"),
        ({"json": {"image": base64.b64encode(FILE).decode(), "name": {}}}, 400, "`name` must be text"),
        ({"content": gzip.compress(FILE) + b"x", "headers": {"Content-Encoding": "gzip"}}, 400, "1 bytes follow"),
        ({"content": gzip.compress(FILE), "headers": {"Content-Encoding": "X-GZIP"}}, 200, ""),
        ({"content": MEMBERS, "headers": {"Content-Encoding": "gzip"}}, 200, ""),
        ({"content": MEMBERS[:-1], "headers": {"Content-Encoding": "gzip"}}, 400, "cut off"),
        ({"content": MEMBERS + b"xy", "headers": {"Content-Encoding": "gzip"}}, 400, "2 bytes follow"),
        ({"content": 2 * gzip.compress(bytes(600_000)), "headers": {"Content-Encoding": "gzip"}}, 413, "larger"),
        ({"content": 10_001 * gzip.compress(b""), "headers": {"Content-Encoding": "gzip"}}, 400, "10,000 members"),
        ({"content": zlib.compress(FILE), "headers": {"Content-Encoding": "deflate"}}, 200, ""),
        ({"content": 2 * zlib.compress(FILE), "headers": {"Content-Encoding": "deflate"}}, 400, "bytes follow"),
        ({"content": b"--x", "headers": {"Content-Type": "multipart/form-data; boundary=x"}}, 400, "form"),
        ({"json": {"image": "%%%"}}, 400, "base64"),
        ({"json": {"image": base64.b64encode(FILE).decode(), "classes": [1]}}, 400, "text"),
        ({"content": b"{", "headers": {"Content-Type": "application/json"}}, 400, "JSON"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_with_a_status(
    running: Running, request_: dict, status: int, message: str
) -> None:
    reply = running.client.post("/v1/segment", **request_)
    assert reply.status_code == status, reply.text[:200]
    if status != 200:
        assert message in reply.json()["error"]
    assert running.client.get("/v2/health/live").status_code == 200


@pytest.mark.parametrize(
    ("accept", "media"),
    [
        ([], PNG),
        (["text/html, */*;q=0.8"], PNG),
        (["application/json, image/png"], JSON),
        (["image/png;q=0.5, application/json;q=0.9"], JSON),
        (["*/*, image/png;q=0"], JSON),
        (["application/*"], JSON),
        (["application/*, application/json;q=0.1"], RAW),
        (["text/plain", "application/octet-stream"], RAW),
        (["image/png;q=nan, application/json;q=0.1"], JSON),
    ],
)
def test_the_accept_header_chooses(accept: list[str], media: str) -> None:
    assert choose_media(accept) == media


def test_a_format_is_what_was_asked_for_whatever_is_accepted(running: Running) -> None:
    reply = running.client.post(
        "/v1/segment", params={"format": "cvat"}, content=FILE, headers={"Accept": "application/xml"}
    )
    assert reply.headers["content-type"] == "application/xml"


def test_a_vocabulary_has_no_other_settings(running: Running) -> None:
    reply = running.client.post("/v1/vocabularies", json={"classes": ["a"], "name": "mine"})
    assert (reply.status_code, "unknown parameter 'name'" in reply.text) == (400, True)


def test_a_bomb_is_refused_by_its_header(running: Running) -> None:
    """A PNG of 60,000 × 60,000 pixels in 100 bytes."""
    bomb = png_file(60_000, 60_000, bits=8, colour=RGB, rows=b"\0")
    reply = running.client.post("/v1/segment", content=bomb)
    assert reply.status_code == 413


def test_unknown_routes_and_methods_answer_as_json(running: Running) -> None:
    assert running.client.get("/v3").json()["error"].startswith("Not Found")
    assert running.client.get("/v1/segment").status_code == 405
    assert "lists the routes" in running.client.post("/v1/segment/", content=FILE).json()["error"]


def test_a_request_id_is_taken_or_made(running: Running) -> None:
    get = running.client.get
    assert get("/v2", headers={"X-Request-Id": "mine-7"}).headers["x-request-id"] == "mine-7"
    assert len(get("/v2", headers={"X-Request-Id": "no good\tone"}).headers["x-request-id"]) == 32


def test_the_description_lists_every_route(running: Running) -> None:
    from scclip_rt.serving.asgi import Routes

    described = running.client.get("/openapi.json").json()["paths"]
    page = {"/", "/page.css", "/page.js", "/sample.png", "/favicon.svg", "/openapi.json"}
    routes = {route.path for route in Routes(running.service).table() if "{version}" not in route.path}
    assert routes - page == set(described)


def test_metrics_count_requests_stages_and_batches(running: Running) -> None:
    running.client.post("/v1/segment", content=FILE)
    text = running.client.get("/metrics").text
    for name in (
        'scclip_requests_total{route="/v1/segment",status="200"}', 'scclip_stage_seconds_count{stage="finish"}',
        "scclip_queue_depth", "scclip_batch_fill_bucket", 'scclip_images_total{model="tiny"}', "scclip_resident_bytes",
    ):  # fmt: skip
        assert name in text
    assert _metric(running.client, "scclip_resident_bytes") > 1e6


def test_a_key_is_wanted_everywhere_but_for_health_and_the_page(
    bundle_path: Path, start: Callable[[ServeSettings], Running]
) -> None:
    client = start(settings_of(bundle_path, api_key="s3cret", cors=("https://a.example",))).client
    refused = client.get("/v1/models")
    assert (refused.status_code, refused.headers["www-authenticate"]) == (401, "Bearer")
    basic = base64.b64encode(b"anyone:s3cret").decode()
    for headers in (
        {"X-API-Key": "s3cret"}, {"Authorization": "Bearer s3cret"}, {"Token": "s3cret"},
        {"Authorization": f"Basic {basic}"},
    ):  # fmt: skip
        assert client.get("/v1/models", headers=headers).status_code == 200
    for headers in ({"X-API-Key": "s3cre"}, {"Authorization": "Basic !"}, {"Authorization": "Bearer"}):
        assert client.get("/v1/models", headers=headers).status_code == 401
    assert [client.get(path).status_code for path in ("/", "/v2/health/ready", "/health")] == [200] * 3
    allowed = client.get("/v2/health/live", headers={"Origin": "https://a.example"})
    assert allowed.headers["access-control-allow-origin"] == "https://a.example"
    assert "X-Labels-Unlabelled" in allowed.headers["access-control-expose-headers"]
    assert (
        "access-control-allow-origin" not in client.get("/", headers={"Origin": "https://b.example"}).headers
    )


def test_the_page_allows_no_other_address(running: Running) -> None:
    reply = running.client.get("/")
    assert "default-src 'none'" in reply.headers["content-security-policy"]
    assert "http" not in reply.text.replace("http-equiv", "")


def test_deadlines_and_full_queues_have_their_codes(
    bundle_path: Path, start: Callable[[ServeSettings], Running]
) -> None:
    limits = Limits(queue=2, timeout=0.5)
    running = start(settings_of(bundle_path, limits=limits))
    lock = running.service.engine._wake  # while it is held no thread of the engine gets on
    with lock, httpx.Client(base_url=running.client.base_url, timeout=30) as client:
        jobs = running.service.engine
        jobs._jobs += 2
        refused = client.post("/v1/segment", content=FILE)
        jobs._jobs -= 2
    assert refused.status_code == 503
    assert int(refused.headers["retry-after"]) >= 1
    running.service.engine._may_prepare = lambda: False  # type: ignore[method-assign]
    late = running.client.post("/v1/segment", content=FILE)
    assert late.status_code == 504
    assert "0.5 s" in late.json()["error"]


def test_a_body_that_does_not_arrive_in_time_is_408(
    bundle_path: Path, start: Callable[[ServeSettings], Running]
) -> None:
    running = start(settings_of(bundle_path, limits=Limits(timeout=0.3)))
    with socket.create_connection(running.address) as connection:
        connection.sendall(b"POST /v1/segment HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nabc")
        assert connection.recv(1000).startswith(b"HTTP/1.1 408")


def test_work_of_a_client_that_has_gone_is_not_done(
    bundle_path: Path, start: Callable[[ServeSettings], Running]
) -> None:
    running = start(settings_of(bundle_path))
    engine = running.service.engine
    engine._may_prepare = lambda: False  # type: ignore[method-assign]
    head = f"POST /v1/segment HTTP/1.1\r\nHost: a\r\nContent-Length: {len(FILE)}\r\n\r\n".encode()
    with socket.create_connection(running.address) as connection:
        connection.sendall(head + FILE)
        wait_for(lambda: engine.waiting == 1)
    wait_for(lambda: engine._waiting[0].gone)
    del engine._may_prepare  # type: ignore[method-assign]
    with engine._wake:
        engine._wake.notify_all()
    wait_for(lambda: engine.jobs == 0)
    assert _metric(running.client, "scclip_images_total") == 0


def test_one_byte_at_a_time_is_a_body_like_any_other(running: Running) -> None:
    small = png(picture(3, 32, 32))
    reply = running.client.post("/v1/segment", content=(small[i : i + 1] for i in range(len(small))))
    assert reply.status_code == 200


def test_mounted_in_another_application(bundle_path: Path) -> None:
    """Starlette does not pass the lifespan on to what is mounted."""
    from starlette.applications import Starlette
    from starlette.routing import Mount
    from starlette.testclient import TestClient

    from scclip_rt.serving import app

    mounted = app(bundle_path, classes=list(CLASSES))
    try:
        client = TestClient(Starlette(routes=[Mount("/inner", mounted)]))
        wait_for(lambda: mounted.service.ready)
        assert client.post("/inner/v1/segment", content=FILE).status_code == 200
        assert "page.js" in client.get("/inner/").text
    finally:
        mounted.service.close()


def _metric(client: httpx.Client, name: str) -> float:
    values = [line.split()[-1] for line in client.get("/metrics").text.splitlines() if line.startswith(name)]
    return sum(map(float, values))
