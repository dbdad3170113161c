"""The finished trials of a family as arrays: what statistics and the tuner compute with.

Notation: n trials, d parameters of the family's space.
"""

import gc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.trial import TrialState
from sqlalchemy import Connection, CursorResult, Select, bindparam, select

from storage.database import Store
from storage.distributions import ParameterSet, ParameterSets, distribution_of, unpack
from storage.errors import FamilyNotFoundError
from storage.families import Family, family_from
from storage.models import families, studies, trials

TRIALS_AT_A_TIME = 5_000  # read: what is small stays in the processor's cache
FINISHED = tuple(state.value for state in TrialState if state.is_finished())


@dataclass(frozen=True, kw_only=True, eq=False)
class TrialArrays:
    """Finished trials of one family, by study and number."""

    names: tuple[str, ...]  # the d parameters
    distributions: tuple[BaseDistribution, ...]  # of the family's space
    study_ids: NDArray[np.int64]  # (n,)
    numbers: NDArray[np.int64]  # (n,)
    states: NDArray[np.int64]  # (n,) of optuna.trial.TrialState
    values: NDArray[np.float64]  # (n,) of the first objective; NaN where there is none
    internal: NDArray[np.float64]  # (n, d) Optuna's internal values (a choice is its index); NaN where inactive
    costs: NDArray[np.float64]  # (n,) seconds; NaN where unknown

    def __len__(self) -> int:
        return len(self.values)

    def of(self, rows: Any) -> "TrialArrays":
        """Some of the trials."""
        return TrialArrays(
            names=self.names,
            distributions=self.distributions,
            study_ids=self.study_ids[rows],
            numbers=self.numbers[rows],
            states=self.states[rows],
            values=self.values[rows],
            internal=self.internal[rows],
            costs=self.costs[rows],
        )

    def params(self, row: int) -> dict[str, Any]:
        """The active parameters of a trial, as the training code got them."""
        return {
            name: distribution.to_external_repr(float(value))
            for name, distribution, value in zip(self.names, self.distributions, self.internal[row], strict=True)
            if not np.isnan(value)
        }

    @cached_property
    def by_study(self) -> dict[int, NDArray[np.intp]]:
        """The rows of each study."""
        ids, starts = np.unique(self.study_ids, return_index=True)
        rows = np.split(np.arange(len(self)), starts)[1:]  # what lies before the first start is empty
        return dict(zip(ids.tolist(), rows, strict=True))


def counted_values(states: NDArray[np.int64], values: NDArray[np.float64], *, maximize: bool) -> NDArray[np.float64]:
    """What finished trials (n,) count with: NaN for all of them where none says anything.

    A complete trial counts with its value, a pruned one with the value it had when it was stopped or the median of the
    complete ones, whichever is worse, and a failed one with the worst seen.
    """
    sign = -1.0 if maximize else 1.0
    losses = sign * values
    complete = np.isfinite(losses) & (states == TrialState.COMPLETE.value)
    pruned = np.isfinite(losses) & (states == TrialState.PRUNED.value)
    if not (complete | pruned).any():
        return np.full(len(values), np.nan)
    if complete.any():
        losses = np.where(pruned, np.maximum(losses, np.median(losses[complete])), losses)
    counted: NDArray[np.float64] = sign * np.where(complete | pruned, losses, losses[complete | pruned].max())
    return counted


def family_arrays(store: Store, family: str) -> TrialArrays:
    """All finished trials of a family, studies in quarantine left out. Raises FamilyNotFoundError."""
    with store.read() as connection:
        row = connection.execute(select(families).where(families.c.name == family)).first()
        if row is None:
            raise FamilyNotFoundError.named(family, connection.execute(select(families.c.name)).scalars())
        return read_arrays(connection, family_from(row), ParameterSets())


def read_arrays(
    connection: Connection,
    family: Family,
    known: ParameterSets,
    study_ids: Sequence[int] | None = None,
    *,
    trial_ids: Sequence[int] | None = None,
) -> TrialArrays:
    """The finished trials of a family, or of some of its studies, or some of its trials."""
    query, wanted = _FAMILY, dict[str, Any](family_id=family.family_id)
    if trial_ids is not None:
        query, wanted = _TRIALS, {"trial_ids": trial_ids}
    elif study_ids is not None:
        query, wanted = _STUDIES, {"study_ids": study_ids}
    names = tuple(family.space)
    distributions = tuple(distribution_of(name, fields) for name, fields in family.space.items())
    parts = [_no_trials(names, distributions)]
    result = connection.execute(query, wanted)
    with _without_collecting():
        for rows in _driver_rows(result):
            owners, numbers, states, values, costs, set_ids, configurations = zip(*rows, strict=True)
            sets = known.load(connection, set(set_ids))
            parts.append(
                TrialArrays(
                    names=names,
                    distributions=distributions,
                    study_ids=np.array(owners, dtype=np.int64),
                    numbers=np.array(numbers, dtype=np.int64),
                    states=np.array(states, dtype=np.int64),
                    values=np.array(values, dtype=np.float64),  # None becomes NaN
                    internal=configuration_matrix(set_ids, configurations, sets, names, distributions),
                    costs=np.array(costs, dtype=np.float64),
                )
            )
    return TrialArrays(
        names=names,
        distributions=distributions,
        study_ids=np.concatenate([part.study_ids for part in parts]),
        numbers=np.concatenate([part.numbers for part in parts]),
        states=np.concatenate([part.states for part in parts]),
        values=np.concatenate([part.values for part in parts]),
        internal=np.concatenate([part.internal for part in parts]),
        costs=np.concatenate([part.costs for part in parts]),
    )


def _driver_rows(result: CursorResult[Any]) -> Iterator[Sequence[tuple[Any, ...]]]:
    """Some rows at a time as the driver has them: nothing in them needs converting, and it takes half the time."""
    with result:
        while result.cursor is not None and (rows := result.cursor.fetchmany(TRIALS_AT_A_TIME)):
            yield rows


def _no_trials(names: tuple[str, ...], distributions: tuple[BaseDistribution, ...]) -> TrialArrays:
    integers, floats = np.empty(0, dtype=np.int64), np.empty(0)
    return TrialArrays(
        names=names,
        distributions=distributions,
        study_ids=integers,
        numbers=integers,
        states=integers,
        values=floats,
        internal=np.empty((0, len(names))),
        costs=floats,
    )


@contextmanager
def _without_collecting() -> Iterator[None]:
    """Without the garbage collector, which looks at many small tuples again and again: it doubled the time to read."""
    was_collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_collecting:
            gc.enable()


def configuration_matrix(
    set_ids: Sequence[int | None],
    configurations: Sequence[bytes | None],
    sets: Any,
    names: tuple[str, ...],
    distributions: tuple[BaseDistribution, ...],
) -> NDArray[np.float64]:
    """Configurations as rows, (n, d): parameter set by parameter set, for each is an array of its own."""
    matrix = np.full((len(set_ids), len(names)), np.nan)
    place = {name: column for column, name in enumerate(names)}
    ids = np.array([number or 0 for number in set_ids], dtype=np.int64)
    for number in np.unique(ids).tolist():
        parameter_set: ParameterSet = sets[number]
        rows = np.flatnonzero(ids == number)
        if not len(parameter_set):
            continue
        mine = configurations if len(rows) == len(ids) else [configurations[row] for row in rows.tolist()]
        joined = unpack(b"".join(filter(None, mine)))
        block = joined.reshape(len(rows), len(parameter_set))
        for column, (name, distribution) in enumerate(parameter_set.by_name.items()):
            if name in place:
                wanted = distributions[place[name]]
                matrix[rows, place[name]] = _translated(block[:, column], distribution, wanted)
    return matrix


def _translated(
    values: NDArray[np.float64], drawn_from: BaseDistribution, wanted: BaseDistribution
) -> NDArray[np.float64]:
    """Internal values in terms of the family's distribution; NaN for a choice that the family does not have."""
    if not isinstance(drawn_from, CategoricalDistribution) or drawn_from == wanted:
        return values
    if not isinstance(wanted, CategoricalDistribution):
        return np.full(len(values), np.nan)
    place = [wanted.choices.index(choice) if choice in wanted.choices else np.nan for choice in drawn_from.choices]
    return np.array(place)[values.astype(np.intp)]


_COLUMNS: Select[Any] = select(
    trials.c.study_id,
    trials.c.number,
    trials.c.state,
    trials.c.value,
    trials.c.cost_seconds,
    trials.c.parameter_set_id,
    trials.c.configuration,
).where(trials.c.state.in_(FINISHED))
_BY_NUMBER = (trials.c.study_id, trials.c.number)
_FAMILY = (
    _COLUMNS.join(studies)
    .where(studies.c.family_id == bindparam("family_id"), studies.c.quarantine.is_(None))
    .order_by(studies.c.id, trials.c.number)  # by the trials' column, SQLite would sort them all
)
_STUDIES = _COLUMNS.where(trials.c.study_id.in_(bindparam("study_ids", expanding=True))).order_by(*_BY_NUMBER)
_TRIALS = _COLUMNS.where(trials.c.id.in_(bindparam("trial_ids", expanding=True))).order_by(*_BY_NUMBER)
