"""How does a browser get in, and out again?"""

from __future__ import annotations

from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Form, Query, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response

from dashboards.frame import back_to, own_path, page
from hpo.api.access import identify
from hpo.api.problems import ApiError
from hpo.api.sessions import clear_cookie, close_session, open_session, set_cookie

ABOUT_THE_TOKEN = frozenset({HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN, HTTPStatus.TOO_MANY_REQUESTS})
WHY = {  # that a browser is sent here, by the code of the refusal: a link may hold any text
    "unknown-token": "The session is not known here any more.",
    "revoked-token": "The token was revoked.",
    "expired-token": "The session or its token has expired.",
}

router = APIRouter()


@router.get("/")
def get_root() -> RedirectResponse:
    """Where most begin; open to everybody."""
    return back_to("/studies")


@router.get("/login")
def get_login(
    request: Request,
    next: Annotated[str | None, Query(max_length=2_000)] = None,
    why: Annotated[str | None, Query(max_length=200)] = None,
) -> HTMLResponse:
    """The form for the token; open to everybody. why: the code of a refusal; any other word is not shown."""
    return page(request, "login.html", None, next=own_path(next), why=WHY.get(why or ""))


@router.post("/login")
def post_login(
    request: Request, token: Annotated[str, Form(max_length=200)] = "", next: Annotated[str | None, Form()] = None
) -> Response:
    """Open a session and go where one wanted to; open to everybody who has a token."""
    wanted = own_path(next)
    try:
        secret, identity = open_session(request, token.strip())
    except ApiError as error:
        if error.status not in ABOUT_THE_TOKEN:
            raise
        return page(request, "login.html", None, status=error.status, next=wanted, why=error.detail)
    response = back_to(wanted)
    set_cookie(request, response, secret, identity)
    return response


@router.post("/logout")
def post_logout(request: Request) -> Response:
    """Close the session, if there is one."""
    response = back_to("/login")
    try:
        close_session(request, identify(request))
    except ApiError as error:
        if error.status != HTTPStatus.UNAUTHORIZED:
            raise
    clear_cookie(request, response)
    return response
