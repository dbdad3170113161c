"""Who changed what by the service: a log that is only ever added to.

A change and its entry never part: whatever is changed by somebody is given its `Doer`, and makes the entry in its own
transaction.
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
from storage.retries import retried


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


def note_within(
    connection: Connection, doer: Doer | None, subject: str, *, details: Mapping[str, Any] | None = None
) -> None:
    """Add the entry of a change to its transaction; none for what nobody has to account for.

    details: in addition to the doer's; without a secret, as those.
    """
    if doer is None:
        return
    privacy, told = current(), {**(doer.details or {}), **(details or {})}
    shown = json.dumps(privacy.document(told), default=str) if told else None
    row = {"at": time.time(), "who": privacy.user(doer.who), "details": shown}
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
