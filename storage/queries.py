"""Which past runs meet a condition: row by row, counted, or summed up.

Everything streams: the database sends some thousand rows at a time, and no more of them are held.
"""

import json
import math
from collections import Counter, defaultdict
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import islice
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution, distribution_to_json
from optuna.trial import TrialState
from sqlalchemy import ColumnElement, Connection, Select, bindparam, case, func, select

from storage.database import Store
from storage.distributions import ParameterSets
from storage.models import intermediate_values, studies, trial_attributes, trials
from storage.parameter_order import Keys, Ranks
from storage.query_language import FIELDS, Condition, Field, QueryError, parse, parse_field
from storage.query_plan import STUDIES, STUDY_COLUMNS, TRIAL_COLUMNS, Plan, load_sets, plan

ROWS_AT_A_TIME = 10_000  # looked at
TRIALS_AT_A_TIME = 1_000  # read in full
STUDIES_REMEMBERED = 50_000

BEST: Literal["best"] = "best"  # to order by: complete trials first, by their value in the direction of their study


@dataclass(frozen=True, kw_only=True)
class TrialRow:
    """A trial with what it belongs to."""

    task: str | None
    study: str
    family: str | None
    source: str
    metric: str | None
    direction: str  # of the first objective
    number: int
    state: TrialState
    value: float | None  # of the first objective
    params: Mapping[str, Any]  # as the training code got them
    seed: int | None
    epochs: int | None
    cost_seconds: float | None
    started_at: datetime | None
    finished_at: datetime | None
    error: str | None
    worker: str | None
    code_version: str | None
    data_fingerprint: str | None
    hardware: str | None
    checkpoint: str | None
    quarantine: str | None  # why nobody must learn from its study
    attrs: Mapping[str, Any]  # user attributes
    curve: Mapping[int, float] | None  # by step, NaN where there was no number; None: not asked for


@dataclass(frozen=True, kw_only=True)
class StudyTotals:
    """What is in a study, of the trials that meet a condition."""

    study: str
    task: str | None
    family: str | None
    source: str
    metric: str | None
    direction: str
    quarantine: str | None
    trials: int
    complete: int
    cost_seconds: float
    best: float | None  # of the complete trials, finite
    best_number: int | None
    started_at: datetime | None  # the first of the trials
    finished_at: datetime | None  # the last of them


@dataclass(frozen=True, kw_only=True)
class TaskTotals:
    """The studies of a task together; a study without a task stands alone."""

    task: str | None
    metric: str | None
    direction: str
    studies: int
    trials: int
    complete: int
    cost_seconds: float
    best: float | None
    best_study: str | None
    best_number: int | None


@dataclass(frozen=True, kw_only=True)
class Totals:
    """What there is in all, of the trials that meet a condition."""

    trials: int
    counts: Mapping[TrialState, int]
    cost_seconds: float
    cost_known: int  # of how many trials the cost is known
    studies: tuple[StudyTotals, ...]  # as they were recorded
    tasks: tuple[TaskTotals, ...]  # by name


@dataclass(frozen=True, kw_only=True)
class Selection:
    """The trials that meet a condition, as of one moment."""

    parameters: Mapping[str, tuple[BaseDistribution, ...]]  # by name: what the trials may have drawn it from
    rows: Iterator[TrialRow]


def query_trials(
    store: Store,
    where: str | Condition = "",
    *,
    order_by: str | None = None,
    descending: bool = False,
    limit: int | None = None,
    curves: bool = False,
) -> Iterator[TrialRow]:
    """The trials that meet a condition (`storage.query_language`), one after the other.

    order_by: a field, `params.NAME`, or `best`: complete trials first, by value in the direction of their study.
    Trials that do not have it come last; equal ones as they were recorded. None: as they were recorded, or with
    `descending` the latest first.
    Raises QueryError at once, not when the first row is asked for.
    """
    condition = parse(where) if isinstance(where, str) else where
    order = _order(order_by, descending=descending)
    _check_limit(limit)
    return _stream(store, condition, order, limit, curves=curves)


@contextmanager
def select_trials(
    store: Store,
    where: str | Condition = "",
    *,
    order_by: str | None = None,
    descending: bool = False,
    limit: int | None = None,
    curves: bool = False,
) -> Iterator[Selection]:
    """As `query_trials`, and which parameters there are to expect: what a table with a column for each needs first."""
    condition = parse(where) if isinstance(where, str) else where
    order = _order(order_by, descending=descending)
    _check_limit(limit)
    with store.read() as connection:
        search = _Search(store, connection, condition)
        with closing(search.trials(search.ids(order, limit), curves=curves)) as rows:
            yield Selection(parameters=search.parameters(), rows=rows)


@dataclass(frozen=True, kw_only=True)
class RowPage:
    """Some of the trials that meet a condition."""

    rows: list[TrialRow]
    end: int | None  # for `after` of the next page; None: this was the last one


def page_of_trials(
    store: Store,
    where: str | Condition = "",
    *,
    order_by: str | None = None,
    descending: bool = False,
    after: int | None = None,
    limit: int,
    curves: bool = False,
) -> RowPage:
    """As `query_trials`, so many at a time.

    As they were recorded, trials that come in shift nothing; in another order a page begins after as many as were told.
    Raises QueryError.
    """
    condition = parse(where) if isinstance(where, str) else where
    order = _order(order_by, descending=descending)
    with store.read() as connection:
        search = _Search(store, connection, condition)
        if order.by == "recorded":
            ids = list(search.ids(order, limit + 1, after=after))
            end = ids[limit - 1] if len(ids) > limit else None
        else:
            told = after or 0
            ids = list(islice(search.ids(order, told + limit + 1), told, None))
            end = told + limit if len(ids) > limit else None
        return RowPage(rows=list(search.trials(iter(ids[:limit]), curves=curves)), end=end)


def count_trials(store: Store, where: str | Condition = "") -> int:
    """How many trials meet a condition. Raises QueryError."""
    condition = parse(where) if isinstance(where, str) else where
    with store.read() as connection:
        return _Search(store, connection, condition).count()


def totals(store: Store, where: str | Condition = "") -> Totals:
    """How many trials meet a condition, by state and by task, what they cost, and the best of each task.

    Raises QueryError.
    """
    condition = parse(where) if isinstance(where, str) else where
    with store.read() as connection:
        return _Search(store, connection, condition).totals()


def _stream(
    store: Store, condition: Condition, order: "_Order", limit: int | None, *, curves: bool
) -> Iterator[TrialRow]:
    with store.read() as connection:
        search = _Search(store, connection, condition)
        yield from search.trials(search.ids(order, limit), curves=curves)


# In which order


@dataclass(frozen=True, kw_only=True)
class _Order:
    by: Field | Literal["recorded", "best"]
    descending: bool


def _order(by: str | None, *, descending: bool) -> _Order:
    if by is None:
        return _Order(by="recorded", descending=descending)
    if by == BEST:
        return _Order(by=BEST, descending=descending)
    found = parse_field(by)
    if found.room not in ("column", "params"):
        raise QueryError(f"trials are ordered by one of {', '.join(FIELDS)}, best or params.NAME", by)
    return _Order(by=found, descending=descending)


def _check_limit(limit: int | None) -> None:
    if limit is not None and limit < 0:
        raise ValueError(f"a limit of {limit} trials makes no sense; it is at least 0")


# How it is found


class _Search:
    """One question in one transaction."""

    def __init__(self, store: Store, connection: Connection, condition: Condition) -> None:
        self._connection = connection
        self._sets = ParameterSets()
        self._dialect = store.dialect
        self._plan: Plan = plan(condition, connection, self._sets, store.dialect)
        self._studies: dict[int, dict[str, Any]] = {}

    def count(self) -> int:
        if self._plan.is_exact:
            query = select(func.count()).select_from(trials).where(self._plan.where)
            return int(self._connection.execute(query).scalar_one())
        return sum(len(rows) for rows in self._matching(select(trials.c.id)))

    def parameters(self) -> dict[str, tuple[BaseDistribution, ...]]:
        """The parameters of the trials that may meet the condition, in the order of their parameter sets."""
        query = select(trials.c.parameter_set_id).where(self._plan.where).distinct()
        ids = sorted(number or 0 for number in self._connection.execute(query).scalars())
        found: dict[str, dict[str, BaseDistribution]] = {}
        for parameter_set in load_sets(self._connection, self._sets, ids).values():
            for name, distribution in parameter_set.by_name.items():
                found.setdefault(name, {})[distribution_to_json(distribution)] = distribution
        return {name: tuple(distributions.values()) for name, distributions in found.items()}

    def ids(self, order: _Order, limit: int | None, *, after: int | None = None) -> Iterator[int]:
        """The numbers of the trials that meet the condition. after: one of them, in the order of recording."""
        if limit == 0:
            return iter(())
        if isinstance(order.by, Field) and order.by.room == "params":
            return iter(self._ids_by_parameter(order.by.name, limit, descending=order.descending))
        query = self._ordered(select(trials.c.id), order)
        if after is not None:
            query = query.where(trials.c.id < after if order.descending else trials.c.id > after)
        if self._plan.is_exact and limit is not None:
            query = query.limit(limit)
        return islice((row[0] for rows in self._matching(query) for row in rows), limit)

    def trials(self, ids: Iterator[int], *, curves: bool) -> Generator[TrialRow, None, None]:
        """The trials with these numbers, in their order."""
        while batch := list(islice(ids, TRIALS_AT_A_TIME)):
            yield from self._read(batch, curves=curves)

    def totals(self) -> Totals:
        summed: dict[int, _StudySum] = defaultdict(_StudySum)
        counts: Counter[int] = Counter()
        row = trials.c
        query = select(
            row.study_id, row.number, row.state, row.value, row.cost_seconds, row.started_at, row.finished_at
        )
        for rows in self._matching(query.order_by(row.id)):
            for found in rows:
                counts[found.state] += 1
                summed[found.study_id].add(found)
        known = self._known_studies(summed)
        parts = [_study_totals(known[study_id], summed[study_id]) for study_id in sorted(summed)]
        return Totals(
            trials=counts.total(),
            counts=dict.fromkeys(TrialState, 0) | {TrialState(state): count for state, count in counts.items()},
            cost_seconds=math.fsum(study.cost_seconds for study in parts),
            cost_known=sum(part.cost_known for part in summed.values()),
            studies=tuple(parts),
            tasks=tuple(_by_task(parts)),
        )

    def _matching(self, query: Select[Any]) -> Iterator[Sequence[Any]]:
        """The rows of a query over `trials` that meet the condition, batch by batch, with more columns at their end."""
        asked = query.add_columns(*self._plan.columns).where(self._plan.where)
        with self._connection.execute(asked, execution_options={"yield_per": ROWS_AT_A_TIME}) as result:
            for rows in result.partitions():
                yield self._plan.keep(rows)

    def _ordered(self, query: Select[Any], order: _Order) -> Select[Any]:
        if order.by == "recorded":
            return query.order_by(trials.c.id.desc() if order.descending else trials.c.id)
        if order.by == BEST:
            is_last = case((trials.c.state == TrialState.COMPLETE.value, 0), else_=1)
            signed = case((STUDY_COLUMNS["direction"] == "maximize", -trials.c.value), else_=trials.c.value)
            query = query.select_from(trials.join(studies)).order_by(is_last)
            return query.order_by(_sorted(signed, descending=order.descending), trials.c.id)
        if order.by.name in TRIAL_COLUMNS:
            column = TRIAL_COLUMNS[order.by.name]
        else:
            column = STUDY_COLUMNS[order.by.name]
            query = query.select_from(trials.join(STUDIES, trials.c.study_id == studies.c.id))
        if order.by.kind == "text" and self._dialect == "postgresql":
            column = column.collate("C")
        return query.order_by(_sorted(column, descending=order.descending), trials.c.id)

    def _ids_by_parameter(self, name: str, limit: int | None, *, descending: bool) -> list[int]:
        """By the parameter's value: numbers, then texts; trials without it last. Holds two numbers per trial."""
        ranks = self._ranks(name)
        query = select(trials.c.id, trials.c.parameter_set_id, trials.c.configuration).order_by(trials.c.id)
        best = _Sorted(limit=limit, descending=descending)
        for rows in self._matching(query):
            by_set: dict[int, list[Any]] = defaultdict(list)
            for row in rows:
                by_set[row[1] or 0].append(row)
            for number, members in by_set.items():
                best.add(
                    np.array([row[0] for row in members]), ranks.keys_of_stored(number, [row[2] for row in members])
                )
        return best.ids()

    def _ranks(self, name: str) -> Ranks:
        query = select(trials.c.parameter_set_id).where(self._plan.where).distinct()
        ids = [number or 0 for number in self._connection.execute(query).scalars()]
        return Ranks(name, load_sets(self._connection, self._sets, ids))

    def _read(self, ids: Sequence[int], *, curves: bool) -> Iterator[TrialRow]:
        rows = {row.id: row for row in self._connection.execute(_TRIALS, {"ids": ids})}
        sets = self._sets.load(self._connection, {row.parameter_set_id for row in rows.values()})
        known = self._known_studies({row.study_id for row in rows.values()})
        attrs: dict[int, dict[str, Any]] = defaultdict(dict)
        for trial_id, key, value in self._connection.execute(_ATTRIBUTES, {"ids": ids}):
            attrs[trial_id][key] = json.loads(value)
        points: dict[int, dict[int, float]] = defaultdict(dict)
        for trial_id, step, value in self._connection.execute(_CURVES, {"ids": ids}) if curves else ():
            points[trial_id][step] = math.nan if value is None else value
        for trial_id in ids:
            row = rows[trial_id]
            yield TrialRow(
                **known[row.study_id],
                number=row.number,
                state=TrialState(row.state),
                value=row.value,
                params=sets[row.parameter_set_id or 0].decode(row.configuration),
                seed=row.seed,
                epochs=row.epochs,
                cost_seconds=row.cost_seconds,
                started_at=_utc(row.started_at),
                finished_at=_utc(row.finished_at),
                error=row.error,
                worker=row.worker,
                code_version=row.code_version,
                data_fingerprint=row.data_fingerprint,
                hardware=row.hardware,
                checkpoint=row.checkpoint,
                attrs=attrs.get(trial_id, {}),
                curve=points.get(trial_id, {}) if curves else None,
            )

    def _known_studies(self, ids: Iterable[int]) -> Mapping[int, Mapping[str, Any]]:
        """What is to be said of each study."""
        missing = sorted(set(ids) - self._studies.keys())
        if missing and len(self._studies) > STUDIES_REMEMBERED:
            self._studies.clear()
            missing = sorted(set(ids))
        for start in range(0, len(missing), ROWS_AT_A_TIME):
            part = missing[start : start + ROWS_AT_A_TIME]
            for study_id, *content in self._connection.execute(_STUDIES, {"ids": part}):
                self._studies[study_id] = dict(zip(STUDY_COLUMNS, content, strict=True))
        return self._studies


_TRIALS = select(trials).where(trials.c.id.in_(bindparam("ids", expanding=True)))
_ATTRIBUTES = select(trial_attributes.c.trial_id, trial_attributes.c.key, trial_attributes.c.value).where(
    trial_attributes.c.trial_id.in_(bindparam("ids", expanding=True)), trial_attributes.c.kind == "user"
)
_CURVES = (
    select(intermediate_values)
    .where(intermediate_values.c.trial_id.in_(bindparam("ids", expanding=True)))
    .order_by(intermediate_values.c.trial_id, intermediate_values.c.step)
)
_STUDIES = (
    select(studies.c.id, *(column.label(name) for name, column in STUDY_COLUMNS.items()))
    .select_from(STUDIES)
    .where(studies.c.id.in_(bindparam("ids", expanding=True)))
)


def _sorted(column: ColumnElement[Any], *, descending: bool) -> ColumnElement[Any]:
    return (column.desc() if descending else column.asc()).nulls_last()


def _utc(seconds: float | None) -> datetime | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)


# Sums


@dataclass(kw_only=True, slots=True)
class _StudySum:
    """What was seen of one study."""

    trials: int = 0
    complete: int = 0
    cost: float = 0.0
    cost_known: int = 0
    lowest: tuple[float, int] | None = None  # value and number of complete trials
    highest: tuple[float, int] | None = None
    started: float | None = None
    finished: float | None = None

    def add(self, row: Sequence[Any]) -> None:
        _, number, state, value, cost, started, finished, *_ = row
        self.trials += 1
        if cost is not None:
            self.cost += cost
            self.cost_known += 1
        if started is not None and (self.started is None or started < self.started):
            self.started = started
        if finished is not None and (self.finished is None or finished > self.finished):
            self.finished = finished
        if state != TrialState.COMPLETE.value:
            return
        self.complete += 1
        if value is not None and math.isfinite(value):
            if self.lowest is None or value < self.lowest[0]:
                self.lowest = value, number
            if self.highest is None or value > self.highest[0]:
                self.highest = value, number


def _study_totals(known: Mapping[str, Any], part: _StudySum) -> StudyTotals:
    best = part.highest if known["direction"] == "maximize" else part.lowest
    return StudyTotals(
        **known,
        trials=part.trials,
        complete=part.complete,
        cost_seconds=part.cost,
        best=None if best is None else best[0],
        best_number=None if best is None else best[1],
        started_at=_utc(part.started),
        finished_at=_utc(part.finished),
    )


def _by_task(found: Iterable[StudyTotals]) -> Iterator[TaskTotals]:
    groups: dict[tuple[str, ...], list[StudyTotals]] = defaultdict(list)
    for study in found:
        alone = study.study if study.task is None else ""
        groups[study.task or "", study.metric or "", study.direction, alone].append(study)
    for _, members in sorted(groups.items()):
        sign = -1.0 if members[0].direction == "maximize" else 1.0
        with_value = [(sign * study.best, index) for index, study in enumerate(members) if study.best is not None]
        best = members[min(with_value)[1]] if with_value else None
        yield TaskTotals(
            task=members[0].task,
            metric=members[0].metric,
            direction=members[0].direction,
            studies=len(members),
            trials=sum(study.trials for study in members),
            complete=sum(study.complete for study in members),
            cost_seconds=math.fsum(study.cost_seconds for study in members),
            best=None if best is None else best.best,
            best_study=None if best is None else best.study,
            best_number=None if best is None else best.best_number,
        )


# Ordered by a parameter


@dataclass(kw_only=True)
class _Sorted:
    """The first trials in an order, of those that were added."""

    limit: int | None
    descending: bool
    _ids: list[NDArray[np.int64]] = field(default_factory=list)
    _keys: list[Keys] = field(default_factory=list)
    _size: int = 0

    def add(self, ids: NDArray[np.int64], keys: Keys) -> None:
        if self.descending:
            keys = np.where(np.isinf(keys[:, :1]), keys, -keys)
        self._ids.append(ids)
        self._keys.append(keys)
        self._size += len(ids)
        if self.limit is not None and self._size > max(10 * self.limit, ROWS_AT_A_TIME):
            self._cut()

    def ids(self) -> list[int]:
        self._cut()
        return self._ids[0].tolist() if self._ids else []

    def _cut(self) -> None:
        if not self._ids:
            return
        ids, keys = np.concatenate(self._ids), np.concatenate(self._keys)
        kept = np.lexsort((ids, keys[:, 1], keys[:, 0]))[: self.limit]
        self._ids, self._keys, self._size = [ids[kept]], [keys[kept]], len(kept)
