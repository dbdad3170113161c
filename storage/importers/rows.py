"""How runs become rows of the table of trials."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.trial import TrialState

from storage.distributions import DOUBLE, ParameterSet, pack
from storage.importers.runs import Curve, PastRun, PastTask, RunColumns
from storage.importers.spaces import KnownSpace

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

T = TypeVar("T")
Content = tuple[int, float | None, tuple[str, ...], bytes]
"""What must be the same when a run comes again: state, value, active parameters, configuration."""


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Runs of one study as columns of n rows: a million small objects would cost more than to write them."""

    task: PastTask
    sets: tuple[ParameterSet, ...]
    keys: Sequence[str]
    states: Sequence[int]
    values: Sequence[float | None]
    set_indices: Sequence[int]  # which of the sets
    configurations: Sequence[bytes | None]
    details: Mapping[str, Sequence[Any]]  # of DETAILS; without those of which nothing is known
    curves: Mapping[int, Curve]  # by row
    user_attrs: Mapping[int, Mapping[str, Any]]  # by row
    labels: Sequence[str] | None = None  # what a report calls the rows; None: by their keys

    def __len__(self) -> int:
        return len(self.keys)

    def name(self, row: int) -> str:
        """What a row is called in a report."""
        return (self.labels or self.keys)[row]

    def contents(self) -> Iterator[Content]:
        """What must be the same when a run comes again, row by row."""
        names = [part.names for part in self.sets]
        active = (names[index] for index in self.set_indices)
        configurations = (configuration or b"" for configuration in self.configurations)
        return zip(self.states, self.values, active, configurations, strict=True)

    def of(self, rows: Sequence[int]) -> "Batch":
        """Some of the rows."""
        if isinstance(rows, range) and rows == range(len(self)):
            return self
        return replace(
            self,
            keys=_some(self.keys, rows),
            states=_some(self.states, rows),
            values=_some(self.values, rows),
            set_indices=_some(self.set_indices, rows),
            configurations=_some(self.configurations, rows),
            details={name: _some(column, rows) for name, column in self.details.items()},
            curves=_some_known(self.curves, rows),
            user_attrs=_some_known(self.user_attrs, rows),
            labels=None if self.labels is None else _some(self.labels, rows),
        )


def rows_of(task: PastTask, runs: Sequence[PastRun], space: KnownSpace, reject: Callable[[str, str], None]) -> Batch:
    """Runs as rows; `reject` is told which cannot be, and why. space: the task's."""
    drawn_from = space.distributions
    sets: dict[tuple[str, ...], int] = {}
    kept: list[PastRun] = []
    set_indices: list[int] = []
    configurations: list[bytes | None] = []
    for run in runs:
        problem = _problem(run, drawn_from)
        if problem is not None:
            reject(run.label or run.key, problem)
            continue
        names = tuple(name for name in drawn_from if name in run.params)
        kept.append(run)
        set_indices.append(sets.setdefault(names, len(sets)))
        internal = [float(drawn_from[name].to_internal_repr(run.params[name])) for name in names]
        configurations.append(pack(internal) if names else None)
    details = {name: [getattr(run, name) for run in kept] for name in DETAILS}
    return Batch(
        task=task,
        sets=tuple(map(space.subset, sets)),
        keys=[run.key for run in kept],
        states=[run.state.value for run in kept],
        values=[None if run.value is None or math.isnan(run.value) else float(run.value) for run in kept],
        set_indices=set_indices,
        configurations=configurations,
        details={name: column for name, column in details.items() if any(value is not None for value in column)},
        curves={row: run.curve for row, run in enumerate(kept) if run.curve},
        user_attrs={row: run.user_attrs for row, run in enumerate(kept) if run.user_attrs},
        labels=[run.label or run.key for run in kept],
    )


def rows_of_table(task: PastTask, columns: RunColumns, space: KnownSpace) -> Batch:
    """Columns as rows: configurations with the same parameters are packed together. space: the task's."""
    n, d = columns.internal.shape
    active = ~np.isnan(columns.internal)
    patterns, kinds = np.ones((1, d), bool), np.zeros(n, np.int64)
    if not active.all():
        patterns, kinds = np.unique(active, axis=0, return_inverse=True)
        kinds = kinds.reshape(-1)
    configurations: list[bytes | None] = [None] * n
    for kind, pattern in enumerate(patterns):
        width = 8 * int(pattern.sum())
        if not width:
            continue
        members = np.flatnonzero(kinds == kind)
        packed = columns.internal[np.ix_(members, pattern)].astype(DOUBLE).tobytes()
        for member, start in zip(members.tolist(), range(0, len(packed), width), strict=True):
            configurations[member] = packed[start : start + width]
    names = np.array(columns.names, dtype=object)
    return Batch(
        task=task,
        sets=tuple(space.subset(tuple(names[pattern])) for pattern in patterns),
        keys=columns.keys,
        states=_states(columns).tolist(),
        values=_or_none(columns.values),
        set_indices=kinds.tolist(),
        configurations=configurations,
        details=dict(_details(columns, n)),
        curves=columns.curves or {},
        user_attrs=columns.user_attrs or {},
        labels=columns.labels,
    )


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


def _states(columns: RunColumns) -> NDArray[np.int64]:
    if columns.states is not None:
        return columns.states
    has_value = ~np.isnan(columns.values)
    return np.where(has_value, TrialState.COMPLETE.value, TrialState.FAIL.value)


def _details(columns: RunColumns, n: int) -> Iterator[tuple[str, Sequence[Any]]]:
    """The columns of DETAILS of which something is known."""
    for name, column in (
        ("started_at", columns.started_at),
        ("finished_at", columns.finished_at),
        ("cost_seconds", columns.cost_seconds),
    ):
        if column is not None:
            yield name, _or_none(column)
    if columns.epochs is not None:
        yield "epochs", [None if epochs is None else int(epochs) for epochs in _or_none(columns.epochs)]
    if columns.seeds is not None:
        yield "seed", columns.seeds
    for name, known in (
        ("code_version", columns.code_versions),
        ("data_fingerprint", columns.data_fingerprints),
        ("hardware", columns.hardware),
        ("checkpoint", columns.checkpoints),
        ("error", columns.errors),
    ):
        if known:
            yield name, [known.get(row) for row in range(n)]


def _or_none(column: NDArray[np.float64]) -> list[float | None]:
    """A column with None where it is NaN."""
    unknown = np.isnan(column)
    found: list[float | None] = column.tolist()
    for row in np.flatnonzero(unknown).tolist():
        found[row] = None
    return found


def _some(column: Sequence[T], rows: Sequence[int]) -> Sequence[T]:
    if isinstance(rows, range):
        return column[rows.start : rows.stop]
    return [column[row] for row in rows]


def _some_known(known: Mapping[int, T], rows: Sequence[int]) -> Mapping[int, T]:
    return {place: known[row] for place, row in enumerate(rows) if row in known} if known else known
