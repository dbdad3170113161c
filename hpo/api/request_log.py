"""Who asked what, how was it answered, how long did it take? A line in the log for each request, and its metrics.

Every request has an id, its client's `X-Request-Id` or one of ours, which its answer repeats. What a client sends in
the query is not logged: it may be anything.
"""

from __future__ import annotations

import logging
import re
import time
import uuid
from http import HTTPMethod
from typing import Any

from fastapi import FastAPI
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hpo.api.metrics import Metrics

log = logging.getLogger("hpo.requests")
QUIET = frozenset({"/healthz", "/readyz", "/metrics"})  # asked every few seconds; logged only when they fail
STREAM = "text/event-stream"
METHODS = frozenset(HTTPMethod)
_GOOD_ID = re.compile(r"[\w.\-]{1,64}", re.ASCII)


def install(app: FastAPI, metrics: Metrics) -> None:
    """Log every request of `app`."""
    app.add_middleware(RequestLog, metrics=metrics)


class RequestLog:
    """The middleware."""

    def __init__(self, app: ASGIApp, *, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass one request on, and note what became of it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id, status, started = _id_of(scope), 500, time.perf_counter()
        seconds: float | None = None
        scope.setdefault("state", {})["request_id"] = request_id

        async def note(message: Message) -> None:
            nonlocal status, seconds
            if message["type"] == "http.response.start":
                status = message["status"]
                message.setdefault("headers", [])
                headers = MutableHeaders(scope=message)
                headers["X-Request-Id"] = request_id
                if headers.get("content-type", "").startswith(STREAM):
                    seconds = time.perf_counter() - started  # it is answered now, and goes on for long
            await send(message)

        with self._metrics.in_flight.track_inprogress():
            try:
                await self._app(scope, receive, note)
            finally:
                seconds = time.perf_counter() - started if seconds is None else seconds
                self._metrics.requests.labels(_method(scope), _route(scope), str(status)).observe(seconds)
                _write(scope, request_id, status, seconds)


def _write(scope: Scope, request_id: str, status: int, seconds: float) -> None:
    level = logging.WARNING if status >= 500 else logging.INFO
    if scope["path"] in QUIET and level == logging.INFO:
        return
    identity = scope["state"].get("identity")
    parts: dict[str, Any] = scope.get("path_params", {})
    fields = {
        "request_id": request_id,
        "method": scope["method"],
        "path": scope["path"],
        "status": status,
        "milliseconds": round(seconds * 1000, 1),
        "client": scope["client"][0] if scope.get("client") else None,
        "who": identity.owner if identity else None,
        "study": parts.get("study_id"),
        "trial": parts.get("number"),
    }
    told = f"{scope['method']} {scope['path']} {status} in {seconds * 1000:.0f} ms"
    by = f" by {identity.owner}" if identity else ""
    log.log(level, told + by, extra={"fields": {name: value for name, value in fields.items() if value is not None}})


def _id_of(scope: Scope) -> str:
    given = Headers(scope=scope).get("x-request-id", "")
    return given if _GOOD_ID.fullmatch(given) else uuid.uuid4().hex


def _method(scope: Scope) -> str:
    """One of those that there are: a client may make up as many others as it likes."""
    return str(scope["method"]) if scope["method"] in METHODS else "other"


def _route(scope: Scope) -> str:
    """The path with the names of its parts for their values, so that there are as many as routes, not as ids."""
    if "route" not in scope:
        return "other"
    done, rest = "", str(scope["path"])
    for name, value in scope.get("path_params", {}).items():
        before, found, after = rest.partition(f"/{value}")
        if found:
            done, rest = f"{done}{before}/{{{name}}}", after
    return done + rest
