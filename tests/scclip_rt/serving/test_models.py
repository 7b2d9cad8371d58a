"""Several models, and bundles that are replaced while requests come in."""

import json
import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import httpx
import numpy as np
import pytest

from scclip_rt.errors import OptionError
from scclip_rt.serving.service import Service
from scclip_rt.serving.settings import ModelSource, ServeSettings
from services import Running, picture, png, settings_of, wait_for

FILE = png(picture(8))


def copy_with_side(bundle: Path, target: Path, side: int) -> Path:
    """The bundle with another short side: other features, other labels."""
    shutil.copytree(bundle, target)
    manifest = json.loads((target / "bundle.json").read_text())
    manifest["preprocessing"]["short_side"] = side
    (target / "bundle.json").write_text(json.dumps(manifest))
    return target


def test_models_are_asked_for_by_name(
    bundle_path: Path, tmp_path: Path, start: Callable[[ServeSettings], Running]
) -> None:
    other = copy_with_side(bundle_path, tmp_path / "other.scclip", 256)
    models = (ModelSource(name="a", path=str(bundle_path)), ModelSource(name="b", path=str(other)))
    client = start(settings_of(bundle_path, models=models)).client
    sides = {name: row["short_side"] for name, row in client.get("/v1/models").json()["data"].items()}
    assert sides == {"a": 128, "b": 256}
    replies = [
        client.post("/v1/segment", params={"model": name}, content=FILE).content for name in ("a", "b", "a")
    ]
    assert replies[0] == replies[2] != replies[1]
    assert client.post("/v1/segment", content=FILE).content == replies[0]


def test_a_replaced_bundle_takes_over_without_losing_a_request(
    bundle_path: Path, tmp_path: Path, start: Callable[[ServeSettings], Running]
) -> None:
    first, second = (copy_with_side(bundle_path, tmp_path / f"{side}", side) for side in (128, 256))
    link = tmp_path / "current.scclip"
    link.symlink_to(first)
    running = start(settings_of(link, watch=0.05))
    statuses: list[int] = []
    ending = threading.Event()

    def ask() -> None:
        with httpx.Client(base_url=running.client.base_url, timeout=60) as client:
            while not ending.is_set():
                statuses.append(client.post("/v1/segment", content=FILE).status_code)

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    wait_for(lambda: len(statuses) > 5)
    (tmp_path / "next").symlink_to(second)
    os.replace(tmp_path / "next", link)  # noqa: PTH105
    wait_for(lambda: running.client.get("/v1/models").json()["data"]["tiny"]["short_side"] == 256)
    count = len(statuses)
    wait_for(lambda: len(statuses) > count + 5)
    ending.set()
    for thread in threads:
        thread.join(60)
    assert set(statuses) == {200}


def test_a_damaged_bundle_leaves_the_old_one_in_place(
    own_bundle: Path, start: Callable[[ServeSettings], Running]
) -> None:
    running = start(settings_of(own_bundle, watch=0.05))
    before = running.client.post("/v1/segment", content=FILE).content
    sound = (own_bundle / "bundle.json").read_bytes()
    (own_bundle / "bundle.json").write_bytes(sound[:100])
    failures = 'scclip_model_loads_total{model="tiny",result="error"}'
    wait_for(lambda: failures in running.client.get("/metrics").text)
    assert running.client.post("/v1/segment", content=FILE).content == before
    assert running.client.get("/v2/health/ready").status_code == 200
    (own_bundle / "bundle.json").write_bytes(sound)
    again = 'scclip_model_loads_total{model="tiny",result="ok"} 2.0'
    wait_for(lambda: again in running.client.get("/metrics").text)


def test_live_at_once_and_ready_when_warm(own_bundle: Path) -> None:
    (own_bundle / "bundle.json").rename(own_bundle / "later")
    service = Service(settings_of(own_bundle))
    wait_for(lambda: service.failed is not None)
    assert not service.ready
    assert "no bundle.json" in str(service.failed)
    service.close()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"models": ()}, "at least one"),
        ({"models": (ModelSource(name="a", path="x"),) * 2}, "same name"),
        ({"vocabularies": {"a b": Path("x")}}, "vocabulary's name"),
        ({"watch": -1.0}, "watch"),
        ({"cors": ("https://a.example/",)}, "an origin looks like"),
        ({"label_studio": "localhost:8080"}, "Label Studio's URL looks like"),
    ],
)
def test_settings_out_of_bounds(bundle_path: Path, changes: dict[str, object], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        settings_of(bundle_path, **changes)


def test_labels_of_a_large_vocabulary_have_sixteen_bits() -> None:
    from PIL import Image

    from scclip_rt.segmentation import Segmentation
    from scclip_rt.serving.render import labels_png

    labels = np.arange(300, dtype=np.uint16).reshape(15, 20)
    result = Segmentation(labels=labels, classes=tuple(f"c{i}" for i in range(300)), unlabelled=65535)
    import io

    assert np.array_equal(np.array(Image.open(io.BytesIO(labels_png(result)))), labels)
