"""Who changed what by the service: a log that is only ever added to."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import insert, select

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


@retried
def note(store: Store, *, who: str, action: str, subject: str, details: Mapping[str, Any] | None = None) -> None:
    """Add an entry. Details must hold no secret."""
    privacy = current()
    who, text = privacy.user(who), None if details is None else json.dumps(privacy.document(details), default=str)
    with store.write() as connection:
        connection.execute(insert(audit).values(at=time.time(), who=who, action=action, subject=subject, details=text))


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
