"""Pages of trials of the whole history, in the words of `hpo history query --json`."""

from __future__ import annotations

from typing import Any

from hpo.answers.plain import jsonable
from hpo.answers.trial_table import columns_of
from hpo.api.paging import Page, decode_cursor, encode_cursor
from hpo.api.problems import ApiError
from storage.database import Store
from storage.queries import page_of_trials

LARGEST = 2**31  # no history has more trials


def history_page(
    store: Store, *, where: str, order: str | None, limit: int, cursor: str | None, curves: bool
) -> Page[dict[str, Any]]:
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
    columns = columns_of({}, nested=True, curves=curves)
    items = [{column.name: jsonable(column.of(row)) for column in columns} for row in page.rows]
    return Page(items=items, next=None if page.end is None else encode_cursor([name, page.end]))
