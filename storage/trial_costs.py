"""What trials of past studies have cost: some trials of each, and no more than that is read."""

import json
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from optuna.trial import TrialState
from sqlalchemy import Connection, bindparam, select

from storage.arrays import TrialArrays, read_arrays
from storage.database import Store
from storage.distributions import ParameterSets
from storage.families import Family
from storage.models import trial_attributes, trials

SECONDS = "seconds"  # the cost that every trial has; any other is a user attribute


def trial_costs(
    store: Store, family: Family, study_ids: Sequence[int], cost: str, *, most: int, known: ParameterSets
) -> dict[int, TrialArrays]:
    """Complete trials of some studies of a family, at most so many of each, with what they have cost, by study.

    They are spread evenly over a study. cost: `SECONDS`, or a user attribute; those that have no such number are left
    out, and so are studies of which none has.
    """
    with store.read() as connection:
        ids = [trial_id for study_id in study_ids for trial_id in _some_of(connection, study_id, most)]
        if not ids:
            return {}
        arrays = read_arrays(connection, family, known, trial_ids=ids)
        costs = _seconds(connection, ids) if cost == SECONDS else _attributes(connection, ids, cost)
    found = [costs.get(key, np.nan) for key in zip(arrays.study_ids.tolist(), arrays.numbers.tolist(), strict=True)]
    arrays = replace(arrays, costs=np.array(found, dtype=np.float64))
    arrays = arrays.of(np.isfinite(arrays.costs))
    return {study_id: arrays.of(rows) for study_id, rows in arrays.by_study.items()} if len(arrays) else {}


def _some_of(connection: Connection, study_id: int, most: int) -> list[int]:
    ids = connection.execute(_COMPLETE, {"study_id": study_id}).scalars().all()
    return [ids[place] for place in np.unique(np.linspace(0, len(ids) - 1, most).astype(np.intp))] if ids else []


def _seconds(connection: Connection, ids: Sequence[int]) -> dict[tuple[int, int], float]:
    """From the start to the end, as Optuna tells a trial's duration; else what was recorded."""
    found = {}
    for row in connection.execute(_TIMES, {"ids": ids}):
        if row.started_at is not None and row.finished_at is not None:
            found[row.study_id, row.number] = row.finished_at - row.started_at
        elif row.cost_seconds is not None:
            found[row.study_id, row.number] = row.cost_seconds
    return found


def _attributes(connection: Connection, ids: Sequence[int], name: str) -> dict[tuple[int, int], float]:
    found = {}
    for row in connection.execute(_ATTRIBUTES, {"ids": ids, "key": name}):
        value = json.loads(row.value)
        if isinstance(value, int | float) and not isinstance(value, bool):
            found[row.study_id, row.number] = float(value)
    return found


_COMPLETE = (
    select(trials.c.id)
    .where(trials.c.study_id == bindparam("study_id"), trials.c.state == TrialState.COMPLETE.value)
    .order_by(trials.c.number)
)
_TIMES = select(
    trials.c.study_id, trials.c.number, trials.c.started_at, trials.c.finished_at, trials.c.cost_seconds
).where(trials.c.id.in_(bindparam("ids", expanding=True)))
_ATTRIBUTES = (
    select(trials.c.study_id, trials.c.number, trial_attributes.c.value)
    .join(trials, trials.c.id == trial_attributes.c.trial_id)
    .where(
        trial_attributes.c.trial_id.in_(bindparam("ids", expanding=True)),
        trial_attributes.c.kind == "user",
        trial_attributes.c.key == bindparam("key"),
    )
)
