"""How does a browser stay logged in? By a session of its own, in a cookie that scripts cannot read.

A token opens a session, which is a token too (`storage.tokens`): it ends after some hours, when it is closed, and with
the token that opened it. The cookie never leaves this service (`SameSite=Strict`), and where browsers come by https,
it never goes out without.
"""

from __future__ import annotations

from datetime import UTC, datetime

from fastapi import Request
from fastapi.responses import Response

from hpo.api.access import SESSION_COOKIE, Identity, check_same_origin, identity_of, service_of
from hpo.api.problems import ApiError
from hpo.service.wrong_tokens import WrongTokens
from storage import tokens
from storage.audit import Doer

LIFETIME_SECONDS = 12 * 3600.0


def open_session(request: Request, secret: str) -> tuple[str, Identity]:
    """A session for whoever holds that token: its secret, for `set_cookie`, and who it is.

    Raises ApiError: 401 for a token that opens nothing, 403 for a worker's and for another site's pages, 429 after too
    many wrong tokens.
    """
    check_same_origin(request)
    wrong_tokens: WrongTokens = request.app.state.wrong_tokens
    address = request.client.host if request.client else "?"
    if (wait := wrong_tokens.seconds_to_wait(address)) > 0:
        raise ApiError(
            429,
            "too-many-attempts",
            f"too many wrong tokens came from {address}; try again in {wait:.0f} s",
            headers={"Retry-After": f"{wait:.0f}"},
        )
    store = service_of(request).store
    try:
        opener = identity_of(store, secret)
    except ApiError:
        wrong_tokens.note_failure(address)
        raise
    if not opener.may("read"):
        raise ApiError(403, "not-allowed", f"a token with the role {opener.role} is for a program: it opens no pages")
    wrong_tokens.forget(address)
    tokens.remove_ended_sessions(store)
    opened_by = opener.token.session_of or opener.token.token_id
    session, token = tokens.create_token(
        store,
        owner=opener.owner,
        role=opener.role,
        created_by=opener.owner,
        lifetime_seconds=LIFETIME_SECONDS,
        session_of=opened_by,
        doer=Doer(who=opener.owner, action="session.open"),
    )
    return session, Identity(owner=opener.owner, role=opener.role, token=token)


def close_session(request: Request, identity: Identity) -> None:
    """End the session that a request came with; a token that was sent as such stays."""
    if identity.token.session_of is not None:
        doer = Doer(who=identity.owner, action="session.close")
        tokens.revoke_token(service_of(request).store, identity.token.token_id, doer=doer)


def set_cookie(request: Request, response: Response, secret: str, identity: Identity) -> None:
    """Let the browser keep the session."""
    ends = identity.token.expires_at
    assert ends is not None
    response.set_cookie(
        SESSION_COOKIE,
        secret,
        max_age=int((ends - datetime.now(UTC)).total_seconds()),
        path="/",
        secure=is_secure(request),
        httponly=True,
        samesite="strict",
    )


def clear_cookie(request: Request, response: Response) -> None:
    """Let the browser forget it."""
    response.delete_cookie(SESSION_COOKIE, path="/", secure=is_secure(request), httponly=True, samesite="strict")


def is_secure(request: Request) -> bool:
    """Whether the browser came by https, itself or by the proxy that is trusted to say so."""
    return service_of(request).is_secure or request.url.scheme == "https"
