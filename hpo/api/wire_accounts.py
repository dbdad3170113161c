"""What tokens, their owners and the audit log look like in JSON. A secret is in one answer only: that which made it."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import BaseModel, Field

from hpo.api.access import ALLOWED, Identity
from storage.audit import AuditEntry
from storage.tokens import Role


class WhoAmI(BaseModel):
    """Whoever asks."""

    owner: str
    role: Role
    permissions: list[str]  # of read, operate, work, administer
    expires_at: datetime | None  # of the token or session that was sent; null: never


class Token(BaseModel):
    """A token, without its secret."""

    id: int
    owner: str
    role: Role
    hint: str  # its last characters
    created_by: str
    created_at: datetime
    expires_at: datetime | None  # null: never
    revoked_at: datetime | None
    used_at: datetime | None  # to the minute
    is_valid: bool


class NewToken(Token):
    """A token that was just made."""

    secret: str = Field(description="Shown here once; only a digest of it is kept.")


class AuditRecord(BaseModel):
    """Who changed what."""

    id: int
    at: datetime
    who: str
    action: str  # e.g. study.pause
    subject: str  # what it was done to
    details: dict[str, Any] | None


def whoami_of(identity: Identity) -> WhoAmI:
    """An identity's fields."""
    return WhoAmI(
        owner=identity.owner,
        role=identity.role,
        permissions=[permission for permission in ALLOWED if permission != "enter" and identity.may(permission)],
        expires_at=identity.token.expires_at,
    )


def record_of(entry: AuditEntry) -> AuditRecord:
    """An entry's fields."""
    return AuditRecord(
        id=entry.entry_id,
        at=entry.at,
        who=entry.who,
        action=entry.action,
        subject=entry.subject,
        details=None if entry.details is None else dict(entry.details),
    )
