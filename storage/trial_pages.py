"""Which trials of a study come next, in an order? Page by page, so that trials that come in shift nothing.

A page begins after a trial, which is known by what it is ordered by and its number. The database finds it by its
indexes where it can: a study's trials by number, and by value.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from sqlalchemy import ColumnElement, Connection, Select, and_, or_, select

from storage.database import Store
from storage.distributions import ParameterSets
from storage.errors import StudyNotFoundError, TrialNotFoundError
from storage.history import TrialRecord, records_of
from storage.models import studies, trials
from storage.parameter_order import Ranks, after_key
from storage.queries import ROWS_AT_A_TIME
from storage.query_language import Field, QueryError, parse, parse_field
from storage.query_plan import TRIAL_COLUMNS, Plan, load_sets, plan
from storage.retries import retried

NUMBER = Field(room="column", name="number")
Position: TypeAlias = tuple[float | int | str | None, int]
"""Where a page ended: what its last trial is ordered by, and its number."""


@dataclass(frozen=True, kw_only=True)
class Order:
    """What trials are ordered by; those without it come last, and equal ones by number."""

    by: Field
    descending: bool


@dataclass(frozen=True, kw_only=True)
class TrialPage:
    """Some trials of a study."""

    trials: list[TrialRecord]
    end: Position | None  # where the next page begins; None: this was the last one


def order_of(text: str | None) -> Order:
    """What is meant by `value`, `-params.lr` (the greatest first) or nothing (by number). Raises QueryError."""
    name = (text or "number").strip()
    descending = name.startswith("-")
    found = parse_field(name.removeprefix("-"))
    if not (found.room == "params" or (found.room == "column" and found.name in TRIAL_COLUMNS)):
        known = ", ".join(TRIAL_COLUMNS)
        raise QueryError(f"the trials of a study are ordered by one of {known} or params.NAME, with - before it to "
                         "begin with the greatest", name)  # fmt: skip
    return Order(by=found, descending=descending)


@retried
def trial_page(
    store: Store,
    study_id: int,
    *,
    where: str = "",
    order: str | None = None,
    after: Position | None = None,
    limit: int = 100,
    full: bool = True,
    known: ParameterSets | None = None,
) -> TrialPage:
    """The first trials that meet a condition (`storage.query_language`) and come after a position.

    full: with the values that they reported. known: what is remembered of parameter sets from page to page.
    Raises QueryError, StudyNotFoundError.
    """
    condition, wanted, sets = parse(where), order_of(order), known or ParameterSets()
    with store.read() as connection:
        _check_study(connection, study_id)
        asked = _Asked(connection=connection, plan=plan(condition, connection, sets, store.dialect), study_id=study_id)
        if wanted.by.room == "params":
            found = _by_parameter(asked, sets, wanted, after, limit + 1)
        else:
            found = _by_column(asked, wanted, after, limit + 1)
        shown = found[:limit]
        records = _read(connection, [number for _, number in shown], study_id, sets, full=full)
    return TrialPage(trials=records, end=shown[-1] if len(found) > limit else None)


@retried
def trial_numbered(store: Store, study_id: int, number: int, *, known: ParameterSets | None = None) -> TrialRecord:
    """One trial of a study. Raises StudyNotFoundError, TrialNotFoundError."""
    with store.read() as connection:
        found = _read(connection, [number], study_id, known or ParameterSets(), full=True)
        if not found:
            name = _check_study(connection, study_id)
            last = connection.execute(
                select(trials.c.number).where(trials.c.study_id == study_id).order_by(trials.c.number.desc()).limit(1)
            ).scalar()
            there = "it has none yet" if last is None else f"it has 0 … {last}"
            raise TrialNotFoundError(f"There is no trial {number} in study {name!r}; {there}.")
    return found[0]


def _check_study(connection: Connection, study_id: int) -> str:
    name = connection.execute(select(studies.c.name).where(studies.c.id == study_id)).scalar()
    if name is None:
        raise StudyNotFoundError(f"There is no study with id {study_id}.")
    return str(name)


@dataclass(frozen=True, kw_only=True)
class _Asked:
    """Which trials, in one transaction."""

    connection: Connection
    plan: Plan
    study_id: int

    def matching(self, query: Select[Any]) -> Iterator[Sequence[Any]]:
        """The rows of a query over `trials` that meet the condition, batch by batch."""
        query = query.add_columns(*self.plan.columns).where(trials.c.study_id == self.study_id, self.plan.where)
        with self.connection.execute(query, execution_options={"yield_per": ROWS_AT_A_TIME}) as result:
            for rows in result.partitions():
                yield self.plan.keep(rows)


def _by_column(asked: _Asked, order: Order, after: Position | None, most: int) -> list[Position]:
    column: ColumnElement[Any] = TRIAL_COLUMNS[order.by.name]
    if order.by.kind == "text" and asked.connection.dialect.name == "postgresql":
        column = column.collate("C")
    is_number = order.by.name == NUMBER.name
    query = select(column.label("ordered_by"), trials.c.number)
    direction = column.desc() if order.descending else column.asc()
    if is_number:
        parts = [query.where(*_later(after, order)).order_by(direction)]
    else:  # those that have it, then the others: an index gives each part in order
        parts = [query.where(column.is_(None), *_later(after, order)).order_by(trials.c.number)]
        if after is None or after[0] is not None:
            having = query.where(column.is_not(None), *_beyond(column, after, descending=order.descending))
            parts = [
                having.order_by(direction, trials.c.number),
                query.where(column.is_(None)).order_by(trials.c.number),
            ]
    found: list[Position] = []
    for part in parts:
        left = most - len(found)
        for rows in asked.matching(part.limit(left) if asked.plan.is_exact else part) if left else ():
            found += [(row[0], row[1]) for row in rows]
            if len(found) >= most:
                break
    return found[:most]


def _later(after: Position | None, order: Order) -> list[ColumnElement[bool]]:
    """By number alone."""
    if after is None:
        return []
    is_falling = order.descending and order.by == NUMBER
    return [trials.c.number < after[1] if is_falling else trials.c.number > after[1]]


def _beyond(column: ColumnElement[Any], after: Position | None, *, descending: bool) -> list[ColumnElement[bool]]:
    """By what they are ordered by, equal ones by number."""
    if after is None:
        return []
    value, number = after
    further = column < value if descending else column > value
    at_least = column <= value if descending else column >= value  # which lets an index begin there
    return [at_least, or_(further, trials.c.number > number)]


def _by_parameter(
    asked: _Asked, sets: ParameterSets, order: Order, after: Position | None, most: int
) -> list[Position]:
    """As `_by_column`; the configurations of all trials in question are looked at, and few are kept."""
    query = select(trials.c.number, trials.c.parameter_set_id, trials.c.configuration)
    query = query.order_by(trials.c.number)
    numbers_of: dict[int, list[int]] = defaultdict(list)
    configurations_of: dict[int, list[bytes | None]] = defaultdict(list)
    for rows in asked.matching(query):
        for number, set_id, configuration, *_ in rows:
            numbers_of[set_id or 0].append(number)
            configurations_of[set_id or 0].append(configuration)
    if not numbers_of:
        return []
    ranks = Ranks(order.by.name, load_sets(asked.connection, sets, sorted(numbers_of)))
    numbers = np.concatenate([np.array(each) for each in numbers_of.values()])
    keys = np.concatenate([ranks.keys_of(*each) for each in configurations_of.items()])
    if order.descending:
        keys = np.where(np.isinf(keys[:, :1]), keys, -keys)
    places = np.arange(len(numbers))
    if after is not None:
        start = ranks.key_of_position(None if after[0] is None else str(after[0]))
        if order.descending and not np.isinf(start[0]):
            start = -start[0], -start[1]
        places = np.flatnonzero(after_key(keys, numbers, start, after[1]))
    chosen = places[np.lexsort((numbers[places], keys[places, 1], keys[places, 0]))[:most]]
    described = [(each, configuration) for each, some in configurations_of.items() for configuration in some]
    return [(ranks.position_of(*described[place]), int(numbers[place])) for place in chosen.tolist()]


def _read(
    connection: Connection, numbers: Sequence[int], study_id: int, known: ParameterSets, *, full: bool
) -> list[TrialRecord]:
    """The trials with these numbers, in their order."""
    which = and_(trials.c.study_id == study_id, trials.c.number.in_(numbers))
    rows = connection.execute(select(trials).where(which)).all() if numbers else []
    ids = trials.c.id.in_([row.id for row in rows])
    found = {each.number: each for each in records_of(connection, rows, known, ids, full=full)}
    return [found[number] for number in numbers if number in found]
