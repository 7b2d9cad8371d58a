"""A service on a tiny bundle behind a real socket, shared by the tests that only ask it."""

import threading
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
import uvicorn

from scclip_rt import Segmenter
from scclip_rt.serving.asgi import application
from scclip_rt.serving.server import BoundedProtocol
from scclip_rt.serving.service import Service
from scclip_rt.serving.settings import ServeSettings
from services import CLASSES, Running, settings_of, wait_for


@pytest.fixture(scope="session")
def start(request: pytest.FixtureRequest) -> Callable[[ServeSettings], Running]:
    """Start services; each ends with the session."""

    def begin(settings: ServeSettings) -> Running:
        service = Service(settings)
        config = uvicorn.Config(
            application(service),
            host="127.0.0.1",
            port=0,
            http=BoundedProtocol,
            ws="none",
            log_config=None,
            access_log=False,
        )
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, daemon=True)
        thread.start()
        wait_for(lambda: server.started and (service.ready or service.failed))
        assert service.failed is None, service.failed
        address = server.servers[0].sockets[0].getsockname()[:2]
        client = httpx.Client(base_url=f"http://{address[0]}:{address[1]}", timeout=60)

        def end() -> None:
            client.close()
            server.should_exit = True
            thread.join(20)

        request.addfinalizer(end)
        return Running(service=service, client=client, address=address)

    return begin


@pytest.fixture(scope="session")
def running(bundle_path: Path, start: Callable[[ServeSettings], Running]) -> Running:
    """One service for all tests that do not change it."""
    return start(settings_of(bundle_path))


@pytest.fixture(scope="session")
def segmenter(bundle_path: Path) -> Segmenter:
    """What the answers are compared with."""
    return Segmenter(bundle_path, classes=list(CLASSES), templates="none")
