"""Pages of trials of the whole history, in the words of `hpo history query --json`."""

from __future__ import annotations

from pydantic import TypeAdapter
from pydantic_core import PydanticSerializationError
from typing_extensions import TypedDict

from hpo.answers.trial_table import HistoryTrial, row_fields
from hpo.api.answers import as_json
from hpo.api.paging import decode_cursor, encode_cursor
from hpo.api.problems import ApiError
from storage.database import Store
from storage.queries import page_of_trials

LARGEST = 2**31  # no history has more trials


class HistoryPage(TypedDict):
    """Some trials, and what asks for more."""

    items: list[HistoryTrial]
    next: str | None  # null: that was the last page


_PAGE = TypeAdapter(HistoryPage)


def in_json(page: HistoryPage) -> bytes:
    """As it is sent, written by its type: for long pages, in a ninth of the processor time that `as_json` takes."""
    try:
        return _PAGE.dump_json(page, warnings=False)
    except (PydanticSerializationError, UnicodeEncodeError):  # half a surrogate pair, which other answers let pass
        return bytes(as_json(page).body)


def history_page(
    store: Store, *, where: str, order: str | None, limit: int, cursor: str | None, curves: bool
) -> HistoryPage:
    """The trials that meet a condition and come after the page before."""
    name = (order or "").strip()
    after = decode_cursor(cursor, tuple[str, int])
    if after is not None and (after[0] != name or not 0 <= after[1] < LARGEST):
        raise ApiError(422, "invalid-cursor", "this cursor is of another order; begin without one")
    page = page_of_trials(
        store,
        where,
        order_by=name.removeprefix("-") or None,
        descending=name.startswith("-"),
        after=None if after is None else after[1],
        limit=limit,
        curves=curves,
    )
    return {
        "items": [row_fields(row, curves=curves) for row in page.rows],
        "next": None if page.end is None else encode_cursor([name, page.end]),
    }
