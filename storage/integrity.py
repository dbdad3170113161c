"""Is everything in the history whole, and does it fit together?

Each check is a question to the database, or one pass over a table; none holds more than a slice of it. What a check
finds is said, never repaired: a backup or a person decides.
"""

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from itertools import islice
from typing import Any

import numpy as np
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from optuna.distributions import BaseDistribution, CategoricalDistribution, json_to_distribution
from optuna.trial import TrialState
from sqlalchemy import (
    CheckConstraint,
    ColumnElement,
    Connection,
    Select,
    Table,
    and_,
    case,
    func,
    inspect,
    literal_column,
    or_,
    select,
    text,
)
from sqlalchemy.exc import SQLAlchemyError

from storage import schema
from storage.database import Store, unavailable
from storage.errors import StoreUnavailableError
from storage.families import family_of, undeclared_spaces
from storage.late_results import COUNTS_AS, LATE_RESULT_OF
from storage.models import (
    distributions,
    families,
    family_summaries,
    intermediate_values,
    metadata,
    outbox,
    parameter_sets,
    sources,
    studies,
    study_attributes,
    study_changes,
    study_parameters,
    tasks,
    trial_attributes,
    trials,
)
from storage.seals import find_broken
from storage.studies import LATE_RESULTS_ATTRIBUTE

FINDINGS_PER_CHECK = 50
ROWS_AT_A_TIME = 20_000
SHARE_OF_CHECKS = 0.5  # of the time, on a history of a million trials; reading the seals takes the rest
DAMAGE = ("file", "references")  # checks that say: the database itself is broken
PROGRAMS = ("hindsight", "optuna")  # sources of studies that ran here

FINISHED = tuple(state.value for state in TrialState if state.is_finished())
Problem = tuple[str, str]  # what it is about, and what is wrong with it
Check = Callable[[Store, Connection], Iterator[Problem]]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """Something that is wrong."""

    check: str  # which check found it
    subject: str  # in what: a study, a trial, a table
    detail: str

    @property
    def is_damage(self) -> bool:
        """Whether the database itself is broken, rather than what is in it."""
        return self.check in DAMAGE


def verify(store: Store, *, progress: Callable[[float], None] | None = None) -> list[Finding]:
    """Everything that is wrong with the history; nothing when all is well. Changes nothing, and nobody waits for it.

    progress is told the share of the checks that are done.
    Raises StoreUnavailableError where there is no database, no history in it, or no server that answers;
    SchemaOutdatedError, SchemaTooNewError.
    """
    damaged = _state(store)
    if damaged is not None:
        return [damaged]
    tell = progress or (lambda _share: None)
    findings = []
    for done, (name, check) in enumerate(CHECKS.items(), start=1):
        findings += _made(store, name, check)
        tell(SHARE_OF_CHECKS * done / len(CHECKS))
    sealed = partial(find_broken, progress=lambda done: tell(SHARE_OF_CHECKS + (1 - SHARE_OF_CHECKS) * done))
    findings += _made(store, "seals", lambda _store, connection: sealed(connection))
    tell(1.0)
    return findings


def _state(store: Store) -> Finding | None:
    """Whether the database can be looked at at all; the finding if it is a damaged file."""
    try:
        state = schema.schema_state(store.url)
    except StoreUnavailableError as error:
        if store.path is None or not store.path.is_file():
            raise
        return Finding(check="file", subject=str(store.path), detail=_reason(error))
    if state.current is None:
        raise unavailable(store.url, "there is no history in this database.")
    if not state.is_current:
        raise schema.mismatch(store, state)
    return None


def _made(store: Store, name: str, check: Check) -> list[Finding]:
    """What one check finds, at one moment; at most so much, and whether there is more."""
    found: list[Finding] = []
    try:
        with store.read() as connection:
            problems = check(store, connection)
            found += [Finding(check=name, subject=s, detail=d) for s, d in islice(problems, FINDINGS_PER_CHECK)]
            if next(problems, None) is not None:
                found.append(Finding(check=name, subject="more", detail="there are more of these"))
    except StoreUnavailableError as error:
        if store.dialect != "sqlite":
            raise
        found.append(Finding(check="file", subject=f"what {name!r} looks at", detail=_reason(error)))
    except (SQLAlchemyError, TypeError, ValueError, LookupError, AttributeError) as error:
        # a table or a column is missing, or holds what it cannot: text where a number should be
        found.append(Finding(check=name, subject="what it looks at", detail=f"it cannot be read: {_reason(error)}"))
    return found


def _reason(error: Exception) -> str:
    """What the database said."""
    cause = error.__cause__ if isinstance(error, StoreUnavailableError) else error
    return str(getattr(cause, "orig", None) or error).strip()


# The database


def _file(store: Store, connection: Connection) -> Iterator[Problem]:
    if store.dialect == "sqlite":
        for (line,) in connection.execute(text(f"PRAGMA integrity_check({FINDINGS_PER_CHECK})")):
            for problem in line.splitlines():
                if problem != "ok" and not problem.startswith("***"):
                    yield str(store.path), problem
    else:
        for (name,) in connection.execute(text("SELECT indexrelid::regclass::text FROM pg_index WHERE NOT indisvalid")):
            yield f"index {name}", "it is not valid: REINDEX it"


def _references(store: Store, connection: Connection) -> Iterator[Problem]:
    if store.dialect == "sqlite":
        for table, row, parent, _ in connection.execute(text("PRAGMA foreign_key_check")):
            yield f"row {row} of {table}", f"it belongs to a row of {parent} that is not there"


def _schema(_store: Store, connection: Connection) -> Iterator[Problem]:
    options = {
        "compare_type": True,
        "compare_server_default": True,
        "version_table": schema.VERSION_TABLE,
        "include_name": lambda name, kind, parents: kind != "table" or name in metadata.tables,
    }
    for change in compare_metadata(MigrationContext.configure(connection, opts=options), metadata):
        for step in change if isinstance(change, list) else [change]:
            yield _place(step), f"not as the migrations make it: {str(step[0]).replace('_', ' ')} is needed"
    there = set(inspect(connection).get_table_names())
    for name, table in metadata.tables.items():
        if name not in there:
            continue  # said already
        found = {constraint["name"] for constraint in inspect(connection).get_check_constraints(name)}
        for constraint in table.constraints:
            if isinstance(constraint, CheckConstraint) and constraint.name not in found:
                yield f"table {name}", f"not as the migrations make it: the check {constraint.name} is missing"


def _place(step: Sequence[Any]) -> str:
    """The table, and its part, that a difference is about."""
    named = [part for part in step[1:] if part is not None]
    subject = named[-1] if named else step[0]
    table = getattr(subject, "table", None)
    name = getattr(subject, "name", None) or str(subject)
    return f"table {name}" if isinstance(subject, Table) else f"{name} of table {getattr(table, 'name', named[0])}"


# Studies


def _studies(_store: Store, connection: Connection) -> Iterator[Problem]:
    query = select(studies, tasks.c.direction.label("task_direction"), sources.c.name.label("known_source"))
    query = query.join_from(studies, tasks, isouter=True).outerjoin(sources, sources.c.name == studies.c.source)
    for row in _streamed(connection, query.order_by(studies.c.id)):
        subject = f"study {row.name!r}"
        directions = _parsed(row.directions)
        if not isinstance(directions, list) or not directions or not set(directions) <= {"minimize", "maximize"}:
            yield subject, f"its directions are {row.directions!r}"
        elif row.task_direction is not None and directions[0] != row.task_direction:
            yield subject, f"it is to {directions[0]} what its task is to {row.task_direction}"
        for column in ("space", "spec", "provenance"):
            value = getattr(row, column)
            if value is not None and not isinstance(_parsed(value), dict):
                yield subject, f"its {column} is not a JSON object"
        if row.source not in PROGRAMS and row.known_source is None:
            yield subject, f"it comes from {row.source!r}, and there is no such source"


def _families(_store: Store, connection: Connection) -> Iterator[Problem]:
    undeclared = undeclared_spaces(connection)
    query = (
        select(studies.c.id, studies.c.name, studies.c.space, studies.c.directions, studies.c.family_id)
        .add_columns(tasks.c.metric, families.c.name.label("family"), families.c.revision)
        .add_columns(study_changes.c.family_id.label("changed_in"), study_changes.c.revision.label("changed_at"))
        .add_columns(select(trials.c.id).where(_has_finished).exists().label("has_finished"))
        .join_from(studies, tasks, isouter=True)
        .outerjoin(families, families.c.id == studies.c.family_id)
        .outerjoin(study_changes, study_changes.c.study_id == studies.c.id)
        .order_by(studies.c.id)
    )
    for row in _streamed(connection, query):
        subject = f"study {row.name!r}"
        space = _parsed(row.space) if row.space else undeclared.get(row.id)
        directions = _parsed(row.directions)
        if not isinstance(space, dict) or not space or not isinstance(directions, list):
            if row.family_id is not None:
                yield subject, f"it is of family {row.family!r} and has no space"
            continue
        expected = family_of(space, row.metric, directions)
        if row.family is not None and row.family != expected:
            yield subject, f"it is of family {row.family!r}; by its space, metric and directions it is of {expected!r}"
        if not row.has_finished:
            continue
        if row.family is None:
            yield subject, f"it has finished trials and no family; it is of {expected!r}"
        elif row.changed_in is None:
            yield subject, "when its trials changed is not noted"
        elif row.changed_in != row.family_id or row.changed_at > row.revision:
            yield subject, "when its trials changed is noted by another family, or by a revision that never was"
    for row in connection.execute(select(families).order_by(families.c.id)):
        space, directions = _parsed(row.space), _parsed(row.directions)
        if not isinstance(space, dict) or not isinstance(directions, list):
            yield f"family {row.name!r}", "its space or its directions cannot be read"
        elif family_of(space, row.metric, directions) != row.name:
            yield f"family {row.name!r}", "its name is not that of its space, metric and directions"
    stale = select(families.c.name).join(family_summaries).where(family_summaries.c.revision > families.c.revision)
    for (name,) in connection.execute(stale):
        yield f"family {name!r}", "its summary is of a revision that never was"


def _numbers(_store: Store, connection: Connection) -> Iterator[Problem]:
    number, count = trials.c.number, func.count()
    query = (
        select(studies.c.name, count.label("count"), func.min(number).label("first"), func.max(number).label("last"))
        .join_from(trials, studies)
        .group_by(studies.c.id, studies.c.name)
        .having(or_(func.min(number) != 0, func.max(number) != count - 1))
    )
    for row in connection.execute(query):
        yield f"study {row.name!r}", f"its {row.count} trials are numbered from {row.first} to {row.last}, with gaps"


# Trials


def _outcomes(store: Store, connection: Connection) -> Iterator[Problem]:
    row = trials.c
    is_finished, is_running = row.state.in_(FINISHED), row.state == TrialState.RUNNING.value
    checks = {
        "it is complete and has no value": and_(row.state == TrialState.COMPLETE.value, row.value.is_(None)),
        "it is finished, and was not imported; when is not said": and_(
            is_finished, row.finished_at.is_(None), row.source_key.is_(None)
        ),
        "it has a lease and does not run": and_(~is_running, row.lease_until.is_not(None)),
        "it has a lease and nobody holds it": and_(is_running, row.lease_until.is_not(None), row.worker.is_(None)),
        "its attempts are fewer than none, or than its deaths": or_(
            row.attempt < 0, row.deaths < 0, row.deaths > row.attempt
        ),
        "it has further values and no first one": and_(row.value.is_(None), row.more_values.is_not(None)),
    }
    if store.dialect == "postgresql":  # SQLite has no NaN
        checks["its value is not a number"] = row.value == literal_column("'NaN'::float8")
    yield from _broken_rules(connection, checks)
    query = _described_trials(row.more_values, studies.c.directions).where(
        or_(row.more_values.is_not(None), func.length(studies.c.directions) > len('["minimize"]')),
        row.value.is_not(None),
    )
    for trial in _streamed(connection, query):
        values, directions = _parsed(trial.more_values or "[]"), _parsed(trial.directions)
        if not isinstance(values, list) or not all(map(_is_number, values)):
            yield _subject(trial), "its further values are not numbers"
        elif isinstance(directions, list) and len(values) + 1 != len(directions):
            yield _subject(trial), f"it has {len(values) + 1} values where its study has {len(directions)} objectives"


def _keys(_store: Store, connection: Connection) -> Iterator[Problem]:
    query = (
        select(studies.c.name, trials.c.source_key, func.count().label("count"))
        .join_from(trials, studies)
        .where(trials.c.source_key.is_not(None))
        .group_by(trials.c.source_key, trials.c.study_id, studies.c.name)
        .having(func.count() > 1)
    )
    for row in connection.execute(query):
        yield f"study {row.name!r}", f"the run {row.source_key!r} is in it {row.count} times"


def _parameters(_store: Store, connection: Connection) -> Iterator[Problem]:
    known = {}
    for row in connection.execute(select(distributions).order_by(distributions.c.id)):
        subject = f"distribution {row.id}"
        if row.digest != sha256(row.definition.encode()).hexdigest():
            yield subject, "its digest is not that of its definition"
        try:
            known[row.id] = json_to_distribution(row.definition)
        except (ValueError, KeyError, TypeError) as error:
            yield subject, f"it cannot be read: {error}"
    for row in connection.execute(select(parameter_sets).order_by(parameter_sets.c.id)):
        subject = f"parameter set {row.id}"
        if row.digest != sha256(row.definition.encode()).hexdigest():
            yield subject, "its digest is not that of its definition"
        content = _content(row.definition)
        if content is None:
            yield subject, "it cannot be read"
            continue
        if len({name for name, _ in content}) != len(content):
            yield subject, "a name is in it twice"
        missing = [number for _, number in content if number not in known]
        if missing:
            yield subject, f"it needs distributions that are not there, or cannot be read: {missing}"
    missing_in_study = (
        select(studies.c.name, study_parameters.c.name.label("parameter"))
        .join_from(study_parameters, studies)
        .where(study_parameters.c.distribution_id.not_in(select(distributions.c.id)))
    )
    for row in connection.execute(missing_in_study):
        yield f"study {row.name!r}", f"the distribution of {row.parameter!r} is not there"


def _configurations(_store: Store, connection: Connection) -> Iterator[Problem]:
    half = trials.c.parameter_set_id.is_(None) != trials.c.configuration.is_(None)
    yield from _broken_rules(connection, {"it has a parameter set or a configuration, but not both": half})
    drawn_from = _readable_sets(connection)
    columns = (trials.c.id, trials.c.parameter_set_id, trials.c.configuration)
    query = select(*columns).where(columns[1].is_not(None), columns[2].is_not(None))
    wrong: dict[int, str] = {}  # what is wrong with a trial, by id: a good many are looked at together
    for rows in _slices(connection, query):
        ids, set_ids, configurations = zip(*rows, strict=True)
        sets = np.array(set_ids)
        for number in np.unique(sets).tolist():
            if number in drawn_from:
                members = np.flatnonzero(sets == number).tolist()
                stored = [configurations[member] for member in members]
                for place, problem in _undecodable(stored, *drawn_from[number]):
                    wrong.setdefault(ids[members[place]], problem)
        if len(wrong) > FINDINGS_PER_CHECK:
            break
    described = _described_trials(trials.c.id).where(trials.c.id.in_(list(wrong)[: FINDINGS_PER_CHECK + 1]))
    for row in connection.execute(described.order_by(trials.c.id)):
        yield _subject(row), wrong[row.id]


def _undecodable(
    configurations: Sequence[bytes], names: Sequence[str], drawn_from: Sequence[BaseDistribution]
) -> Iterator[tuple[int, str]]:
    """Which of n configurations, by place, are not what a parameter set says, and why; d parameters."""
    d = len(names)
    sizes = np.fromiter(map(len, configurations), dtype=np.int64, count=len(configurations))
    for place in np.flatnonzero(sizes != 8 * d).tolist():
        yield place, f"its configuration has {sizes[place]} bytes for {d} parameters"
    fitting = np.flatnonzero(sizes == 8 * d)
    joined = b"".join(configurations[place] for place in fitting.tolist())
    matrix = np.frombuffer(joined, dtype="<f8").reshape(len(fitting), d)
    for column, (name, distribution) in enumerate(zip(names, drawn_from, strict=True)):
        values = matrix[:, column]
        wrong = ~np.isfinite(values)
        if isinstance(distribution, CategoricalDistribution):
            choices = len(distribution.choices)
            wrong |= (values != np.floor(values)) | (values < 0) | (values >= choices)
        for index in np.flatnonzero(wrong).tolist():
            yield int(fitting[index]), f"{name!r} cannot be {float(values[index])} (as it is stored)"


def _curves(store: Store, connection: Connection) -> Iterator[Problem]:
    if store.dialect == "postgresql":
        query = select(intermediate_values.c.trial_id, intermediate_values.c.step)
        for row in connection.execute(query.where(intermediate_values.c.value == literal_column("'NaN'::float8"))):
            yield f"trial with id {row.trial_id}", f"its value at step {row.step} must be null where it is not a number"


def _attributes(_store: Store, connection: Connection) -> Iterator[Problem]:
    of_studies = select(studies.c.name, study_attributes).join_from(study_attributes, studies)
    for row in _streamed(connection, of_studies):
        if _parsed(row.value, bad := object()) is bad:
            yield f"study {row.name!r}", f"its {row.kind} attribute {row.key!r} is not JSON"
    for row in _streamed(connection, select(trial_attributes)):
        if _parsed(row.value, bad := object()) is bad:
            yield f"trial with id {row.trial_id}", f"its {row.kind} attribute {row.key!r} is not JSON"


def _late_results(_store: Store, connection: Connection) -> Iterator[Problem]:
    query = (
        _described_trials(trials.c.study_id, trials.c.attempt, trials.c.value, trial_attributes.c.value.label("told"))
        .join(trial_attributes, trial_attributes.c.trial_id == trials.c.id)
        .where(trial_attributes.c.kind == "system")
    )
    having: dict[tuple[int, int], tuple[Any, ...]] = {}  # by study and number, whose late value a trial has
    for row in _streamed(connection, query.where(trial_attributes.c.key == LATE_RESULT_OF)):
        mark = _parsed(row.told)
        if not isinstance(mark, dict) or not all(type(mark.get(name)) is int for name in ("trial", "attempt")):
            yield _subject(row), "whose late value it has is not told as it is told"
        else:
            having[row.study_id, row.number] = (mark["trial"], mark["attempt"], row.value)
    for row in _streamed(connection, query.where(trial_attributes.c.key == LATE_RESULTS_ATTRIBUTE)):
        late = _parsed(row.told)
        if not isinstance(late, list) or not all(_is_late_result(each, row.attempt) for each in late):
            yield _subject(row), "its late results are not what late results are"
            continue
        for each in late:
            number = each.get(COUNTS_AS)
            has_it = having.get((row.study_id, number)) == (row.number, each["attempt"], each["value"])
            if number is not None and not has_it and (number, each["value"]) != (row.number, row.value):
                yield _subject(row), f"a late result counts as trial {number}, which does not have it"


def _outbox(_store: Store, connection: Connection) -> Iterator[Problem]:
    query = (
        select(outbox.c.id, outbox.c.trial_id, outbox.c.study_id, trials.c.study_id.label("owner"))
        .join_from(outbox, trials, outbox.c.trial_id == trials.c.id, isouter=True)
        .where(outbox.c.trial_id.is_not(None), or_(trials.c.id.is_(None), trials.c.study_id != outbox.c.study_id))
    )
    for row in connection.execute(query):
        what = "is not there" if row.owner is None else "is of another study"
        yield f"message {row.id} to MLflow", f"the trial with id {row.trial_id} that it is about {what}"
    for row in _streamed(connection, select(outbox.c.id, outbox.c.payload)):
        if not isinstance(_parsed(row.payload), dict):
            yield f"message {row.id} to MLflow", "its content is not a JSON object"


CHECKS: Mapping[str, Check] = {
    "file": _file,
    "references": _references,
    "schema": _schema,
    "studies": _studies,
    "families": _families,
    "numbers": _numbers,
    "outcomes": _outcomes,
    "keys": _keys,
    "parameters": _parameters,
    "configurations": _configurations,
    "curves": _curves,
    "attributes": _attributes,
    "late results": _late_results,
    "outbox": _outbox,
}


# How it is done

_has_finished = and_(
    trials.c.study_id == studies.c.id, trials.c.state.in_(FINISHED), trials.c.parameter_set_id.is_not(None)
)


def _described_trials(*columns: ColumnElement[Any]) -> Select[Any]:
    """Columns of trials, with what a person needs to find them."""
    return select(studies.c.name.label("study"), trials.c.number, *columns).join_from(trials, studies)


def _subject(row: Any) -> str:
    return f"trial {row.number} of study {row.study!r}"


def _broken_rules(connection: Connection, rules: Mapping[str, ColumnElement[bool]]) -> Iterator[Problem]:
    """The trials for which a rule's condition, that of its being broken, holds. One pass over the table."""
    which = case(*((condition, index) for index, condition in enumerate(rules.values())), else_=None)
    reasons = list(rules)
    query = _described_trials(which.label("rule")).where(or_(*rules.values()))
    for row in _streamed(connection, query):
        yield _subject(row), reasons[row.rule]


def _readable_sets(connection: Connection) -> dict[int, tuple[tuple[str, ...], tuple[BaseDistribution, ...]]]:
    """Names and distributions of the parameter sets that can be read; the others are another check's."""
    known = {}
    for row in connection.execute(select(distributions.c.id, distributions.c.definition)):
        try:
            known[row.id] = json_to_distribution(row.definition)
        except (ValueError, KeyError, TypeError):
            continue
    found = {}
    for row in connection.execute(select(parameter_sets.c.id, parameter_sets.c.definition)):
        content = _content(row.definition)
        if content is not None and all(number in known for _, number in content):
            names = tuple(name for name, _ in content)
            found[row.id] = (names, tuple(known[number] for _, number in content))
    return found


def _content(definition: str) -> list[tuple[str, int]] | None:
    """Names and distributions of a parameter set; None where it cannot be read."""
    parsed = _parsed(definition)
    try:
        content = [(name, number) for name, number in parsed]
    except (TypeError, ValueError):
        return None
    is_right = all(isinstance(name, str) and type(number) is int for name, number in content)
    return content if is_right and content else None


def _is_late_result(late: Any, attempts: int) -> bool:
    return (
        isinstance(late, dict)
        and type(late.get("attempt")) is int
        and 0 < late["attempt"] <= attempts
        and late.get("state") in TrialState.__members__
        and (late.get("value") is None or _is_number(late["value"]))
        and _is_number(late.get("received_at"))
        and isinstance(late.get("teller", ""), str)
        and type(late.get(COUNTS_AS, 0)) is int
        and isinstance(late.get("measured", {}), dict)
        and isinstance(late.get("checkpoint", ""), str)
        and all(_is_number(late.get(name, 0)) for name in ("finished_at", "cost_seconds", "epochs"))
    )


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and not math.isnan(value)


def _parsed(value: str, otherwise: Any = None) -> Any:
    try:
        return json.loads(value)
    except (ValueError, TypeError):
        return otherwise


def _streamed(connection: Connection, query: Select[Any]) -> Iterator[Any]:
    for rows in _slices(connection, query):
        yield from rows


def _slices(connection: Connection, query: Select[Any]) -> Iterator[Sequence[Any]]:
    return connection.execute(query, execution_options={"yield_per": ROWS_AT_A_TIME}).partitions()
