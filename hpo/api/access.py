"""Who asks, and may they? Every route names its permission by the type of one parameter.

    def list_studies(who: Reader, ...)      viewer, operator, admin
    def pause_study(who: Operator, ...)     operator, admin
    def tell(who: Worker, ...)              worker, operator, admin
    def revoke(who: Admin, ...)             admin
    def whoami(who: Anybody, ...)           whoever has a valid token

A program sends its token as `Authorization: Bearer hpo_…`; a browser has a session in a cookie that scripts cannot
read. What a browser changes must come from our own pages (`Origin`), so that no other site can act for its user.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Literal
from urllib.parse import urlsplit

from fastapi import Depends, Request

from hpo.api.problems import ApiError
from hpo.service.state import Service
from storage import tokens
from storage.database import Store
from storage.tokens import ROLES, Role, Token

Permission = Literal["read", "operate", "work", "administer", "enter"]
ALLOWED: dict[Permission, frozenset[Role]] = {
    "read": frozenset({"viewer", "operator", "admin"}),
    "operate": frozenset({"operator", "admin"}),
    "work": frozenset({"worker", "operator", "admin"}),
    "administer": frozenset({"admin"}),
    "enter": frozenset(ROLES),
}
SESSION_COOKIE = "hindsight_session"
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})


@dataclass(frozen=True, kw_only=True)
class Identity:
    """Whoever sent a request."""

    owner: str
    role: Role
    token: Token

    def may(self, permission: Permission) -> bool:
        """Whether the role allows it."""
        return self.role in ALLOWED[permission]


@dataclass(frozen=True)
class Needs:
    """The dependency that lets only those through who may."""

    permission: Permission

    def __call__(self, request: Request) -> Identity:
        """Raises ApiError: 401 without a valid token, 403 without the permission."""
        identity = identify(request)
        if not identity.may(self.permission):
            wanted = " or ".join(sorted(ALLOWED[self.permission]))
            raise ApiError(403, "not-allowed", f"the role {identity.role} may not do this; it takes {wanted}")
        return identity


Reader = Annotated[Identity, Depends(Needs("read"))]
Operator = Annotated[Identity, Depends(Needs("operate"))]
Worker = Annotated[Identity, Depends(Needs("work"))]
Admin = Annotated[Identity, Depends(Needs("administer"))]
Anybody = Annotated[Identity, Depends(Needs("enter"))]


def service_of(request: Request) -> Service:
    """The service that the application belongs to."""
    service: Service = request.app.state.service
    return service


ServiceState = Annotated[Service, Depends(service_of)]


def identify(request: Request) -> Identity:
    """Who sent it. Raises ApiError 401."""
    identity = identity_of(service_of(request).store, _secret(request))
    request.state.identity = identity  # for the log of requests
    return identity


def identity_of(store: Store, secret: str) -> Identity:
    """Whoever holds that token. Raises ApiError 401 where it opens nothing."""
    token = tokens.find_token(store, secret)
    if token is None:
        raise _unauthorized("unknown-token", "this token is not known here")
    if token.revoked_at is not None:
        raise _unauthorized("revoked-token", "this token was revoked")
    if not token.is_valid(now=datetime.now(UTC)):
        raise _unauthorized("expired-token", f"this token expired on {token.expires_at:%Y-%m-%d %H:%M} UTC")
    tokens.note_use(store, token)
    return Identity(owner=token.owner, role=token.role, token=token)


def _secret(request: Request) -> str:
    header = request.headers.get("authorization")
    if header is not None:
        scheme, _, secret = header.partition(" ")
        if scheme.lower() != "bearer" or not secret.strip():
            raise _unauthorized("no-token", "send the token as `Authorization: Bearer hpo_…`")
        return secret.strip()
    cookie = request.cookies.get(SESSION_COOKIE)
    if cookie is None:
        raise _unauthorized("no-token", "send a token as `Authorization: Bearer hpo_…`")
    if request.method not in SAFE_METHODS:
        check_same_origin(request)
    return cookie


def check_same_origin(request: Request) -> None:
    """Raises ApiError where a browser says that the request comes from another site, or does not say where from."""
    origin = request.headers.get("origin")
    if origin is None or urlsplit(origin).netloc != request.headers.get("host"):
        raise ApiError(403, "cross-site", "a request that changes something must come from this service's own pages")


def _unauthorized(code: str, detail: str) -> ApiError:
    return ApiError(401, code, detail, headers={"WWW-Authenticate": "Bearer"})
