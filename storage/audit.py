"""Who changed what by the service: a log that is only ever added to.

Where a change and its entry must not part, the change is given its `Doer` and makes the entry in its own transaction.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, insert, select

from storage.database import Store
from storage.models import audit
from storage.privacy import current
from storage.retries import Call, retried, retried_call


@dataclass(frozen=True, kw_only=True)
class AuditEntry:
    """One change."""

    entry_id: int
    at: datetime
    who: str
    action: str  # e.g. study.pause
    subject: str  # what it was done to
    details: Mapping[str, Any] | None


@dataclass(frozen=True, kw_only=True)
class Doer:
    """Who changes something, and what that is called in the log. Details must hold no secret."""

    who: str
    action: str
    details: Mapping[str, Any] | None = None


@retried_call
def note(
    store: Store, call: Call, *, who: str, action: str, subject: str, details: Mapping[str, Any] | None = None
) -> None:
    """Add an entry. Details must hold no secret."""
    with store.write() as connection:
        same = select(audit.c.id).where(audit.c.at == call.at, audit.c.action == action, audit.c.subject == subject)
        if call.is_repeated and connection.execute(same).first() is not None:
            return  # its reply was lost
        note_within(connection, Doer(who=who, action=action, details=details), subject, at=call.at)


def note_within(connection: Connection, doer: Doer | None, subject: str, *, at: float | None = None) -> None:
    """Add the entry of a change to its transaction; none for what nobody has to account for."""
    if doer is None:
        return
    privacy = current()
    details = None if doer.details is None else json.dumps(privacy.document(doer.details), default=str)
    row = {"at": time.time() if at is None else at, "who": privacy.user(doer.who), "details": details}
    connection.execute(insert(audit).values(action=doer.action, subject=subject, **row))


@retried
def list_entries(
    store: Store, *, limit: int = 100, before: int | None = None, action: str | None = None, who: str | None = None
) -> list[AuditEntry]:
    """The newest entries first. before: the id of the entry that the last page ended with."""
    query = select(audit).order_by(audit.c.id.desc()).limit(limit)
    if before is not None:
        query = query.where(audit.c.id < before)
    if action is not None:
        query = query.where(audit.c.action == action)
    if who is not None:
        query = query.where(audit.c.who == who)
    with store.read() as connection:
        rows = connection.execute(query).all()
    return [
        AuditEntry(
            entry_id=row.id,
            at=datetime.fromtimestamp(row.at, UTC),
            who=row.who,
            action=row.action,
            subject=row.subject,
            details=None if row.details is None else json.loads(row.details),
        )
        for row in rows
    ]
