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
    if after is not None:
        query = query.where(_comes_after(column, after, is_number=is_number, descending=order.descending))
    direction = column.desc() if order.descending else column.asc()
    query = query.order_by(direction if is_number else direction.nulls_last())
    if not is_number:
        query = query.order_by(trials.c.number)
    found: list[Position] = []
    query = query.limit(most) if asked.plan.is_exact else query
    for rows in asked.matching(query):
        found += [(row[0], row[1]) for row in rows]
        if len(found) >= most:
            break
    return found[:most]


def _comes_after(
    column: ColumnElement[Any], position: Position, *, is_number: bool, descending: bool
) -> ColumnElement[bool]:
    value, number = position
    if is_number:
        return column < number if descending else column > number
    if value is None:
        return and_(column.is_(None), trials.c.number > number)
    beyond = column < value if descending else column > value
    return or_(beyond, and_(column == value, trials.c.number > number), column.is_(None))


def _by_parameter(
    asked: _Asked, sets: ParameterSets, order: Order, after: Position | None, most: int
) -> list[Position]:
    """As `_by_column`; the configurations of all trials in question are looked at, and few are kept."""
    query = select(trials.c.number, trials.c.parameter_set_id, trials.c.configuration)
    query = query.order_by(trials.c.number)
    by_set: dict[int, list[Any]] = defaultdict(list)
    for rows in asked.matching(query):
        for row in rows:
            by_set[row[1] or 0].append(row)
    ranks = Ranks(order.by.name, load_sets(asked.connection, sets, sorted(by_set)))
    if not by_set:
        return []
    numbers = np.concatenate([[row[0] for row in members] for members in by_set.values()])
    keys = np.concatenate([ranks.keys_of(each, [row[2] for row in members]) for each, members in by_set.items()])
    start = None if after is None else ranks.key_of_position(None if after[0] is None else str(after[0]))
    if order.descending:
        keys = np.where(np.isinf(keys[:, :1]), keys, -keys)
        start = start if start is None or np.isinf(start[0]) else (-start[0], -start[1])
    if start is not None and after is not None:
        is_left = after_key(keys, numbers, start, after[1])
        keys, numbers = keys[is_left], numbers[is_left]
    chosen = np.lexsort((numbers, keys[:, 1], keys[:, 0]))[:most]
    values = {row[0]: (each, row[2]) for each, members in by_set.items() for row in members}
    found: list[Position] = []
    for number in numbers[chosen].tolist():
        set_id, configuration = values[number]
        found.append((ranks.position_of(set_id, configuration), int(number)))
    return found


def _read(
    connection: Connection, numbers: Sequence[int], study_id: int, known: ParameterSets, *, full: bool
) -> list[TrialRecord]:
    """The trials with these numbers, in their order."""
    which = and_(trials.c.study_id == study_id, trials.c.number.in_(numbers))
    rows = connection.execute(select(trials).where(which)).all() if numbers else []
    ids = trials.c.id.in_([row.id for row in rows])
    found = {each.number: each for each in records_of(connection, rows, known, ids, full=full)}
    return [found[number] for number in numbers if number in found]
