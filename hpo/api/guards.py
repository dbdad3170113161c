"""What holds for every request, whatever its route? Its host, its body and its method; the headers of its answer.

- On loopback it must be meant for loopback: another site's name that leads here is refused (DNS rebinding).
- Bodies are as small, flat and quick as `hpo.api.bodies` says; a text never holds NUL.
- HEAD is answered where GET is, OPTIONS with what the path allows, and a 405 says it too.
- An answer is not framed, sniffed or kept by others, and its page loads from here only, unless the route says more.
"""

from __future__ import annotations

from urllib.parse import urlsplit

from fastapi import FastAPI
from fastapi.routing import iter_route_contexts
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hpo.api import bodies
from hpo.api.problems import problem, told
from hpo.service.state import Service

LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
HEADERS = {
    "Content-Security-Policy": "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; "
    "object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",  # Plotly styles inline
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",  # with `no-referrer` browsers send `Origin: null` with a form
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
ONLY_BY_HTTPS = "max-age=31536000"


def install(app: FastAPI, service: Service) -> None:
    """Put the guards around every route of `app`."""
    app.add_middleware(Guards, service=service)


class Guards:
    """The middleware."""

    def __init__(self, app: ASGIApp, *, service: Service) -> None:
        self._app, self._service = app, service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        answer = _Answer(scope, send, is_secure=self._service.is_secure or scope.get("scheme") == "https")
        refusal = self._refusal(scope)
        if refusal is not None:
            await refusal(scope, receive, answer)
        elif scope["method"] == "OPTIONS":
            await _options(scope)(scope, receive, answer)
        else:
            await self._with_body(scope, receive, answer)

    def _refusal(self, scope: Scope) -> Response | None:
        headers = Headers(scope=scope)
        host = _host(headers.get("host", ""))
        if host is None or (self._service.hosts is not None and host not in self._service.hosts):
            return problem(400, "unknown-host", f"this service is not called {host!r}; ask it by its own name")
        if b"%00" in scope.get("raw_path", b"") or b"%00" in scope["query_string"]:
            return problem(422, "invalid-request", "the address holds the character NUL")
        length = headers.get("content-length", "0")
        most = bodies.MOST_JSON_BYTES if bodies.is_json(headers.get("content-type")) else bodies.MOST_BYTES
        if length.isdecimal() and int(length) > most:
            return told(bodies.TooLargeError(most))
        return None

    async def _with_body(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not bodies.is_json(Headers(scope=scope).get("content-type")):
            await self._answer(scope, bodies.counted(receive), send)
            return
        try:
            body = await bodies.read_json(receive)
        except HTTPException as error:
            await told(error)(scope, receive, send)
            return
        if (fault := await bodies.why_not(body)) is not None:
            await problem(422, "invalid-request", fault)(scope, receive, send)
            return
        await self._answer(scope, bodies.again(body, receive), send)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] != "HEAD":
            await self._app(scope, receive, send)
            return
        asked = {**scope, "method": "GET"}
        try:
            await self._app(asked, receive, send)
        except (ClientDisconnect, _HeadAnsweredError):
            pass
        finally:
            scope.update({key: asked[key] for key in ("route", "path_params") if key in asked})


class _HeadAnsweredError(OSError):
    """A HEAD has its answer: what else is sent, goes nowhere. An OSError ends a stream, as by ASGI 2.4."""


class _Answer:
    """A `send` that adds the headers, and leaves out the body after a HEAD."""

    def __init__(self, scope: Scope, send: Send, *, is_secure: bool) -> None:
        self._scope, self._send, self._is_secure = scope, send, is_secure
        self._is_head, self._is_over = scope["method"] == "HEAD", False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._add_headers(message)
        elif self._is_head and message["type"] == "http.response.body":
            if self._is_over:
                raise _HeadAnsweredError
            self._is_over = True
            message = {"type": "http.response.body", "body": b"", "more_body": False}
        await self._send(message)

    def _add_headers(self, message: Message) -> None:
        message.setdefault("headers", [])
        headers = MutableHeaders(scope=message)
        for name, value in HEADERS.items():
            headers.setdefault(name, value)
        if self._is_secure:
            headers.setdefault("Strict-Transport-Security", ONLY_BY_HTTPS)
        if message["status"] == 405:
            headers["Allow"] = ", ".join(_allowed(self._scope))


def _host(header: str) -> str | None:
    """The host without its port, in small letters; None where there is none."""
    try:
        return urlsplit(f"//{header}").hostname
    except ValueError:
        return None


def _options(scope: Scope) -> Response:
    methods = _allowed(scope)
    if not methods:
        return problem(404, "not-found", "Not Found")
    return Response(status_code=204, headers={"Allow": ", ".join(methods)})


def _allowed(scope: Scope) -> list[str]:
    """The methods that the path of a request allows; none where there is no such path."""
    found: set[str] = set()
    for route in iter_route_contexts(scope["app"].routes):
        pattern = getattr(route, "path_regex", None)
        if pattern is not None and pattern.match(scope["path"]):
            found |= route.methods or {"GET"}
    if not found:
        return []
    return sorted(found | {"OPTIONS"} | ({"HEAD"} if "GET" in found else set()))
