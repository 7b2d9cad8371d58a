"""Labelling tools: what each sends, and what it reads in the answer."""

import base64
import http.server
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
import shapely

from label_maps import rle_unpack
from scclip_rt import Segmenter
from scclip_rt.serving.adapters.anylabeling import prompt_classes, simplified
from scclip_rt.serving.adapters.label_studio import LabelConfig
from scclip_rt.serving.errors import BadRequestError
from scclip_rt.serving.settings import ServeSettings
from services import Running, picture, png, settings_of

IMAGE = picture(5)
FILE = png(IMAGE)
DATA = "data:image/png;base64," + base64.b64encode(FILE).decode()
CONFIG = """<View>
  <Image name="photo" value="$url"/>
  <BrushLabels name="tag" toName="photo"><Label value="red"/><Label value="blue"/></BrushLabels>
</View>"""


def test_anylabeling_lists_models_with_a_text_box(running: Running) -> None:
    model = running.client.get("/v1/models").json()["data"]["tiny"]
    assert model["batch_processing_mode"] == "text_prompt"
    assert "edit_text" in [widget["name"] for widget in model["widgets"]]


def test_anylabeling_gets_polygons_that_cover_the_labels(running: Running, segmenter: Segmenter) -> None:
    body = {"model": "tiny", "image": DATA, "params": {"text_prompt": "red,green", "epsilon_factor": 0.0}}
    reply = running.client.post("/v1/predict", json=body).json()
    assert reply["success"]
    expected = segmenter.with_classes(["red", "green"])(IMAGE)
    drawn = np.full(expected.labels.shape, 255, np.uint8)
    for shape in reply["data"]["shapes"]:  # outlines run along pixels' edges
        points = np.array(shape["points"])
        inside = np.zeros(drawn.shape, np.uint8)
        cv2.fillPoly(inside, [points * 16 - 8], 1, shift=4)
        drawn[inside > 0] = ["red", "green"].index(shape["label"])
        assert shape["shape_type"] == "polygon"
        assert 0 < shape["score"] <= 1
    assert (drawn == expected.labels).mean() > 0.97


@pytest.mark.parametrize("tolerance", [0.0, 0.7, 2.5, 40.0])
def test_outlines_are_simplified_within_the_tolerance(tolerance: float) -> None:
    turn = np.linspace(0, 2 * np.pi, 400, endpoint=False)
    radius = 60 + 12 * np.cos(5 * turn) + np.random.default_rng(0).normal(0, 0.5, 400)
    ring = np.round(100 + radius[:, None] * np.stack((np.cos(turn), np.sin(turn)), axis=1)).astype(np.int64)
    fewer = simplified(ring, tolerance)
    assert len(fewer) == 400 if tolerance == 0 else 3 <= len(fewer) < 200
    assert {tuple(point) for point in fewer.tolist()} <= {tuple(point) for point in ring.tolist()}
    outline = shapely.LinearRing(fewer) if tolerance else shapely.LinearRing(ring)
    assert shapely.distance(shapely.points(ring), outline).max() <= tolerance


def test_anylabeling_reads_errors_in_its_own_form(running: Running) -> None:
    reply = running.client.post("/v1/predict", json={"model": "tiny", "image": "?"})
    assert (reply.status_code, reply.json()["success"]) == (400, False)
    assert "base64" in reply.json()["error"]["message"]
    reply = running.client.post("/v1/predict", json={"model": ["tiny"], "image": DATA})
    assert (reply.status_code, reply.json()["error"]["message"]) == (400, "`model` must be text; got list")


@pytest.mark.parametrize(
    ("prompt", "classes"),
    [
        ("cat,dog", ("cat", "dog")),
        ("cat . dog", ("cat", "dog")),
        ("cat; dog, puppy", ("cat", "dog, puppy")),
        ("", ()),
    ],
)
def test_a_prompt_is_a_list_of_classes(prompt: str, classes: tuple[str, ...]) -> None:
    assert prompt_classes(prompt) == classes


def test_label_studio_gets_brush_masks_of_its_labels(running: Running, segmenter: Segmenter) -> None:
    setup = running.client.post("/setup", json={"project": "1", "schema": CONFIG}).json()
    body = {"tasks": [{"id": 1, "data": {"url": DATA}}], "label_config": CONFIG, "project": "1"}
    reply = running.client.post("/predict", json=body).json()
    (prediction,) = reply["results"]
    assert prediction["model_version"] == reply["model_version"] == setup["model_version"]
    expected = segmenter(IMAGE)  # the server's list has both labels
    for row in prediction["result"]:
        (name,) = row["value"]["brushlabels"]
        assert (row["from_name"], row["to_name"], row["type"]) == ("tag", "photo", "brushlabels")
        mask = rle_unpack(row["value"]["rle"]).reshape(*IMAGE.shape[:2], 4)[..., 3] > 0
        assert np.array_equal(mask, expected.labels == expected.classes.index(name))
    names = {row["value"]["brushlabels"][0] for row in prediction["result"]}
    assert names == set(expected.shares()) & {"red", "blue"}
    assert running.client.get("/health").json()["status"] == "UP"
    assert running.client.post("/webhook", json={"action": "PROJECT_UPDATED"}).status_code == 200


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (None, "XML"),
        ("<View", "not XML"),
        ('<!DOCTYPE x [<!ENTITY a "b">]><View/>', "declarations"),
        ("<View/>", "BrushLabels"),
        ('<View><Image name="i" value="$x"/><BrushLabels toName="j"><Label value="a"/></BrushLabels></View>', "Brush"),
    ],
)  # fmt: skip
def test_label_studio_projects_that_do_not_fit(config: object, message: str) -> None:
    with pytest.raises(BadRequestError, match=message):
        LabelConfig.read(config)


@pytest.fixture
def studio() -> Iterator[str]:
    """A Label Studio that serves one image to whoever has the token, and redirects elsewhere."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path == "/elsewhere":
                self.send_response(302)
                self.send_header("Location", "http://127.0.0.1:9/")
                self.end_headers()
            elif self.headers.get("Authorization") != "Token t0ken":
                self.send_error(401)
            else:
                self.send_response(200)
                self.end_headers()
                self.wfile.write(FILE)

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_label_studio_images_are_fetched_from_there_only(
    bundle_path: Path, start: Callable[[ServeSettings], Running], running: Running, studio: str
) -> None:
    own = start(settings_of(bundle_path, label_studio=studio, label_studio_token="t0ken"))

    def ask(client: object, address: str) -> object:
        body = {"tasks": [{"data": {"url": address}}], "label_config": CONFIG}
        return client.post("/predict", json=body)

    assert ask(own.client, "/data/upload/1/a.png").status_code == 200
    assert ask(own.client, f"{studio}/data/upload/1/a.png").status_code == 200
    for address, message in (
        ("http://127.0.0.1:9/a.png", "another server"),
        ("file:///etc/passwd", "another server"),
        ("/elsewhere", "302"),
        ("http://[", "can't be fetched"),
    ):
        refused = ask(own.client, address)
        assert refused.status_code == 400
        assert message in refused.json()["error"]
    assert "--label-studio" in ask(running.client, "/data/a.png").json()["error"]
