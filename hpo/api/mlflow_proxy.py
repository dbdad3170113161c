"""`/mlflow`: MLflow's own UI under the service's address, behind its login.

MLflow's server listens on a socket that only this service can reach (`hpo.service.mlflow_child`); requests are passed
on as they come, answers as they are made. Viewers may look, operators may also name, tag, delete and restore. The rest
is not passed on: creating runs, gateways, webhooks, jobs, assistants, all that makes a server call others, run programs
or read files. Programs speak to MLflow by its own URI.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Annotated
from urllib.parse import quote, urlencode, urlsplit

import httpx2
from fastapi import APIRouter, Depends, FastAPI, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse, StreamingResponse
from starlette.background import BackgroundTask

from hpo.api.access import Identity, Needs, service_of
from hpo.api.problems import ApiError, problem
from hpo.service.state import Service

PREFIX = "/mlflow"
METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE"]
SECONDS = httpx2.Timeout(120.0, connect=5.0)
LOOK_AGAIN_SECONDS = 3

_AJAX = r"ajax-api/[23]\.0/mlflow/"
_LOOKED_AT = re.compile(
    r"(|static-files/.+|health|version|get-artifact|model-versions/get-artifact|"
    rf"{_AJAX}(artifacts|experiments|metrics|runs|logged-models|model-versions|registered-models|traces|datasets|"
    r"get-trace-artifact|server-info|workspaces|label-schemas|review-queues|issues)(/.*)?|"
    r"ajax-api/2\.0/mlflow-artifacts/artifacts(/.+)?)"
)
_SEARCHED = re.compile(
    rf"{_AJAX}((experiments|runs|logged-models|traces|datasets|issues)/search|experiments/search-datasets|"
    r"registered-models/get-latest-versions|traces/(metrics|batchGetInfos|calculate-filter-correlation))|graphql"
)
_CHANGES: Mapping[str, re.Pattern[str]] = {
    "POST": re.compile(
        rf"{_AJAX}(runs/(update|delete|restore|set-tag|delete-tag)|registered-models/(create|rename|set-tag|alias)|"
        r"experiments/(update|delete|restore|set-experiment-tag|delete-experiment-tag)|"
        r"model-versions/(set-tag|transition-stage))"
    ),
    "PATCH": re.compile(rf"{_AJAX}((registered-models|model-versions)/update|logged-models/[^/]+/tags)"),
    "DELETE": re.compile(
        rf"{_AJAX}(registered-models/(delete|delete-tag|alias)|model-versions/(delete|delete-tag)|"
        r"logged-models/[^/]+/tags/[^/]+)"
    ),
}
_ARTIFACT = re.compile(rf"get-artifact|model-versions/get-artifact|ajax-api/.*artifacts/.*|{_AJAX}get-trace-artifact")
_ASKED = ("accept", "accept-encoding", "accept-language", "content-type", "if-none-match", "if-modified-since", "range")
_ANSWERED = (
    "accept-ranges",
    "cache-control",
    "content-disposition",
    "content-encoding",
    "content-length",
    "content-range",
    "content-type",
    "etag",
    "last-modified",
    "vary",
)
_UI_MAY = {  # its scripts are MLflow's; it draws with workers and evaluates templates
    "Content-Security-Policy": "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; font-src 'self' data:; worker-src 'self' blob:; "
    "frame-src 'self' blob: data:; object-src 'none'; base-uri 'self'; frame-ancestors 'self'",
    "X-Frame-Options": "SAMEORIGIN",
}
_ARTIFACT_MAY = {  # a run's files are anybody's: a page among them gets no scripts and no origin
    "Content-Security-Policy": "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:",
    "X-Frame-Options": "SAMEORIGIN",
}

router = APIRouter(prefix=PREFIX, include_in_schema=False)


class LoginFirst(Exception):  # noqa: N818  # no error: where to go first
    """A browser that wants to see MLflow has to log in before."""


@dataclass(frozen=True)
class _Visits(Needs):
    """As `Needs`, but a browser is led to the login."""

    def __call__(self, request: Request) -> Identity:
        try:
            return super().__call__(request)
        except ApiError as error:
            if error.status == 401 and request.method == "GET" and _is_looking(request):
                raise LoginFirst from None
            raise


Visitor = Annotated[Identity, Depends(_Visits("read"))]


def install(app: FastAPI) -> None:
    """Add the routes; call it last, for a browser without a session is to be led to /login."""
    app.include_router(router)
    app.add_exception_handler(LoginFirst, _to_login)


@asynccontextmanager
async def connected(app: FastAPI) -> AsyncIterator[None]:
    """The life of the application: its connections to MLflow's socket are made when needed, and closed at its end."""
    socket = app.state.service.mlflow_upstream
    transport = httpx2.AsyncHTTPTransport(uds=socket or "/nowhere", limits=httpx2.Limits(max_connections=50))
    async with httpx2.AsyncClient(transport=transport, timeout=SECONDS, trust_env=False) as client:
        app.state.mlflow_client = client
        yield


@router.get("")
def to_the_ui(who: Visitor) -> Response:
    """MLflow's pages are under the slash."""
    return RedirectResponse(f"{PREFIX}/")


@router.api_route("/{path:path}", methods=METHODS)
async def pass_on(who: Visitor, request: Request, path: str) -> Response:
    """What MLflow answers, or why it was not asked."""
    service = service_of(request)
    if service.mlflow_upstream is None:
        return _elsewhere(service, path)
    _check(who, request.method, path)
    client: httpx2.AsyncClient = request.app.state.mlflow_client
    query = request.scope["query_string"].decode("latin-1")
    asked = client.build_request(
        request.method,
        httpx2.URL(f"http://localhost{PREFIX}/{quote(path)}" + (f"?{query}" if query else "")),
        headers={name: request.headers[name] for name in _ASKED if name in request.headers},
        content=None if request.method == "GET" else await request.body(),
    )
    try:
        answer = await client.send(asked, stream=True)
    except httpx2.TransportError:
        return _starting(request)
    may = _ARTIFACT_MAY if _ARTIFACT.fullmatch(path) else _UI_MAY
    kept = {name: answer.headers[name] for name in _ANSWERED if name in answer.headers}
    if (location := answer.headers.get("location")) is not None:
        kept["location"] = location.removeprefix("http://localhost")
    return StreamingResponse(
        _parts(answer), status_code=answer.status_code, headers=kept | may, background=BackgroundTask(answer.aclose)
    )


async def _parts(answer: httpx2.Response) -> AsyncIterator[bytes]:
    try:
        async for part in answer.aiter_raw():
            yield part
    finally:
        await answer.aclose()


def _check(who: Identity, method: str, path: str) -> None:
    """Raises ApiError 403 for what `who` may not do, or nobody may by this address."""
    is_plain = path.isprintable() and not any(part in (".", "..") for part in re.split(r"[/\\]", path))
    reads = _LOOKED_AT if method == "GET" else _SEARCHED if method == "POST" else None
    if is_plain and reads is not None and reads.fullmatch(path):
        return
    changes = _CHANGES.get(method)
    if not is_plain or changes is None or not changes.fullmatch(path):
        raise ApiError(
            403,
            "not-passed-on",
            f"{method} {path} is not passed on to MLflow here; ask MLflow itself, by its tracking URI",
        )
    if not who.may("operate"):
        raise ApiError(
            403, "not-allowed", f"the role {who.role} may look at MLflow; to change it takes admin or operator"
        )


def _elsewhere(service: Service, path: str) -> Response:
    """Where MLflow's UI is not shown here."""
    uri = service.mlflow_uri
    if uri is not None and uri.startswith(("http://", "https://")):
        address = urlsplit(uri)  # it has a UI and a login of its own; a password in it stays here
        host = address.netloc.rpartition("@")[2]
        return RedirectResponse(f"{address.scheme}://{host}{address.path.rstrip('/')}/{quote(path)}")
    if uri is None:
        raise ApiError(404, "no-mlflow", "this service follows no MLflow: it was started with --mlflow none")
    raise ApiError(404, "no-mlflow", "MLflow's UI is not shown here (--no-mlflow-ui); `hpo ui` starts it")


def _starting(request: Request) -> Response:
    detail = "MLflow is starting, which takes half a minute"
    headers = {"Retry-After": str(LOOK_AGAIN_SECONDS)}
    if not _is_looking(request):
        return problem(503, "mlflow-starting", detail, headers=headers)
    refresh = f'<meta http-equiv="refresh" content="{LOOK_AGAIN_SECONDS}">'
    style = "<style>:root{color-scheme:light dark;font-family:system-ui}body{margin:20vh auto;max-width:30em}</style>"
    title = "<title>MLflow is starting</title>"
    body = (
        '<h1>MLflow is starting</h1><p>This page looks again by itself. <a href="/studies">Back to the studies</a></p>'
    )
    page = f'<!doctype html><html lang="en">{title}{refresh}{style}<body>{body}</body></html>'
    return HTMLResponse(page, status_code=503, headers=headers)


def _is_looking(request: Request) -> bool:
    """Whether a browser wants a page."""
    return "text/html" in request.headers.get("accept", "")


def _to_login(request: Request, error: Exception) -> Response:
    return RedirectResponse(f"/login?{urlencode({'next': request.url.path})}", status_code=303)
