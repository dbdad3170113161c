"""How runs become rows of the table of trials."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.trial import TrialState

from storage.distributions import DOUBLE, ParameterSet, distribution_of, pack
from storage.importers.runs import Curve, PastRun, PastTask, RunColumns

MOST_PARAMETERS = 1_000  # of one run: more are a data set, not a configuration
LEAST_INTEGER, MOST_INTEGER = -(2**63), 2**63 - 1  # what a database holds

DETAILS = (
    "started_at",
    "finished_at",
    "cost_seconds",
    "epochs",
    "seed",
    "code_version",
    "data_fingerprint",
    "hardware",
    "checkpoint",
    "error",
)


class Row(NamedTuple):
    """A run on its way into the table. There are many: a tuple is made ten times faster than a frozen dataclass."""

    key: str
    state: int
    value: float | None
    set_index: int  # which of the batch's parameter sets
    configuration: bytes | None
    details: tuple[Any, ...]  # the columns of DETAILS
    curve: Curve = ()
    user_attrs: Mapping[str, Any] | None = None
    label: str | None = None

    @property
    def name(self) -> str:
        """What it is called in a report."""
        return self.label or self.key


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Rows of one study."""

    task: PastTask
    sets: tuple[ParameterSet, ...]
    rows: Sequence[Row]


def rows_of(task: PastTask, runs: Sequence[PastRun], reject: Callable[[str, str], None]) -> Batch:
    """Runs as rows; `reject` is told which cannot be, and why."""
    space = {name: distribution_of(name, fields) for name, fields in task.space.items()}
    sets: dict[tuple[str, ...], int] = {}
    rows = []
    for run in runs:
        problem = _problem(run, space)
        if problem is not None:
            reject(run.label or run.key, problem)
            continue
        names = tuple(name for name in space if name in run.params)
        index = sets.setdefault(names, len(sets))
        internal = [space[name].to_internal_repr(run.params[name]) for name in names]
        rows.append(_row(run, index, pack(map(float, internal)) if names else None))
    return Batch(task=task, sets=tuple(_subset(space, names) for names in sets), rows=rows)


def rows_of_table(task: PastTask, columns: RunColumns) -> Batch:
    """Columns as rows: configurations with the same parameters are packed together."""
    space = {name: distribution_of(name, fields) for name, fields in task.space.items()}
    n, d = columns.internal.shape
    active = ~np.isnan(columns.internal)
    patterns, kinds = np.ones((1, d), bool), np.zeros(n, np.int64)
    if not active.all():
        patterns, kinds = np.unique(active, axis=0, return_inverse=True)
        kinds = kinds.reshape(-1)
    configurations: list[bytes | None] = [None] * n
    for kind, pattern in enumerate(patterns):
        members = np.flatnonzero(kinds == kind)
        width = 8 * int(pattern.sum())
        packed = columns.internal[np.ix_(members, pattern)].astype(DOUBLE).tobytes()
        for position, member in enumerate(members.tolist()):
            configurations[member] = packed[position * width : (position + 1) * width] if width else None
    names = np.array(columns.names, dtype=object)
    sets = tuple(_subset(space, tuple(names[pattern])) for pattern in patterns)
    states = _states(columns).tolist()
    values = [None if math.isnan(value) else value for value in columns.values.tolist()]
    rows = map(
        Row,
        columns.keys,
        states,
        values,
        kinds.tolist(),
        configurations,
        _details(columns, n),
        _by_row(columns.curves, n, ()),
        _by_row(columns.user_attrs, n, None),
    )
    return Batch(task=task, sets=sets, rows=list(rows))


def _subset(space: Mapping[str, BaseDistribution], names: tuple[str, ...]) -> ParameterSet:
    return ParameterSet(names=names, distributions=tuple(space[name] for name in names))


def _problem(run: PastRun, space: Mapping[str, BaseDistribution]) -> str | None:
    """Why a run cannot be a trial; None if it can."""
    if len(run.params) > MOST_PARAMETERS:
        return f"too many parameters: {len(run.params):,}, at most {MOST_PARAMETERS:,} are one configuration"
    for name, value in run.params.items():
        if name not in space:
            return f"a parameter outside of the space: {name!r}"
        if not _is_in(space[name], value):
            return f"a value outside of the space: {name} = {value!r}"
    if run.state == TrialState.COMPLETE and (run.value is None or math.isnan(run.value)):
        return "no value: the run is complete but has none of the metric"
    if any(text is not None and "\0" in text for text in (run.key, *run.params, run.error, run.code_version)):
        return "a NUL character in a name: no database keeps it"
    if run.seed is not None and not LEAST_INTEGER <= run.seed <= MOST_INTEGER:
        return f"a seed that is too large: {run.seed}"
    return None


def _is_in(distribution: BaseDistribution, value: Any) -> bool:
    if isinstance(distribution, CategoricalDistribution):
        return any(value == choice and type(value) is type(choice) for choice in distribution.choices)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return False
    return distribution._contains(float(value))


def _row(run: PastRun, set_index: int, configuration: bytes | None) -> Row:
    value = None if run.value is None or math.isnan(run.value) else float(run.value)
    return Row(
        key=run.key,
        state=run.state.value,
        value=value,
        set_index=set_index,
        configuration=configuration,
        details=tuple(getattr(run, name) for name in DETAILS),
        curve=run.curve,
        user_attrs=run.user_attrs or None,
        label=run.label,
    )


def _states(columns: RunColumns) -> NDArray[np.int64]:
    if columns.states is not None:
        return columns.states
    has_value = ~np.isnan(columns.values)
    return np.where(has_value, TrialState.COMPLETE.value, TrialState.FAIL.value)


def _details(columns: RunColumns, n: int) -> Iterator[tuple[Any, ...]]:
    nothing: list[Any] = [None] * n
    floats = (columns.started_at, columns.finished_at, columns.cost_seconds)
    known = [nothing if column is None else _or_none(column) for column in floats]
    epochs = nothing if columns.epochs is None else _or_none(columns.epochs, as_int=True)
    seeds = nothing if columns.seeds is None else columns.seeds
    texts = [_by_row(column, n, None) for column in (columns.code_versions, columns.data_fingerprints)]
    more = [_by_row(column, n, None) for column in (columns.hardware, columns.checkpoints, columns.errors)]
    return zip(*known, epochs, seeds, *texts, *more, strict=True)


def _or_none(column: NDArray[np.float64], *, as_int: bool = False) -> list[Any]:
    convert = int if as_int else float
    return [None if math.isnan(value) else convert(value) for value in column.tolist()]


def _by_row(known: Mapping[int, Any] | None, n: int, otherwise: Any) -> list[Any]:
    if not known:
        return [otherwise] * n
    return [known.get(row, otherwise) for row in range(n)]
