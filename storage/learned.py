"""What was learned from past runs, kept for other processes: a cache that forgets whatever the history forgets.

What is kept has a subject, and a watermark of all that it was learned from: who has the same watermark need not learn
again. Where trials or studies go away, all of it goes, and nothing learned before that is kept afterwards.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from sqlalchemy import Connection, bindparam, delete, select

from storage.database import Store, upsert
from storage.errors import StorageError
from storage.models import families, learned

Losses: TypeAlias = tuple[tuple[int, int], ...]  # per family when some of its trials last went away


@dataclass(frozen=True, kw_only=True)
class Learned:
    """What is kept of one subject."""

    watermark: str
    payload: bytes


def losses(store: Store) -> Losses:
    """What has gone away so far: to be asked before one learns, and given with what one keeps."""
    with store.read() as connection:
        return _losses(connection)


def recall(store: Store, subject: str) -> Learned | None:
    """What is kept of a subject, of whatever watermark."""
    with store.read() as connection:
        row = connection.execute(_OF_SUBJECT, {"subject": subject}).first()
    return None if row is None else Learned(watermark=row.watermark, payload=row.payload)


def keep(store: Store, subject: str, content: Learned, *, since: Losses) -> None:
    """Keep what was learned, unless something has gone away since; a store that cannot be written does without."""
    row = {"subject": subject, "watermark": content.watermark, "payload": content.payload}
    try:
        with store.write(durable=False) as connection:
            if _losses(connection, locked=True) == since:
                connection.execute(upsert(store.dialect, learned), row)
    except StorageError:
        return


def forget_all(connection: Connection) -> None:
    """Keep nothing of what was learned so far."""
    connection.execute(delete(learned))


def _losses(connection: Connection, *, locked: bool = False) -> Losses:
    """locked: nothing may go away before this transaction ends."""
    query = select(families.c.id, families.c.lost_at).order_by(families.c.id)
    rows = connection.execute(query.with_for_update(read=True) if locked else query)
    return tuple((row.id, row.lost_at) for row in rows)


_OF_SUBJECT = select(learned.c.watermark, learned.c.payload).where(learned.c.subject == bindparam("subject"))
