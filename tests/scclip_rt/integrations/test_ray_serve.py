"""Ray Serve: arguments, replicas that begin with a warm bundle, and Serve itself where it is installed."""

import io
import shlex
import socket
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from scclip_rt import BackendError, OptionError, Segmenter
from scclip_rt.cli import build_parser
from scclip_rt.integrations.ray_serve import NAME, build, ready_app, settings_from
from tiny_bundle import blocks_image

testclient = pytest.importorskip("starlette.testclient")
yaml = pytest.importorskip("yaml")
DOCS = Path(__file__).parents[3] / "docs" / "ray"


def test_arguments_come_as_texts_or_values(bundle_path: Path) -> None:
    texts = settings_from({"bundle": str(bundle_path), "classes": "cat; dog", "queue": "8", "num_cpus": "2"})
    values = settings_from(
        {"bundle": bundle_path, "classes": ["cat", "dog"], "timeout": 5, "threads": 3, "cors": ["http://a"]}
    )
    assert (texts.classes, texts.limits.queue, texts.threads) == ("cat; dog", 8, 2)
    assert (values.classes, values.limits.timeout, values.threads) == (("cat", "dog"), 5.0, 3)
    assert values.cors == ("http://a",)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"classes": "cat"}, "bundle=PATH is missing"),
        ({"bundle": "x", "clases": "cat"}, "unknown argument 'clases'; known: .*classes"),
        ({"bundle": "demo", "queue": "0"}, "queue must be a whole number from 1"),
        ({"bundle": "demo", "timeout": "soon"}, "timeout must be a number from"),
    ],
)
def test_arguments_that_can_not_be(args: dict[str, str], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        settings_from(args)


def test_a_replica_begins_ready(bundle_path: Path) -> None:
    photo = io.BytesIO()
    pixels = blocks_image(60, 80, seed=1)
    Image.fromarray(pixels).save(photo, "PNG")
    settings = settings_from({"bundle": str(bundle_path), "templates": "none", "watch": 0})
    with testclient.TestClient(ready_app(settings)) as client:
        assert client.get("/v2/health/ready").status_code == 200
        answer = client.post(
            "/v1/segment",
            files={"image": ("a.png", photo.getvalue())},
            data={"classes": "cat; dog, puppy; sky"},
            headers={"Accept": "image/png"},
        )
    assert answer.status_code == 200, answer.text
    expected = Segmenter(bundle_path, classes="cat; dog, puppy; sky", templates="none")(pixels).labels
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(answer.content))), expected)


def test_a_replica_that_can_not_load_its_bundle_does_not_start(bundle_path: Path) -> None:
    settings = settings_from({"bundle": str(bundle_path), "precision": "fp7", "watch": 0})
    with pytest.raises(BackendError, match="fp7"):
        ready_app(settings)


@pytest.fixture(scope="module")
def serve() -> Any:
    """Imported once: after an import that failed, the next one finds half of it."""
    return pytest.importorskip(
        "ray.serve", reason="Ray Serve is not installed: tests/engines.sh", exc_type=ImportError
    )


def test_serve_answers_as_scclip_serve_does(
    serve: Any, bundle_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    ray.init(num_cpus=2, object_store_memory=200 << 20, include_dashboard=False, log_to_driver=False)
    try:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        serve.start(http_options={"port": port})
        args = {"bundle": str(bundle_path), "templates": "none", "classes": "cat; dog, puppy; sky"}
        serve.run(build(args | {"num_cpus": 0.5}))
        pixels = blocks_image(60, 80, seed=1)
        photo = io.BytesIO()
        Image.fromarray(pixels).save(photo, "PNG")
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}/v1/segment",
            data=photo.getvalue(),
            headers={"Content-Type": "image/png", "Accept": "image/png"},
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            labels = np.asarray(Image.open(io.BytesIO(answer.read())))
    finally:
        serve.shutdown()
        ray.shutdown()
    expected = Segmenter(bundle_path, classes="cat; dog, puppy; sky", templates="none")(pixels).labels
    assert np.array_equal(labels, expected)


def test_the_sample_config_is_one_that_serve_and_the_builder_take() -> None:
    config = yaml.safe_load((DOCS / "serve.yaml").read_text())
    (application,) = config["applications"]
    assert application["import_path"] == f"{build.__module__}:{build.__name__}"
    assert application["deployments"][0]["name"] == NAME
    settings = settings_from(application["args"] | {"bundle": "demo"})
    assert (settings.threads, settings.limits.queue) == (2, 16)


def test_serve_takes_the_sample_config(serve: Any) -> None:
    from ray.serve.schema import ServeDeploySchema

    ServeDeploySchema.model_validate(yaml.safe_load((DOCS / "serve.yaml").read_text()))


def test_the_sample_job_is_a_command_that_scclip_takes() -> None:
    job = yaml.safe_load((DOCS / "kuberay.yaml").read_text())
    program, *arguments = shlex.split(job["spec"]["entrypoint"])
    parsed = build_parser().parse_args(arguments)
    assert (program, parsed.engine, parsed.resume) == ("scclip", "ray", True)
