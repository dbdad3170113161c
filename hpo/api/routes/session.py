"""`/session` and `/whoami`: how a browser logs in and out, and who one is."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, Field

from hpo.api.access import Anybody, Reader
from hpo.api.sessions import clear_cookie, close_session, open_session, set_cookie
from hpo.api.wire_accounts import WhoAmI, whoami_of

router = APIRouter(tags=["accounts"])


class Login(BaseModel):
    """What opens a session."""

    token: Annotated[str, Field(min_length=1, max_length=200, examples=["hpo_…"])]


@router.post("/session", status_code=201)
def log_in(request: Request, response: Response, login: Login) -> WhoAmI:
    """Open a browser's session with a token. It lasts 12 hours, in a cookie that scripts cannot read.

    Public, for the token says who it is; only this service's own pages may call it (`Origin`). After 10 wrong tokens
    in a minute it answers 429 for the rest of it.
    """
    secret, identity = open_session(request, login.token.strip())
    set_cookie(request, response, secret, identity)
    return whoami_of(identity)


@router.delete("/session", status_code=204)
def log_out(who: Reader, request: Request, response: Response) -> None:
    """Close the session."""
    close_session(request, who)
    clear_cookie(request, response)


@router.get("/whoami")
def whoami(who: Anybody) -> WhoAmI:
    """Whose token this is, and what it allows."""
    return whoami_of(who)
