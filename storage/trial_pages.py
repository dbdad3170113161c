"""Which trials of a study come next, in an order? Page by page, so that trials that come in shift nothing.

A page begins after a trial, which is known by what it is ordered by and its number. The database finds it by its
indexes where it can: a study's trials by number, and by value.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    LargeBinary,
    Select,
    Text,
    and_,
    cast,
    func,
    literal,
    or_,
    select,
)

from storage.database import Store
from storage.distributions import DOUBLE, ParameterSets
from storage.errors import StudyNotFoundError, TrialNotFoundError
from storage.history import TrialRecord, records_of
from storage.models import studies, trials
from storage.parameter_order import Ranks, after_key
from storage.queries import ROWS_AT_A_TIME
from storage.query_language import Field, QueryError, parse, parse_field
from storage.query_plan import TRIAL_COLUMNS, Plan, load_sets, plan
from storage.retries import retried

FEW = 1_000  # trials that have the parameters of a condition: all of them are looked at
PEEKED_ROWS = (300, 2_000)  # in order, among which a condition on parameters that many trials meet fills a page
FIRST_STRETCH, STRETCHED = 8_000, 4  # trials looked at at once, and how many times as many then (heuristic)
NUMBERS_LISTED = 10_000  # in a statement; SQLite takes at most 32,766 values
FIRST_ROWS = 200  # looked at, for a page of a hundred; heuristic
TRIALS_OF_A_ROW = 1_000  # so that no row grows too long: some megabytes with a hundred parameters
NUMBER = Field(room="column", name="number")
Position: TypeAlias = tuple[float | int | str | None, int]
"""Where a page ended: what its last trial is ordered by, and its number."""


@dataclass(frozen=True, kw_only=True)
class Sorting:
    """What trials are ordered by; those without it come last, and equal ones by number."""

    by: Field
    descending: bool


@dataclass(frozen=True, kw_only=True)
class TrialPage:
    """Some trials of a study."""

    trials: list[TrialRecord]
    end: Position | None  # where the next page begins; None: this was the last one


def order_of(text: str | None) -> Sorting:
    """What is meant by `value`, `-params.lr` (the greatest first) or nothing (by number). Raises QueryError."""
    name = (text or "number").strip()
    descending = name.startswith("-")
    found = parse_field(name.removeprefix("-"))
    if not (found.room == "params" or (found.room == "column" and found.name in TRIAL_COLUMNS)):
        known = ", ".join(TRIAL_COLUMNS)
        raise QueryError(f"the trials of a study are ordered by one of {known} or params.NAME, with - before it to "
                         "begin with the greatest", name)  # fmt: skip
    return Sorting(by=found, descending=descending)


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
            found = _by_column(asked, sets, wanted, after, limit + 1)
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
        """The rows of a query over `trials` that meet the condition, in batches that grow: few are often enough."""
        query = query.add_columns(*self.plan.columns).where(trials.c.study_id == self.study_id, self.plan.where)
        with self.connection.execute(query, execution_options={"yield_per": ROWS_AT_A_TIME}) as result:
            size = FIRST_ROWS
            while rows := result.fetchmany(size):
                yield self.plan.keep(rows)
                size = min(4 * size, ROWS_AT_A_TIME)

    def few(self, column: ColumnElement[Any]) -> list[Position] | None:
        """All trials that meet the condition, where few have the parameters that it takes; None: more have."""
        having = select(trials.c.number).where(self._within(0, None), self.plan.where).limit(FEW + 1).subquery()
        numbers = func.aggregate_strings(cast(having.c.number, Text), ",")
        count, told = self.connection.execute(select(func.count(), numbers).select_from(having)).one()
        if count > FEW:
            return None
        them = trials.c.study_id == self.study_id, trials.c.number.in_([int(each) for each in (told or "0").split(",")])
        rows = self.connection.execute(
            select(column, trials.c.number, *self.plan.columns).where(*them, self.plan.where)
        )
        return [(row[0], row[1]) for row in self.plan.keep(rows.all())]

    def peeked(self, query: Select[Any], column: ColumnElement[Any], rows: int) -> list[Position]:
        """Of the first trials of a query, those that meet the condition. Nothing else is said of them: by their ids
        they are found at once.
        """
        first = query.with_only_columns(trials.c.id).where(trials.c.study_id == self.study_id).limit(rows)
        among = select(column, trials.c.number, *self.plan.columns).where(trials.c.id.in_(first), self.plan.where)
        return [(row[0], row[1]) for row in self.plan.keep(self.connection.execute(among).all())]

    def placed(self, numbers: Sequence[int], order: Sorting) -> Iterator[Position]:
        """Trials that are known to meet the condition, with what they are ordered by."""
        column = TRIAL_COLUMNS[order.by.name]
        for start in range(0, len(numbers), NUMBERS_LISTED):
            some = trials.c.number.in_(numbers[start : start + NUMBERS_LISTED])
            query = select(column, trials.c.number).where(trials.c.study_id == self.study_id, some)
            for row in self.connection.execute(query):
                yield row[0], row[1]

    def numbers(self, sets: ParameterSets, low: int = 0, high: int | None = None) -> list[int]:
        """Those of the trials that meet the condition, from a number on, to before another; in no order."""
        found = self.configurations(sets, low, high)
        return [number for some, _ in found.values() for number in some.tolist()]

    def configurations(
        self, sets: ParameterSets, low: int = 0, high: int | None = None
    ) -> dict[int, tuple[NDArray[np.int64], NDArray[np.float64]]]:
        """The trials that meet the condition, by parameter set: their numbers, (n,), and internal values, (n, d).

        low, high: only of trials from that number on, and to before the other.
        """
        packed: dict[int, bytearray] = defaultdict(bytearray)
        if self.plan.is_exact or self.plan.is_of_configurations:
            which = self._within(low, high), self.plan.where
            is_sqlite = self.connection.dialect.name == "sqlite"
            for set_id, some in self.connection.execute(_packed(is_sqlite=is_sqlite).where(*which)).all():
                packed[set_id or 0] += bytes.fromhex(some) if is_sqlite else some
        else:
            query = select(trials.c.number, trials.c.parameter_set_id, trials.c.configuration)
            for rows in self.matching(query.order_by(trials.c.number)):
                for number, set_id, configuration, *_ in rows:
                    packed[set_id or 0] += number.to_bytes(8, "big") + (configuration or b"")
        known = load_sets(self.connection, sets, sorted(packed))
        found = {}
        for set_id, content in packed.items():
            kind = np.dtype([("number", ">i8"), ("values", DOUBLE, (len(known[set_id]),))])
            rows_of_set = np.frombuffer(content, kind)
            numbers, values = rows_of_set["number"].astype(np.int64), rows_of_set["values"].astype(np.float64)
            mask = slice(None) if not self.plan.is_of_configurations else self.plan.mask(known[set_id], values)
            found[set_id] = numbers[mask], values[mask]
        return found

    def _within(self, low: int, high: int | None) -> ColumnElement[bool]:
        """Trials of the study, in the order in which they lie: a number is said always so that SQLite takes its index.

        That of values is no larger, but leads to rows here and there, which takes three times as long.
        """
        below = () if high is None else (trials.c.number < high,)
        return and_(trials.c.study_id == self.study_id, trials.c.number >= low, *below)


def _by_column(asked: _Asked, sets: ParameterSets, order: Sorting, after: Position | None, most: int) -> list[Position]:
    """A condition on parameters that few trials meet is decided on configurations; the first rows tell whether it is
    one, and whether few have the parameters at all.
    """
    parts = _in_order(asked, order, after)
    if not asked.plan.is_of_configurations:
        return _first_of(asked, parts, most)
    few = asked.few(TRIAL_COLUMNS[order.by.name])
    if few is not None:
        return _beyond_in_order(few, after, order)[:most]
    for rows in PEEKED_ROWS:
        found = _sorted(asked.peeked(parts[0], TRIAL_COLUMNS[order.by.name], rows), order)
        if len(found) >= most:
            return found[:most]
    if order.by == NUMBER:
        return _by_number(asked, sets, order, after, most)
    return _beyond_in_order(asked.placed(asked.numbers(sets), order), after, order)[:most]


def _by_number(asked: _Asked, sets: ParameterSets, order: Sorting, after: Position | None, most: int) -> list[Position]:
    """Stretch by stretch, each longer than the one before, until there are enough."""
    last = asked.connection.execute(select(func.max(trials.c.number)).where(trials.c.study_id == asked.study_id))
    low, high = 0, (last.scalar() or 0) + 1
    if after is not None:
        low, high = (low, after[1]) if order.descending else (after[1] + 1, high)
    found: list[int] = []
    length = FIRST_STRETCH
    while low < high and len(found) < most:
        if order.descending:
            stretch = max(low, high - length), high
            high = stretch[0]
        else:
            stretch = low, min(high, low + length)
            low = stretch[1]
        found += sorted(asked.numbers(sets, *stretch), reverse=order.descending)
        length *= STRETCHED
    return [(number, number) for number in found[:most]]


def _in_order(asked: _Asked, order: Sorting, after: Position | None) -> list[Select[Any]]:
    """What a trial is ordered by, and its number: of all trials in order, one query after the other."""
    column: ColumnElement[Any] = TRIAL_COLUMNS[order.by.name]
    if order.by.kind == "text" and asked.connection.dialect.name == "postgresql":
        column = column.collate("C")
    query = select(column.label("ordered_by"), trials.c.number)
    direction = column.desc() if order.descending else column.asc()
    if order.by == NUMBER:
        return [query.where(*_later(after, order)).order_by(direction)]
    # those that have it, then the others: an index gives each part in order
    if after is not None and after[0] is None:
        return [query.where(column.is_(None), *_later(after, order)).order_by(trials.c.number)]
    having = query.where(column.is_not(None), *_beyond(column, after, descending=order.descending))
    return [having.order_by(direction, trials.c.number), query.where(column.is_(None)).order_by(trials.c.number)]


def _first_of(asked: _Asked, parts: Sequence[Select[Any]], most: int) -> list[Position]:
    """The first trials that meet the condition, of one query after the other."""
    found: list[Position] = []
    for part in parts:
        left = most - len(found)
        for rows in asked.matching(part.limit(left) if asked.plan.is_exact else part) if left else ():
            found += [(row[0], row[1]) for row in rows]
            if len(found) >= most:
                break
    return found[:most]


def _sorted(positions: Iterable[Position], order: Sorting) -> list[Position]:
    """In order: those without what they are ordered by come last, equal ones by number."""
    by_number = sorted(positions, key=lambda each: each[1])
    having = [each for each in by_number if each[0] is not None]
    having.sort(key=lambda each: each[0], reverse=order.descending)  # type: ignore[arg-type, return-value]
    return having + [each for each in by_number if each[0] is None]


def _beyond_in_order(positions: Iterable[Position], after: Position | None, order: Sorting) -> list[Position]:
    return [each for each in _sorted(positions, order) if _is_beyond(each, after, order)]


def _is_beyond(position: Position, after: Position | None, order: Sorting) -> bool:
    if after is None:
        return True
    if None in (position[0], after[0]):
        return position[0] is None and (after[0] is not None or position[1] > after[1])
    if position[0] == after[0]:
        return position[1] > after[1]
    is_less: bool = position[0] < after[0]  # type: ignore[operator]
    return is_less == order.descending


def _later(after: Position | None, order: Sorting) -> list[ColumnElement[bool]]:
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


def _packed(*, is_sqlite: bool) -> Select[Any]:
    """Numbers and configurations one after the other, by parameter set: text of hexadecimal digits, or bytes.

    A thousand trials are one row, as each row of SQLite's makes a thread wait for its turn among those of a server.
    """
    if is_sqlite:
        number = func.printf("%016X", trials.c.number)
        packed = func.group_concat(number.concat(func.hex(trials.c.configuration)), "")
    else:
        number = func.int8send(cast(trials.c.number, BigInteger), type_=LargeBinary)
        content = number.concat(func.coalesce(trials.c.configuration, literal(b"")))
        packed = func.string_agg(content, literal(b""), type_=LargeBinary)
    return select(trials.c.parameter_set_id, packed).group_by(
        trials.c.parameter_set_id, trials.c.number // TRIALS_OF_A_ROW
    )


def _by_parameter(
    asked: _Asked, sets: ParameterSets, order: Sorting, after: Position | None, most: int
) -> list[Position]:
    """As `_by_column`; the configurations of all trials in question are looked at, and few are kept."""
    found = asked.configurations(sets)
    if not found:
        return []
    ranks = Ranks(order.by.name, load_sets(asked.connection, sets, sorted(found)))
    numbers = np.concatenate([each for each, _ in found.values()])
    ranked = np.concatenate([ranks.keys_of(set_id, values) for set_id, (_, values) in found.items()])
    keys = np.where(np.isinf(ranked[:, :1]), ranked, -ranked) if order.descending else ranked
    places = np.arange(len(numbers))
    if after is not None:
        start = ranks.key_of_position(None if after[0] is None else str(after[0]))
        if order.descending and not np.isinf(start[0]):
            start = -start[0], -start[1]
        places = np.flatnonzero(after_key(keys, numbers, start, after[1]))
    chosen = places[np.lexsort((numbers[places], keys[places, 1], keys[places, 0]))[:most]]
    return [(ranks.position_of(ranked[place]), int(numbers[place])) for place in chosen.tolist()]


def _read(
    connection: Connection, numbers: Sequence[int], study_id: int, known: ParameterSets, *, full: bool
) -> list[TrialRecord]:
    """The trials with these numbers, in their order."""
    which = and_(trials.c.study_id == study_id, trials.c.number.in_(numbers))
    rows = connection.execute(select(trials).where(which)).all() if numbers else []
    ids = trials.c.id.in_([row.id for row in rows])
    found = {each.number: each for each in records_of(connection, rows, known, ids, full=full)}
    return [found[number] for number in numbers if number in found]
