"""The learning curves of past studies: some trials of each, and no more than that is read."""

import json
from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from optuna.trial import TrialState
from sqlalchemy import Connection, bindparam, select

from storage.database import Store
from storage.models import intermediate_values, studies, trials
from storage.retries import retried

TELLING = (TrialState.COMPLETE.value, TrialState.PRUNED.value)


@dataclass(frozen=True, kw_only=True, eq=False)
class StoredCurve:
    """What one trial reported, and what became of it."""

    number: int
    state: TrialState  # complete or pruned
    value: float  # of the first objective; NaN where there is none
    steps: NDArray[np.float64]  # (k,) ascending
    values: NDArray[np.float64]  # (k,) NaN included


@retried
def stored_curves(store: Store, wanted: Mapping[int, int]) -> dict[int, list[StoredCurve]]:
    """Curves of studies by their id, at most so many of each: spread evenly over its trials, in their order.

    Trials that reported nothing are left out, and so are failed ones.
    """
    with store.read() as connection:
        return {study_id: _of_study(connection, study_id, most) for study_id, most in wanted.items()}


@retried
def studies_of_folds(store: Store, study_ids: Collection[int]) -> set[int]:
    """Which of these studies report after each fold of cross-validation: their curves are none of a training."""
    with store.read() as connection:
        specs = connection.execute(_SPECS, {"ids": list(study_ids)})
        trainers = {row.id: json.loads(row.spec).get("trainer") or {} for row in specs}
    return {study_id for study_id, trainer in trainers.items() if trainer.get("folds", 1) > 1}


def _of_study(connection: Connection, study_id: int, most: int) -> list[StoredCurve]:
    rows = connection.execute(_TRIALS, {"study_id": study_id}).all()
    stride = max(1, len(rows) // max(most, 1))
    chosen = rows[::stride][:most]
    reported: dict[int, list[tuple[int, float]]] = defaultdict(list)
    for trial_id, step, value in connection.execute(_REPORTS, {"ids": [row.id for row in chosen]}):
        reported[trial_id].append((step, np.nan if value is None else value))
    return [_curve(row, reported[row.id]) for row in chosen if reported[row.id]]


def _curve(row: Any, reports: list[tuple[int, float]]) -> StoredCurve:
    steps, values = np.array(sorted(reports), dtype=np.float64).T
    return StoredCurve(
        number=row.number,
        state=TrialState(row.state),
        value=np.nan if row.value is None else float(row.value),
        steps=steps,
        values=values,
    )


_SPECS = select(studies.c.id, studies.c.spec).where(
    studies.c.id.in_(bindparam("ids", expanding=True)), studies.c.spec.is_not(None)
)
_TRIALS = (
    select(trials.c.id, trials.c.number, trials.c.state, trials.c.value)
    .where(trials.c.study_id == bindparam("study_id"), trials.c.state.in_(TELLING))
    .order_by(trials.c.number)
)
_REPORTS = select(intermediate_values.c.trial_id, intermediate_values.c.step, intermediate_values.c.value).where(
    intermediate_values.c.trial_id.in_(bindparam("ids", expanding=True))
)
