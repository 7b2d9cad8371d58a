"""The ASGI application: routes of every protocol over one `Service`."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, Protocol, TypeVar

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from scclip_rt import __version__
from scclip_rt.serving import kserve, plain
from scclip_rt.serving.adapters import anylabeling, label_studio
from scclip_rt.serving.body import BodyBudget, parsed, read_body, wait_until_gone
from scclip_rt.serving.errors import (
    ClientGoneError,
    NotReadyError,
    ServingError,
    UnauthorisedError,
    message_of,
    status_of,
)
from scclip_rt.serving.metrics import CONTENT_TYPE
from scclip_rt.serving.openapi import openapi_document
from scclip_rt.serving.render import JSON, LABEL_HEADERS, PNG, Rendered, json_bytes
from scclip_rt.serving.service import Answer, Query, Service, Visit
from scclip_rt.serving.settings import Limits, ModelSource, ServeSettings
from scclip_rt.serving.watch import NOTE, Watch, has_key

Result = TypeVar("Result")
Handler = Callable[[Request], Awaitable[Response]]
_log = logging.getLogger("scclip_rt.serving")
_BODIES = 8  # bodies of the largest size that may be arriving at a time
_PAGE = {
    "/": ("serving/page/index.html", "text/html; charset=utf-8"),
    "/page.css": ("serving/page/page.css", "text/css; charset=utf-8"),
    "/page.js": ("serving/page/page.js", "text/javascript; charset=utf-8"),
    "/sample.png": ("demo/scene.png", PNG),
    "/favicon.svg": ("serving/page/favicon.svg", "image/svg+xml"),
}
_PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


def app(
    bundle: str | os.PathLike[str] | None = None,
    *,
    classes: str | Sequence[str] | None = None,
    settings: ServeSettings | None = None,
    limits: Limits | None = None,
) -> ASGIApp:
    """The service as an ASGI application, alone or mounted into another.

    The bundle is loaded in a thread from now on; until it is warm, requests get 503.

    Args:
        bundle: directory, or `demo`; its model is called like the bundle.
        classes: of requests that name none; None takes the bundle's own.
        settings: instead of `bundle` and `classes`, everything.
        limits: of requests.

    Returns:
        The application; its attribute `service` is to be closed (`service.close()`) where a host application does
        not pass on the end of its life.

    Raises:
        ScclipError: no such bundle, or an option is wrong.
    """
    if settings is None:
        settings = settings_for(bundle if bundle is not None else "demo", classes=classes, limits=limits)
    return application(Service(settings))


def settings_for(
    bundle: str | os.PathLike[str], *, classes: str | Sequence[str] | None, limits: Limits | None
) -> ServeSettings:
    """Settings for one bundle under its own name.

    Raises:
        BundleError: there is none.
    """
    from scclip_rt.bundle.bundle import Bundle

    opened = Bundle.open(Path(bundle) if isinstance(bundle, os.PathLike) else bundle)
    return ServeSettings(
        models=(ModelSource(name=model_name(opened.name), path=os.fspath(bundle)),),
        classes=classes if classes is None or isinstance(classes, str) else tuple(classes),
        limits=limits or Limits(),
    )


def model_name(name: str) -> str:
    """A bundle's name with what a URL doesn't take replaced."""
    return re.sub(r"[^A-Za-z0-9._-]", "-", name)


class Companion(Protocol):
    """Another way into the same service, in the same event loop."""

    async def start(self) -> None:
        """Begin to listen."""
        ...

    async def stop(self) -> None:
        """Answer what was accepted, then end."""
        ...


def application(service: Service, *, companions: Sequence[Companion] = ()) -> ASGIApp:
    """The routes over a service; companions live as long as the application."""
    routes = Routes(service)

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        for companion in companions:
            await companion.start()
        yield
        for companion in companions:
            await companion.stop()
        await asyncio.to_thread(service.close)

    middleware = []
    if service.settings.cors:
        middleware.append(
            Middleware(
                CORSMiddleware,
                allow_origins=list(service.settings.cors),
                allow_methods=["GET", "POST"],
                allow_headers=["*"],
                expose_headers=["X-Request-Id", "Retry-After", kserve.HEADER, *LABEL_HEADERS],
            )
        )
    starlette = Starlette(
        routes=routes.table(),
        middleware=middleware,
        lifespan=lifespan,
        exception_handlers={HTTPException: _not_routed},  # type: ignore[dict-item]
    )
    # A redirect from a path with a slash too many names this server's own address, which a proxy's clients don't know.
    starlette.router.redirect_slashes = False
    watch = Watch(starlette, service.metrics)
    watch.service = service  # type: ignore[attr-defined]
    return watch


class Routes:
    """Every route: what it reads, what it asks the service, how it answers."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._limits = service.settings.limits
        self._budget = BodyBudget(max(_BODIES * self._limits.max_bytes, 64 << 20))
        package = resources.files("scclip_rt")
        self._page = {path: (package / name).read_bytes() for path, (name, _) in _PAGE.items()}

    def table(self) -> list[Route]:
        """Starlette's routes."""
        get, post = ("GET",), ("POST",)
        routes: list[tuple[str, tuple[str, ...], Handler, bool]] = [
            *[(path, get, self.page, True) for path in _PAGE],
            ("/openapi.json", get, self.openapi, True),
            ("/health", get, self.health, True),
            ("/v2/health/live", get, self.live, True),
            ("/v2/health/ready", get, self.ready, True),
            ("/metrics", get, self.metrics, False),
            ("/v2", get, self.server, False),
            ("/v2/repository/index", post, self.index, False),
            ("/v1/segment", post, self.segment, False),
            ("/v1/vocabularies", post, self.embed, False),
            ("/v1/vocabularies", get, self.vocabularies, False),
            ("/v1/models", get, self.models, False),
            ("/v1/predict", post, self.anylabeling, False),
            ("/predict", post, self.label_studio, False),
            ("/setup", post, self.label_studio_setup, False),
            ("/webhook", post, self.label_studio_webhook, False),
        ]
        for prefix in ("/v2/models/{model}", "/v2/models/{model}/versions/{version}"):
            routes += [
                (prefix, get, self.model, False),
                (f"{prefix}/ready", get, self.model_ready, False),
                (f"{prefix}/infer", post, self.infer, False),
            ]
        return [
            Route(path, self._guarded(path, handler, public=public), methods=list(methods))
            for path, methods, handler, public in routes
        ]

    def _guarded(self, path: str, handler: Handler, *, public: bool) -> Handler:
        """The handler behind the key, with errors as answers."""
        key = self._service.settings.api_key

        async def endpoint(request: Request) -> Response:
            note = request.scope[NOTE]
            note["route"] = path
            try:
                if key is not None and not public and not has_key(request.headers, key):
                    raise UnauthorisedError("send the server's key as X-API-Key or Authorization: Bearer")
                return await handler(request)
            except Exception as error:
                note["error"] = message_of(error)
                return _failed(error, tool=path == "/v1/predict")

        return endpoint

    # What a server tells about itself

    async def page(self, request: Request) -> Response:
        """The page and its files."""
        path = request.scope[NOTE]["route"]
        return Response(self._page[path], media_type=_PAGE[path][1], headers=_PAGE_HEADERS)

    async def openapi(self, _: Request) -> Response:
        """The description of these routes."""
        return _json(openapi_document(__version__))

    async def live(self, _: Request) -> Response:
        """The process answers."""
        return _json({"live": True})

    async def ready(self, _: Request) -> Response:
        """Every model is loaded and warm."""
        ready = self._service.ready
        return _json({"ready": ready}, status=200 if ready else 503)

    async def health(self, _: Request) -> Response:
        """Label Studio's health check."""
        ready = self._service.ready
        content = {"status": "UP" if ready else "LOADING", "model_class": "scclip", "model_dir": None}
        return _json(content, status=200 if ready else 503)

    async def metrics(self, _: Request) -> Response:
        """Prometheus's page."""
        page = await asyncio.to_thread(self._service.metrics.page)
        return Response(page, headers={"Content-Type": CONTENT_TYPE})

    async def server(self, _: Request) -> Response:
        """KServe: the server."""
        return _json(kserve.server_metadata(__version__))

    async def index(self, _: Request) -> Response:
        """Triton's repository index: the models."""
        return _json(
            [
                {"name": name, "version": kserve.VERSION, "state": "READY" if model else "UNAVAILABLE"}
                for name, model in self._service.models().items()
            ]
        )

    async def model(self, request: Request) -> Response:
        """KServe: a model."""
        kserve.check_version(request.path_params.get("version", ""))
        return _json(kserve.model_metadata(self._service.model(request.path_params["model"])))

    async def model_ready(self, request: Request) -> Response:
        """KServe: whether a model is ready."""
        kserve.check_version(request.path_params.get("version", ""))
        model = self._service.model(request.path_params["model"])
        return _json({"name": model.name, "ready": True})

    # Segmentation

    async def infer(self, request: Request) -> Response:
        """KServe: inference."""
        kserve.check_version(request.path_params.get("version", ""))
        visit = self._enter(request)
        body = await self._body(request, visit)
        length, model = request.headers.get(kserve.HEADER), request.path_params["model"]
        wanted = await parsed(len(body), lambda: kserve.read_request(body, length, model=model))
        return await self._rendered(
            request,
            wanted.query,
            lambda answer: kserve.write_answer(wanted, kserve.answer_of(wanted, answer)),
            visit,
        )

    async def segment(self, request: Request) -> Response:
        """The plain way."""
        visit = self._enter(request)
        body = await self._body(request, visit)
        form = await plain.form_of(body, request.headers)

        def read() -> tuple[Query, dict[str, Any]]:
            image, parameters = plain.segment_parameters(body, form, request.headers, request.query_params)
            return plain.make_query(image, parameters), parameters

        query, parameters = await parsed(len(body), read)
        media = plain.media_of(parameters, request.headers.getlist("accept"))
        return await self._rendered(
            request,
            query,
            lambda answer: plain.render(answer, media, parameters),
            visit,
        )

    async def embed(self, request: Request) -> Response:
        """Embed a list of classes once."""
        visit = self._enter(request)
        body = await self._body(request, visit)
        classes, background, name = await parsed(len(body), lambda: plain.vocabulary_request(body))
        model = self._service.model(name)
        made, vocabulary = await self._while_client_waits(
            request, visit, self._service.embed(model, classes, background, visit)
        )
        return _json(plain.vocabulary_document(made, vocabulary), status=201)

    async def vocabularies(self, request: Request) -> Response:
        """The vocabularies that may be asked for by name."""
        model = self._service.model(request.query_params.get("model"))
        return _json(
            {
                "vocabularies": [
                    plain.vocabulary_document(name, vocabulary)
                    for name, vocabulary in model.vocabularies.names().items()
                ]
            }
        )

    async def models(self, _: Request) -> Response:
        """The models, as X-AnyLabeling lists them."""
        return _json(anylabeling.models_document(self._service.models()))

    # Labelling tools

    async def anylabeling(self, request: Request) -> Response:
        """X-AnyLabeling: predict."""
        visit = self._enter(request)
        body = await self._body(request, visit)
        query, epsilon = await parsed(len(body), lambda: anylabeling.read_request(kserve.json_object(body)))
        found = await self._while_client_waits(
            request,
            visit,
            self._service.segment(query, lambda answer: anylabeling.shapes(answer.result, epsilon), visit),
        )
        return _json(anylabeling.answer(found))

    async def label_studio(self, request: Request) -> Response:
        """Label Studio: predict."""
        visit = self._enter(request)
        body = await self._body(request, visit)
        content = await parsed(len(body), lambda: kserve.json_object(body))
        config = label_studio.LabelConfig.read(content.get("label_config"))
        model = self._service.model(None)
        version, classes = label_studio.model_version(model), label_studio.classes_for(config, model)

        async def predict(task: object) -> dict[str, Any]:
            image = await asyncio.to_thread(
                label_studio.fetch_image,
                label_studio.image_address(task, config),
                origin=self._service.settings.label_studio,
                token=self._service.settings.label_studio_token,
                max_bytes=self._limits.max_bytes,
                timeout=self._limits.timeout,
            )
            return await self._service.segment(
                Query(image=image, model=model.name, classes=classes, confidence=True),
                lambda answer: label_studio.prediction(answer.result, config, version),
                visit,
            )

        async def predict_all() -> list[dict[str, Any]]:
            return [await predict(task) for task in label_studio.tasks_of(content)]

        results = await self._while_client_waits(request, visit, predict_all())
        return _json({"results": results, "model_version": version})

    async def label_studio_setup(self, request: Request) -> Response:
        """Label Studio: a project connects."""
        content = kserve.json_object(await self._body(request, self._service.visit()))
        if content.get("schema"):
            label_studio.LabelConfig.read(content["schema"])
        return _json({"model_version": label_studio.model_version(self._service.model(None))})

    async def label_studio_webhook(self, request: Request) -> Response:
        """Label Studio tells of events; there is nothing to train."""
        await self._body(request, self._service.visit())
        return _json({"status": "ignored"})

    # Between a request and the service

    def _enter(self, request: Request) -> Visit:
        """A request for work: refused at once where the house is full."""
        visit = self._service.visit()
        visit.note = request.scope[NOTE]
        self._service.engine.check_room()
        return visit

    async def _body(self, request: Request, visit: Visit) -> bytes:
        return await read_body(
            request.receive,
            request.headers,
            max_bytes=self._limits.max_bytes,
            deadline=visit.deadline,
            budget=self._budget,
        )

    async def _rendered(
        self, request: Request, query: Query, render: Callable[[Answer], Rendered], visit: Visit
    ) -> Response:
        rendered = await self._while_client_waits(request, visit, self._service.segment(query, render, visit))
        return Response(rendered.body, media_type=rendered.media_type, headers=rendered.headers)

    async def _while_client_waits(
        self, request: Request, visit: Visit, work: Coroutine[Any, Any, Result]
    ) -> Result:
        """Do the work unless the client closes the connection before it is done."""
        task = asyncio.create_task(work)
        gone = asyncio.create_task(wait_until_gone(request.receive))
        try:
            await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                raise ClientGoneError("the client closed the connection")
            return task.result()
        finally:
            if not task.done():  # the client has gone, or the server's grace is over
                visit.cancel()
            for unfinished in (task, gone):
                unfinished.cancel()


def _json(content: Any, *, status: int = 200) -> Response:
    return Response(json_bytes(content), status_code=status, media_type=JSON)


def _failed(error: Exception, *, tool: bool) -> Response:
    """An error as the protocols have it: `{"error": …}`; what is not foreseen is told to the log."""
    status, message = status_of(error), message_of(error)
    if status == 500:
        _log.error("a request failed: %s", error, exc_info=error)
    headers = {}
    if isinstance(error, ServingError) and error.retry_after is not None:
        headers["Retry-After"] = str(error.retry_after)
    if isinstance(error, UnauthorisedError):
        headers["WWW-Authenticate"] = "Bearer"
    if isinstance(error, NotReadyError):
        headers.setdefault("Retry-After", "1")
    content = anylabeling.failure(status, message) if tool else {"error": message}
    return Response(json_bytes(content), status_code=status, media_type=JSON, headers=headers)


async def _not_routed(_: Request, error: HTTPException) -> Response:
    hint = "; GET /openapi.json lists the routes" if error.status_code == 404 else ""
    content = {"error": f"{error.detail}{hint}"}
    return Response(
        json_bytes(content), status_code=error.status_code, media_type=JSON, headers=dict(error.headers or {})
    )
