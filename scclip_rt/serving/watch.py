"""Around every request: its id, the key, the access log, counters and the headers that every answer carries."""

from __future__ import annotations

import base64
import binascii
import contextlib
import hmac
import json
import logging
import re
import time
import uuid
from collections.abc import MutableMapping
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from scclip_rt.serving.metrics import Metrics

NOTE = "scclip"
"""Where a request's note for the log is in its ASGI scope."""
_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_access = logging.getLogger("scclip_rt.access")


class Watch:
    """The outermost layer.

    Args:
        app: what answers.
        metrics: told of every answer.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start = time.monotonic()
        given = Headers(scope=scope).get("x-request-id", "")
        request_id = given if _ID.fullmatch(given) else uuid.uuid4().hex
        note: MutableMapping[str, Any] = {"route": "other"}
        scope[NOTE] = note
        status, sent = 500, 0

        async def send_on(message: Message) -> None:
            nonlocal status, sent
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["X-Request-Id"] = request_id
                headers["X-Content-Type-Options"] = "nosniff"
                headers.setdefault("Cache-Control", "no-store")
            else:
                sent += len(message.get("body", b""))
            await send(message)

        try:
            await self._app(scope, receive, send_on)
        finally:
            seconds = time.monotonic() - start
            route = note.pop("route")
            self._metrics.answered(route, status, seconds)
            if _access.isEnabledFor(logging.INFO):
                _access.info("%s", _line(scope, request_id, status, seconds, sent, note))


def _line(
    scope: Scope, request_id: str, status: int, seconds: float, sent: int, note: MutableMapping[str, Any]
) -> str:
    client = scope.get("client")
    stages = note.pop("seconds", {})
    return json.dumps(
        {
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "id": request_id,
            "client": client[0] if client else None,
            "method": scope["method"],
            "path": scope["path"],
            "status": status,
            "seconds": round(seconds, 4),
            "bytes": sent,
            **note,
            **{stage: round(value, 4) for stage, value in list(stages.items())},
        },
        ensure_ascii=True,
    )


def has_key(headers: Headers, key: str) -> bool:
    """Whether a request brings the key.

    As `X-API-Key`, `Authorization: Bearer`, `Token` (X-AnyLabeling) or the password of `Authorization: Basic` (Label
    Studio).
    """
    offers = [headers.get("x-api-key", ""), headers.get("token", "")]
    scheme, _, value = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        offers.append(value.strip())
    elif scheme.lower() == "basic":
        with contextlib.suppress(binascii.Error, ValueError):
            offers.append(base64.b64decode(value).decode().partition(":")[2])
    return any([hmac.compare_digest(offer.encode(), key.encode()) for offer in offers])  # noqa: C419 (all are compared)
