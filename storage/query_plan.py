"""How a condition is decided: in SQL as far as its columns go, the rest on arrays of configurations.

What concerns the study is decided once per study, what a parameter set settles once per set; the database sends only
rows that may still hold, each with what it has decided of the rest. Everything here is two-valued: a comparison with
nothing is false, so `not` of it is true.
"""

import fnmatch
import json
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property, lru_cache
from operator import eq, ge, gt, le, lt, ne
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution, CategoricalDistribution
from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    Double,
    Text,
    and_,
    case,
    exists,
    false,
    func,
    literal,
    not_,
    or_,
    select,
    true,
)

from storage.database import Dialect
from storage.distributions import NOTHING, ParameterSet, ParameterSets, unpack
from storage.models import families, parameter_sets, studies, tasks, trial_attributes, trials
from storage.query_language import (
    ALWAYS,
    STATES,
    And,
    Atom,
    Between,
    Comparison,
    Condition,
    Field,
    IsNull,
    Like,
    Membership,
    Not,
    Operator,
    Or,
    Value,
    escaped_like,
    fold_case,
    glob_of,
)

MAX_SETS_LISTED = 10_000  # in a statement; SQLite takes at most 32,766 values
SETS_AT_A_TIME = 500  # each with up to some hundred distributions
DECISIONS_REMEMBERED = 10_000  # per comparison with an attribute
TAGS_ATTRIBUTE = "tags"  # user attribute of imported runs: {name: text}

STUDY_COLUMNS: Mapping[str, ColumnElement[Any]] = {
    "task": tasks.c.name,
    "metric": tasks.c.metric,
    "family": families.c.name,
    "study": studies.c.name,
    "source": studies.c.source,
    "direction": case((studies.c.directions.startswith('["maximize"', autoescape=True), "maximize"), else_="minimize"),
    "quarantine": studies.c.quarantine,
}
STUDIES = studies.outerjoin(tasks, studies.c.task_id == tasks.c.id).outerjoin(
    families, studies.c.family_id == families.c.id
)
TRIAL_COLUMNS: Mapping[str, ColumnElement[Any]] = {
    "state": trials.c.state,
    "value": trials.c.value,
    "number": trials.c.number,
    "seed": trials.c.seed,
    "epochs": trials.c.epochs,
    "cost": trials.c.cost_seconds,
    "started": trials.c.started_at,
    "finished": trials.c.finished_at,
    "worker": trials.c.worker,
    "error": trials.c.error,
    "code_version": trials.c.code_version,
    "data_fingerprint": trials.c.data_fingerprint,
    "hardware": trials.c.hardware,
    "checkpoint": trials.c.checkpoint,
}

Expression = ColumnElement[bool]
Mask = NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What to ask of the database, and what is then still to be decided about each row."""

    where: Expression  # necessary; sufficient where `is_exact`
    columns: tuple[ColumnElement[Any], ...]  # to select at the end of each row for `keep`
    _residual: "Condition | None"
    _decided: Mapping[Condition, int]  # which of the columns says whether a part of the residual holds
    _texts: Mapping[str, int]  # which of the columns is the JSON of an attribute
    _decisions: Mapping[str, Callable[[str | None], bool]]  # on that JSON, by the text of the comparison
    _sets: Mapping[int, ParameterSet]

    @property
    def is_exact(self) -> bool:
        """Whether every row that meets `where` meets the condition."""
        return self._residual is None

    @property
    def is_of_configurations(self) -> bool:
        """Whether parameters alone decide what is left to be decided: `mask` does."""
        return self._residual is not None and not self._decided and not self._texts

    def mask(self, parameter_set: ParameterSet, values: NDArray[np.float64]) -> Mask:
        """Which trials that meet `where` meet the condition, shape (n,), by their parameters alone.

        values: internal ones of trials of one set, shape (n, d).
        """
        assert self._residual is not None
        batch = _Batch(self, (), len(values), blocks=[(parameter_set, np.arange(len(values)), values)])
        return self._evaluate(self._residual, batch)

    def keep(self, rows: Sequence[Any]) -> Sequence[Any]:
        """Those rows that meet the condition, in their order."""
        if self._residual is None or not rows:
            return rows
        columns = list(zip(*rows, strict=True))
        mask = self._evaluate(self._residual, _Batch(self, columns[len(columns) - len(self.columns) :], len(rows)))
        return [rows[index] for index in np.flatnonzero(mask).tolist()]

    def _evaluate(self, condition: Condition, batch: "_Batch") -> Mask:
        column = self._decided.get(condition)
        if column is not None:
            return batch.column_is_true(column)
        match condition:
            case Not(part=part):
                return ~self._evaluate(part, batch)
            case And(parts=parts):
                return _all_of([self._evaluate(part, batch) for part in parts])
            case Or(parts=parts):
                return ~_all_of([~self._evaluate(part, batch) for part in parts])
        if condition.field.room == "params":
            return batch.decide_parameter(condition)
        return batch.decide_attribute(condition)


def plan(condition: Condition, connection: Connection, known: ParameterSets, dialect: Dialect) -> Plan:
    """How to decide the condition."""
    compiler = _Compiler(dialect)
    parts = condition.parts if isinstance(condition, And) else (condition,)
    in_sql = And(parts=tuple(part for part in parts if _is_sql(part)))
    rest = tuple(part for part in parts if not _is_sql(part))
    where = compiler.exact(in_sql)
    if not rest:
        return Plan(where=where, columns=(), _residual=None, _decided={}, _texts={}, _decisions={}, _sets={})
    residual = And(parts=rest)
    sets, candidates = _candidate_sets(residual, connection, known)
    columns: list[ColumnElement[Any]] = [trials.c.parameter_set_id, trials.c.configuration]
    decided: dict[Condition, int] = {}
    for part in _sql_parts(residual):
        decided.setdefault(part, len(columns))
        columns.append(case((compiler.exact(part), 1), else_=0))
    texts: dict[str, int] = {}
    decisions: dict[str, Callable[[str | None], bool]] = {}
    for atom in _atoms(residual):
        if atom.field.room in ("attrs", "tags"):
            decisions[str(atom)] = _attribute_decision(atom)
            key = _attribute_key(atom.field)
            if key not in texts:
                texts[key] = len(columns)
                columns.append(_attribute_text(key))
    conditions = [where, compiler.necessary(residual), _is_of_sets(sets.keys(), candidates)]
    return Plan(
        where=and_(true(), *(part for part in conditions if part is not None)),
        columns=tuple(column.label(f"decide_{index}") for index, column in enumerate(columns)),
        _residual=residual,
        _decided=decided,
        _texts=texts,
        _decisions=decisions,
        _sets=sets,
    )


# Which parts go where


def _is_sql(condition: Condition) -> bool:
    """Whether the database can decide it alone."""
    return all(_is_sql_atom(atom) for atom in _atoms(condition))


def _is_sql_atom(atom: Atom) -> bool:
    return atom.field.room == "column" or (atom.field.room == "attrs" and isinstance(atom, IsNull))


def _is_of_study(condition: Condition) -> bool:
    """Whether it holds for all trials of a study or for none."""
    return all(atom.field.room == "column" and atom.field.name in STUDY_COLUMNS for atom in _atoms(condition))


def _atoms(condition: Condition) -> Iterable[Atom]:
    match condition:
        case Not(part=part):
            yield from _atoms(part)
        case And(parts=parts) | Or(parts=parts):
            for part in parts:
                yield from _atoms(part)
        case _:
            yield condition


def _sql_parts(condition: Condition) -> Iterable[Condition]:
    """The largest parts that the database can decide alone."""
    if _is_sql(condition):
        yield condition
        return
    match condition:
        case Not(part=part):
            yield from _sql_parts(part)
        case And(parts=parts) | Or(parts=parts):
            for part in parts:
                yield from _sql_parts(part)


# In SQL


class _Compiler:
    """Conditions as expressions over `trials`."""

    def __init__(self, dialect: Dialect) -> None:
        self._dialect = dialect

    def exact(self, condition: Condition) -> Expression:
        """What holds exactly where the condition does; null counts as false."""
        if condition != ALWAYS and _is_of_study(condition):
            found = select(studies.c.id).select_from(STUDIES).where(self._of_parts(condition))
            return trials.c.study_id.in_(found.correlate(None))
        match condition:
            case And(parts=parts) | Or(parts=parts):
                of_study = tuple(part for part in parts if _is_of_study(part))
                others = tuple(part for part in parts if not _is_of_study(part))
                if of_study:  # one look at the studies for all of them
                    merged = of_study[0] if len(of_study) == 1 else type(condition)(parts=of_study)
                    join = and_ if isinstance(condition, And) else or_
                    return join(self.exact(merged), *map(self.exact, others))
        return self._of_parts(condition)

    def necessary(self, condition: Condition, *, negated: bool = False) -> Expression | None:
        """What holds at least where the condition, or its opposite, does; None: nothing is known."""
        if _is_sql(condition):
            expression = self.exact(condition)
            return _opposite(expression) if negated else expression
        match condition:
            case Not(part=part):
                return self.necessary(part, negated=not negated)
            case And(parts=parts) | Or(parts=parts):
                found = [self.necessary(part, negated=negated) for part in parts]
                certain = [expression for expression in found if expression is not None]
                if isinstance(condition, And) != negated:
                    return and_(*certain) if certain else None
                return or_(*certain) if len(certain) == len(found) else None
            case _:
                if condition.field.room in ("attrs", "tags") and not negated and not isinstance(condition, IsNull):
                    return _has_attribute(_attribute_key(condition.field))
                return None

    def _of_parts(self, condition: Condition) -> Expression:
        match condition:
            case And(parts=parts):
                return and_(true(), *map(self._part, parts))
            case Or(parts=parts):
                return or_(false(), *map(self._part, parts))
            case Not(part=part):
                return _opposite(self._part(part))
            case _:
                return self._atom(condition)

    def _part(self, condition: Condition) -> Expression:
        return self._of_parts(condition) if _is_of_study(condition) else self.exact(condition)

    def _atom(self, atom: Atom) -> Expression:
        if atom.field.room == "attrs":
            assert isinstance(atom, IsNull)
            has = _has_attribute(atom.field.name)
            return has if atom.negated else not_(has)
        column = {**STUDY_COLUMNS, **TRIAL_COLUMNS}[atom.field.name]
        match atom:
            case IsNull():
                return column.is_not(None) if atom.negated else column.is_(None)
            case Comparison():
                return self._compare(atom.field, column, atom.operator, atom.value)
            case Between():
                compare = self._compare
                if atom.negated:
                    return or_(compare(atom.field, column, "<", atom.low), compare(atom.field, column, ">", atom.high))
                return and_(compare(atom.field, column, ">=", atom.low), compare(atom.field, column, "<=", atom.high))
            case Membership():
                join = and_ if atom.negated else or_
                sign: Operator = "!=" if atom.negated else "="
                return join(*(self._compare(atom.field, column, sign, value) for value in atom.values))
            case Like():
                return self._like(column, atom)

    def _compare(self, field: Field, column: ColumnElement[Any], operator: Operator, value: Value) -> Expression:
        if field.kind == "integer":
            assert isinstance(value, int | float)
            return _compare_integer(column, operator, value)
        if field.kind == "text" and operator not in ("=", "!="):
            column = self._by_code_points(column)
        compared: Expression = _OPERATORS[operator](column, _bound(field, value))
        return compared

    def _like(self, column: ColumnElement[Any], atom: Like) -> Expression:
        pattern = fold_case(atom.pattern) if atom.ignore_case else atom.pattern
        text = func.lower(self._by_code_points(column), type_=Text) if atom.ignore_case else column
        if self._dialect == "sqlite":  # its own LIKE ignores case
            found: Expression = text.bool_op("GLOB")(literal(glob_of(pattern), Text))
        else:
            found = text.like(literal(escaped_like(pattern), Text), escape="\\")
        return and_(column.is_not(None), not_(found)) if atom.negated else found

    def _by_code_points(self, column: ColumnElement[Any]) -> ColumnElement[Any]:
        """The text as it is compared everywhere alike, whatever the database's locale."""
        return column if self._dialect == "sqlite" else column.collate("C")


_OPERATORS: dict[Operator, Callable[[Any, Any], Any]] = {"=": eq, "!=": ne, "<": lt, "<=": le, ">": gt, ">=": ge}


def _opposite(expression: Expression) -> Expression:
    """Where the expression is not true: false, or null."""
    return not_(func.coalesce(expression, false()))


def _bound(field: Field, value: Value) -> ColumnElement[Any]:
    if isinstance(value, datetime):
        return literal(value.timestamp(), Double)
    if field.kind == "number":
        assert isinstance(value, int | float)
        return literal(float(value), Double)
    if field.kind == "state":
        return literal(STATES.index(str(value)), BigInteger)
    return literal(value, Text)


_INT64 = (-(2**63), 2**63 - 1)


def _compare_integer(column: ColumnElement[Any], operator: Operator, value: float) -> Expression:
    """A column of integers against any number, exactly."""
    if math.isfinite(value):
        rounded = {"<": math.ceil, ">=": math.ceil, ">": math.floor, "<=": math.floor}.get(operator)
        whole = rounded(value) if rounded else int(value)
        if rounded is None and whole != value:
            return column.is_not(None) if operator == "!=" else false()
        if _INT64[0] <= whole <= _INT64[1]:
            compared: Expression = _OPERATORS[operator](column, literal(whole, BigInteger))
            return compared
    holds = operator == "!=" or (operator in ("<", "<=") if value > 0 else operator in (">", ">="))
    return column.is_not(None) if holds else false()


def _attribute_key(field: Field) -> str:
    return TAGS_ATTRIBUTE if field.room == "tags" else field.name


def _attribute(key: str) -> Expression:
    return and_(
        trial_attributes.c.trial_id == trials.c.id, trial_attributes.c.kind == "user", trial_attributes.c.key == key
    )


def _has_attribute(key: str) -> Expression:
    return exists().where(_attribute(key), trial_attributes.c.value != "null").correlate(trials)


def _attribute_text(key: str) -> ColumnElement[Any]:
    return select(trial_attributes.c.value).where(_attribute(key)).correlate(trials).scalar_subquery()


# By parameter set


def _candidate_sets(
    condition: Condition, connection: Connection, known: ParameterSets
) -> tuple[Mapping[int, ParameterSet], frozenset[int]]:
    """All parameter sets, and the numbers of those that a trial may have that meets the condition."""
    ids = [0, *connection.execute(select(parameter_sets.c.id)).scalars()]
    sets = load_sets(connection, known, ids)
    return sets, frozenset(number for number in ids if _settled(condition, sets[number]) is not False)


def load_sets(connection: Connection, known: ParameterSets, ids: Sequence[int]) -> dict[int, ParameterSet]:
    """The parameter sets with these numbers, any number of them."""
    sets: dict[int, ParameterSet] = {}
    for start in range(0, len(ids), SETS_AT_A_TIME):
        part = ids[start : start + SETS_AT_A_TIME]
        loaded = known.load(connection, part)
        sets |= {number: loaded[number] for number in part}
    return sets


def _settled(condition: Condition, parameter_set: ParameterSet) -> bool | None:
    """What the parameter set alone says of the condition; None: it depends."""
    match condition:
        case Not(part=part):
            inner = _settled(part, parameter_set)
            return None if inner is None else not inner
        case And(parts=parts):
            found = [_settled(part, parameter_set) for part in parts]
            return False if False in found else None if None in found else True
        case Or(parts=parts):
            found = [_settled(part, parameter_set) for part in parts]
            return True if True in found else None if None in found else False
    if condition.field.room != "params":
        return None
    distribution = parameter_set.by_name.get(condition.field.name)
    if distribution is None:
        return holds(condition, None)
    if not isinstance(distribution, CategoricalDistribution):
        return None if any(_as_number(value) is not None for value in _values_of(condition)) else holds(condition, 0.0)
    outcomes = {holds(condition, choice) for choice in distribution.choices}
    return outcomes.pop() if len(outcomes) == 1 else None


def _values_of(atom: Atom) -> Sequence[Value]:
    match atom:
        case Comparison():
            return (atom.value,)
        case Membership():
            return atom.values
        case Between():
            return atom.low, atom.high
        case _:
            return ()


def _is_of_sets(every: Iterable[int], candidates: frozenset[int]) -> Expression | None:
    others = frozenset(every) - candidates
    number = func.coalesce(trials.c.parameter_set_id, 0)
    if not others:
        return None
    if len(candidates) <= min(len(others), MAX_SETS_LISTED):
        return number.in_(sorted(candidates))
    return number.not_in(sorted(others)) if len(others) <= MAX_SETS_LISTED else None


# On arrays


Block: TypeAlias = tuple[ParameterSet, NDArray[np.intp], NDArray[np.float64]]
"""Configurations of one parameter set: the set, which rows, and their values, shape (n, d)."""


class _Batch:
    """Rows of which something is still to be decided, as columns."""

    def __init__(
        self, asked: Plan, columns: Sequence[Sequence[Any]], size: int, *, blocks: Sequence[Block] | None = None
    ) -> None:
        """blocks: the configurations, where they are not read of the columns."""
        self._plan = asked
        self._columns = columns
        self._size = size
        self._given = blocks

    def column_is_true(self, column: int) -> Mask:
        return np.array(self._columns[column], dtype=np.bool_)

    def decide_parameter(self, atom: Atom) -> Mask:
        mask = np.full(self._size, holds(atom, None))
        for parameter_set, rows, block in self._blocks:
            if atom.field.name in parameter_set.names:
                column = parameter_set.names.index(atom.field.name)
                mask[rows] = _decide_values(atom, parameter_set.distributions[column], block[:, column])
        return mask

    def decide_attribute(self, atom: Atom) -> Mask:
        texts = self._columns[self._plan._texts[_attribute_key(atom.field)]]
        return np.fromiter(map(self._plan._decisions[str(atom)], texts), np.bool_, count=self._size)

    @cached_property
    def _blocks(self) -> Sequence[Block]:
        """Configurations by parameter set."""
        if self._given is not None:
            return self._given
        configurations = self._columns[1]
        ids = np.array([number or 0 for number in self._columns[0]], dtype=np.int64)
        blocks = []
        for number in np.unique(ids).tolist():
            parameter_set = self._plan._sets.get(number, NOTHING)
            rows = np.flatnonzero(ids == number)
            if parameter_set.names:
                joined = unpack(b"".join(configurations[row] or b"" for row in rows.tolist()))
                blocks.append((parameter_set, rows, joined.reshape(len(rows), len(parameter_set.names))))
        return blocks


def _decide_values(atom: Atom, distribution: BaseDistribution, values: NDArray[np.float64]) -> Mask:
    """values: shape (n,), internal."""
    if isinstance(distribution, CategoricalDistribution):
        table: Mask = np.array([holds(atom, choice) for choice in distribution.choices], dtype=np.bool_)
        chosen: Mask = table[values.astype(np.intp)]
        return chosen
    match atom:
        case IsNull():
            return np.full(len(values), atom.negated)
        case Comparison():
            return _compare_numbers(values, atom.operator, atom.value)
        case Membership():
            others = _all_of([_compare_numbers(values, "!=", value) for value in atom.values])
            return others if atom.negated else ~others
        case Between():
            inside = _compare_numbers(values, ">=", atom.low) & _compare_numbers(values, "<=", atom.high)
            return ~inside if atom.negated else inside
        case Like():
            return np.full(len(values), atom.negated)  # a number is like no text


def _all_of(masks: Sequence[Mask]) -> Mask:
    found: Mask = np.logical_and.reduce(masks)
    return found


def _compare_numbers(values: NDArray[np.float64], operator: Operator, value: Value) -> Mask:
    number = _as_number(value)
    if number is None:
        return np.full(len(values), operator == "!=")
    found: Mask = _OPERATORS[operator](values, number)
    return found


def _attribute_decision(atom: Atom) -> Callable[[str | None], bool]:
    """Whether the JSON text of the attribute meets the comparison; what was decided lately is remembered."""

    @lru_cache(maxsize=DECISIONS_REMEMBERED)
    def decide(text: str | None) -> bool:
        value = None if text is None else json.loads(text)
        if atom.field.room == "tags":
            value = value.get(atom.field.name) if isinstance(value, dict) else None
        return holds(atom, value)

    return decide


# One value


def holds(atom: Atom, value: Any) -> bool:
    """Whether a parameter's or an attribute's value meets the comparison; None: there is none."""
    if isinstance(atom, IsNull):
        return (value is None) != atom.negated
    if value is None:
        return False
    match atom:
        case Comparison():
            return _compare(value, atom.operator, atom.value)
        case Membership():
            return any(_compare(value, "=", other) for other in atom.values) != atom.negated
        case Between():
            return (_compare(value, ">=", atom.low) and _compare(value, "<=", atom.high)) != atom.negated
        case Like():
            return _is_like(value, atom) != atom.negated


def _compare(value: Any, operator: Operator, other: Value) -> bool:
    """Texts as texts, numbers as numbers, and a text that reads as a number as one beside a number."""
    pair = _comparable(value, other)
    if pair is None:
        return operator == "!="
    return bool(_OPERATORS[operator](*pair))


def _comparable(value: Any, other: Value) -> tuple[Any, Any] | None:
    if isinstance(value, str) and isinstance(other, str):
        return value, other
    read: Callable[[Any], Any] = _as_truth if isinstance(value, bool) or isinstance(other, bool) else _as_number
    pair = read(value), read(other)
    return None if None in pair else pair


def _as_truth(value: Any) -> bool | None:
    if isinstance(value, bool):
        return value
    return {"true": True, "false": False}.get(value.lower()) if isinstance(value, str) else None


def _as_number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        return float(value)
    except ValueError:
        return None
    except OverflowError:
        return math.copysign(math.inf, value)  # type: ignore[arg-type]


def _is_like(value: Any, atom: Like) -> bool:
    if not isinstance(value, str):
        return False
    pattern = fold_case(atom.pattern) if atom.ignore_case else atom.pattern
    return _expression(pattern).match(fold_case(value) if atom.ignore_case else value) is not None


@lru_cache(maxsize=256)
def _expression(pattern: str) -> re.Pattern[str]:
    return re.compile(fnmatch.translate(glob_of(pattern)))
