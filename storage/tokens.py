"""Who may use the service: tokens, of which only a digest is kept, and the browser sessions opened with them.

A token is 256 random bits, so that a plain digest protects it: there is nothing to guess.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any, Literal, get_args

from sqlalchemy import Connection, delete, insert, or_, select, update

from storage.audit import Doer, note_within
from storage.database import Store
from storage.errors import StorageError, TokenNotFoundError
from storage.models import tokens
from storage.privacy import current
from storage.retries import Call, retried, retried_call

Role = Literal["viewer", "operator", "admin", "worker"]
ROLES: tuple[Role, ...] = get_args(Role)
PREFIX = "hpo_"  # so that scanners for leaked secrets find it
HINT_LENGTH = 4
LONGEST_OWNER = 100
DEFAULT_DAYS = 90.0  # that a token lasts unless somebody says
LEAST_DAYS, MOST_DAYS = 0.001, 36_500.0
USED_EVERY_SECONDS = 60.0  # how exactly the last use is known


@dataclass(frozen=True, kw_only=True)
class Token:
    """What is known of a token: everything but its secret."""

    token_id: int
    owner: str
    role: Role
    hint: str  # its last characters
    session_of: int | None  # the token that a browser session was opened with
    created_by: str
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    used_at: datetime | None

    def is_valid(self, *, now: datetime) -> bool:
        """Whether it still opens anything."""
        return self.revoked_at is None and (self.expires_at is None or now < self.expires_at)


def create_token(
    store: Store,
    *,
    owner: str,
    role: Role,
    created_by: str,
    lifetime_seconds: float | None = None,
    session_of: int | None = None,
    doer: Doer | None = None,
) -> tuple[str, Token]:
    """Make a token; returns its secret, which is kept nowhere, and what is known of it.

    owner: a person or machine, 1 to 100 printable characters without a slash, which ends it in the names of workers.
    doer: who does it, for the log. Raises StorageError.
    """
    if role not in ROLES:
        raise StorageError(f"role {role!r} is unknown; use one of {', '.join(ROLES)}")
    if not owner.strip() or len(owner) > LONGEST_OWNER or not owner.isprintable() or "/" in owner:
        raise StorageError(f"owner {owner!r} is no name; use 1 to {LONGEST_OWNER} printable characters, and no slash")
    owner, created_by = current().user(owner), current().user(created_by)
    secret = PREFIX + secrets.token_urlsafe(32)
    now = time.time()
    row = {
        "owner": owner,
        "role": role,
        "digest": _digest(secret),
        "hint": secret[-HINT_LENGTH:],
        "session_of": session_of,
        "created_by": created_by,
        "created_at": now,
        "expires_at": None if lifetime_seconds is None else now + lifetime_seconds,
    }
    return secret, _insert(store, row, doer)


@retried_call
def _insert(store: Store, call: Call, row: Mapping[str, Any], doer: Doer | None) -> Token:
    same = select(tokens).where(tokens.c.digest == row["digest"])
    with store.write() as connection:
        made = connection.execute(same).first() if call.is_repeated else None
        if made is not None:
            return _token(made)  # and its reply was lost
        token = _token(connection.execute(insert(tokens).values(row).returning(tokens)).one())
        _note(connection, doer, token)
        return token


@retried
def find_token(store: Store, secret: str) -> Token | None:
    """The token of that secret, valid or not; a session ends with the token that it was opened with."""
    with store.read() as connection:
        row = connection.execute(select(tokens).where(tokens.c.digest == _digest(secret))).first()
        if row is None:
            return None
        if row.session_of is None:
            return _token(row)
        opener = connection.execute(select(tokens).where(tokens.c.id == row.session_of)).first()
    return _session(_token(row), None if opener is None else _token(opener))


@retried
def note_use(store: Store, token: Token) -> None:
    """Remember that it was used, to the minute: most uses write nothing."""
    now = time.time()
    if token.used_at is not None and now - token.used_at.timestamp() < USED_EVERY_SECONDS:
        return
    with store.write(durable=False) as connection:
        connection.execute(update(tokens).where(tokens.c.id == token.token_id).values(used_at=now))


@retried
def list_tokens(store: Store) -> list[Token]:
    """All tokens but the browser sessions, oldest first."""
    with store.read() as connection:
        rows = connection.execute(select(tokens).where(tokens.c.session_of.is_(None)).order_by(tokens.c.id)).all()
    return [_token(row) for row in rows]


@retried
def revoke_token(store: Store, token_id: int, *, doer: Doer | None = None) -> Token:
    """End a token and the sessions opened with it; again is fine. doer: for the log. Raises TokenNotFoundError."""
    concerned = or_(tokens.c.id == token_id, tokens.c.session_of == token_id)
    with store.write() as connection:
        ended = connection.execute(
            update(tokens).where(concerned, tokens.c.revoked_at.is_(None)).values(revoked_at=time.time())
        )
        row = connection.execute(select(tokens).where(tokens.c.id == token_id)).first()
        if row is None:
            raise TokenNotFoundError(f"There is no token with id {token_id}.")
        if ended.rowcount:
            _note(connection, doer, _token(row))
    return _token(row)


@retried
def remove_ended_sessions(store: Store) -> None:
    """Forget the browser sessions that are over."""
    is_over = or_(tokens.c.expires_at < time.time(), tokens.c.revoked_at.is_not(None))
    with store.write(durable=False) as connection:
        connection.execute(delete(tokens).where(tokens.c.session_of.is_not(None), is_over))


@retried
def has_tokens(store: Store, *, roles: Sequence[Role] = ROLES) -> bool:
    """Whether anybody holds a valid token of one of these roles."""
    now = datetime.now(UTC)
    return any(token.role in roles and token.is_valid(now=now) for token in list_tokens(store))


def _note(connection: Connection, doer: Doer | None, token: Token) -> None:
    """A session is known by the token that it was opened with."""
    if token.session_of is not None:
        note_within(connection, doer, f"token {token.session_of}")
        return
    told = {"owner": token.owner, "role": token.role, "expires_at": token.expires_at}
    note_within(connection, doer, f"token {token.token_id}", details=told)


def _session(session: Token, opener: Token | None) -> Token | None:
    if opener is None or opener.is_valid(now=datetime.now(UTC)):
        return session if opener is not None else None
    return opener  # which says why: revoked or expired


def _digest(secret: str) -> str:
    return sha256(secret.encode()).hexdigest()


def _token(row: Any) -> Token:
    return Token(
        token_id=row.id,
        owner=row.owner,
        role=row.role,
        hint=row.hint,
        session_of=row.session_of,
        created_by=row.created_by,
        created_at=datetime.fromtimestamp(row.created_at, UTC),
        expires_at=_time(row.expires_at),
        revoked_at=_time(row.revoked_at),
        used_at=_time(row.used_at),
    )


def _time(seconds: float | None) -> datetime | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)
