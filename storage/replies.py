"""What was a request answered, for when it is repeated? A client that got no answer cannot know whether it was heard.

An answer is kept under the key that the client gave, which counts for its token only. It does not wait for the disk:
where a power cut takes it, the request is answered anew.
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import delete, select

from storage.database import Store, database_now, insert_if_absent
from storage.models import replies
from storage.retries import retried

KEPT_SECONDS = 24 * 3600.0


@dataclass(frozen=True, kw_only=True)
class Reply:
    """An answer, and the request that it belongs to."""

    request: str  # digest of the request
    status: int  # of HTTP
    body: str  # JSON; empty where there was none


@retried
def recall(store: Store, token_id: int, key: str) -> Reply | None:
    """What a request with that key was answered; None where none was, or more than a day ago."""
    of_key = (replies.c.token_id == token_id, replies.c.key == key)
    query = select(replies.c.request, replies.c.status, replies.c.body).where(*of_key, _is_kept)
    with store.read() as connection:
        row = connection.execute(query).first()
    return None if row is None else Reply(request=row.request, status=row.status, body=row.body)


@retried
def keep(store: Store, token_id: int, key: str, reply: Reply) -> None:
    """Keep an answer. An older one under the same key stays, unless its day is over."""
    row = {"token_id": token_id, "key": key, "request": reply.request, "status": reply.status, "body": reply.body}
    of_key = (replies.c.token_id == token_id, replies.c.key == key)
    with store.write(durable=False) as connection:
        connection.execute(delete(replies).where(*of_key, ~_is_kept))
        connection.execute(insert_if_absent(store.dialect, replies).values(**row, created_at=database_now()))  # type: ignore[attr-defined]


@retried
def forget_old(store: Store) -> int:
    """Forget the answers whose day is over; returns how many."""
    with store.write(durable=False) as connection:
        return connection.execute(delete(replies).where(~_is_kept)).rowcount


_is_kept = replies.c.created_at > database_now() - KEPT_SECONDS
