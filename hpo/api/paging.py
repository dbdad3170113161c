"""How are long lists handed out? In pages, each with a cursor that asks for the next.

A cursor is opaque to clients; it holds where the last page ended, so that rows that come or go shift nothing.
"""

from __future__ import annotations

import base64
import json
from typing import Annotated, Any, Generic, TypeVar

from fastapi import Query
from pydantic import BaseModel, TypeAdapter

from hpo.api.problems import ApiError

MOST = 1_000
MOST_ROWS = 2**53  # that anybody counts: every database, and JSON, can hold it
T = TypeVar("T")

Limit = Annotated[int, Query(ge=1, le=MOST, description="How many at most.")]
Cursor = Annotated[str | None, Query(max_length=500, description="`next` of the page before.")]


class Page(BaseModel, Generic[T]):
    """Some of a list, and what asks for more."""

    items: list[T]
    next: str | None = None  # None: that was the last page


def encode_cursor(position: Any) -> str:
    """The cursor that stands for a JSON-able position."""
    return base64.urlsafe_b64encode(json.dumps(position).encode()).decode().rstrip("=")


def decode_cursor(cursor: str | None, kind: type[T]) -> T | None:
    """The position, of that type; None without a cursor. Raises ApiError 422 for one that was not made here.

    What it ends with, where that is a number, is one of a row or a count of rows.
    """
    if cursor is None:
        return None
    try:
        text = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))
        position = TypeAdapter(kind).validate_json(text, strict=True)
    except ValueError:  # a ValidationError is one
        raise ApiError(422, "invalid-cursor", "this cursor was not given out here; begin without one") from None
    row = position[-1] if isinstance(position, tuple) else position
    if isinstance(row, int) and not 0 <= row <= MOST_ROWS:
        raise ApiError(422, "invalid-cursor", "this cursor was not given out here; begin without one")
    return position
