"""What do all pages share? The frame around them, who may see them, and how an error looks.

    def studies(request: Request, who: PageReader, service: ServiceState) -> HTMLResponse:
        return page(request, "studies.html", who, studies=...)

A page names its permission like any route (`hpo.api.access`); who has not logged in is sent to /login and comes back
afterwards. Where a browser asks for a page, errors are pages too; programs get problem+json from the same routes.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from http import HTTPStatus
from inspect import isawaitable
from typing import Annotated, Any
from urllib.parse import urlencode, urlsplit

from anyio import to_thread
from fastapi import Depends, FastAPI, Request
from fastapi.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from jinja2 import Environment, PackageLoader, StrictUndefined

from dashboards import assets, words
from dashboards.controls import on_page
from hpo.api.access import SAFE_METHODS, Identity, Needs, identify
from hpo.api.app import PREFIX
from hpo.api.problems import ApiError
from storage.errors import StorageError

OF_THE_BODY = ("content-length", "content-type")  # headers that are told anew of another body


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where the navigation leads."""

    name: str
    url: str
    key: str  # after `g` on the keyboard
    permission: str = "read"
    others: tuple[str, ...] = ()  # paths of pages that belong to it, beside those below its own

    def holds(self, path: str) -> bool:
        """Whether the page of that path is one of its own."""
        roots = (self.url.rstrip("/"), *self.others)
        return any(path == root or path.startswith(f"{root}/") for root in roots)


NAVIGATION = (
    Place(name="Studies", url="/studies", key="s", others=("/launch",)),
    Place(name="History", url="/history", key="h", others=("/families", "/tasks")),
    Place(name="Compare", url="/compare", key="c"),
    Place(name="Champions", url="/champions", key="p"),
    Place(name="Machines", url="/machines", key="m"),
    Place(name="Imports", url="/imports", key="i"),
    Place(name="Access", url="/access", key="a", permission="administer"),
    Place(name="MLflow", url="/mlflow/", key="f"),
)


class LoginNeeded(Exception):  # noqa: N818  # no error: where to go first
    """Whoever asks for a page must log in before."""

    def __init__(self, why: str | None) -> None:
        """why: the code of the refusal."""
        super().__init__(why or "")
        self.why = why


@dataclass(frozen=True)
class PageNeeds(Needs):
    """As `Needs`, but a browser without a valid session is sent to the login page."""

    def __call__(self, request: Request) -> Identity:
        """Raises LoginNeeded, or ApiError 403 without the permission."""
        try:
            return super().__call__(request)
        except ApiError as error:
            if error.status != HTTPStatus.UNAUTHORIZED or request.method not in SAFE_METHODS:
                raise
            raise LoginNeeded(None if error.code == "no-token" else error.code) from None


PageReader = Annotated[Identity, Depends(PageNeeds("read"))]
PageOperator = Annotated[Identity, Depends(PageNeeds("operate"))]
PageAdmin = Annotated[Identity, Depends(PageNeeds("administer"))]

_templates = Environment(
    loader=PackageLoader("dashboards"), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
)
_templates.globals.update(asset=assets.url_of)
_templates.filters.update(words.FILTERS)


def page(request: Request, template: str, who: Identity | None, *, status: int = 200, **content: Any) -> HTMLResponse:
    """A page in the frame. who: None for the pages before the login."""
    return HTMLResponse(render(request, template, who, **content), status_code=status)


def render(request: Request, template: str, who: Identity | None, **content: Any) -> str:
    """The HTML of a page, or of a fragment that is fetched after it."""
    places = [place for place in NAVIGATION if who is not None and who.may(place.permission)]  # type: ignore[arg-type]
    frame = {"who": who, "places": places, "here": request.url.path, "url": _url_with(request)}
    return _templates.get_template(template).render(**frame, **content)


def back_to(url: str) -> RedirectResponse:
    """After a form was sent: on to the page that shows what it did."""
    return RedirectResponse(url, status_code=HTTPStatus.SEE_OTHER)


def own_path(text: str | None, *, otherwise: str = "/studies") -> str:
    """A path on this service, whatever somebody put into a link; no other site's address."""
    if not text or not text.startswith("/") or text.startswith(("//", "/\\")) or not text.isprintable():
        return otherwise
    parts = urlsplit(text)
    return otherwise if parts.scheme or parts.netloc else text


def wants_page(request: Request) -> bool:
    """Whether a browser asks, to show what comes."""
    return not request.url.path.startswith(PREFIX) and "text/html" in request.headers.get("accept", "")


def install(app: FastAPI) -> None:
    """Let browsers see errors as pages, and lead them to the login."""
    app.add_exception_handler(LoginNeeded, _to_login)
    for kind, handler in list(app.exception_handlers.items()):
        if kind is not LoginNeeded:
            app.add_exception_handler(kind, _as_page(handler))


def _to_login(request: Request, error: Exception) -> Response:
    assert isinstance(error, LoginNeeded)
    wanted = request.url.path + (f"?{request.url.query}" if request.url.query else "")
    if not wants_page(request):
        return Response(status_code=HTTPStatus.UNAUTHORIZED, headers={"WWW-Authenticate": "Bearer"})
    query = {"next": wanted} | ({"why": error.why} if error.why else {})
    return RedirectResponse(f"/login?{urlencode(query)}", status_code=HTTPStatus.SEE_OTHER)


Handler = Callable[[Request, Any], Response | Awaitable[Response]]


def _as_page(handler: Handler) -> Handler:
    async def answer(request: Request, error: Exception) -> Response:
        told = handler(request, error)
        response = await told if isawaitable(told) else told
        if request.url.path.startswith(PREFIX):
            return response
        said = _in_words_of_pages(json.loads(bytes(response.body)))
        if not wants_page(request):  # a part of a page, whose script shows it
            return JSONResponse(
                said,
                status_code=response.status_code,
                media_type=response.media_type,
                headers={name: value for name, value in response.headers.items() if name not in OF_THE_BODY},
            )
        shown = {"title": said["title"], "detail": said["detail"], "errors": said.get("errors") or []}
        who = await to_thread.run_sync(_quietly, request)
        return page(request, "error.html", who, status=response.status_code, code=said["code"], **shown)

    return answer


def _in_words_of_pages(problem: dict[str, Any]) -> dict[str, Any]:
    """A problem as pages say it, with whatever else it tells."""
    errors = [each | {"message": on_page(each["message"])} for each in problem.get("errors") or []]
    return problem | {"detail": on_page(problem["detail"])} | ({"errors": errors} if errors else {})


def _quietly(request: Request) -> Identity | None:
    """Who sees an error, so that the frame stays around it; None where that cannot be said."""
    try:
        return identify(request)
    except (ApiError, StorageError):
        return None


def _url_with(request: Request) -> Callable[..., str]:
    """In templates: `url(order="value")` is this page's URL with that changed; None takes a part away."""

    def url(**changes: Any) -> str:
        kept = {name: value for name, value in request.query_params.items() if name not in changes}
        query = urlencode(kept | {name: value for name, value in changes.items() if value is not None})
        return request.url.path + (f"?{query}" if query else "")

    return url
