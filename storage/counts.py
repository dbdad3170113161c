"""How much is there, and how much waits? What is counted for whoever watches the service."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from optuna.trial import TrialState
from sqlalchemy import ColumnElement, Connection, func, select

from storage.database import Store, database_now
from storage.machines import AWAY_SECONDS
from storage.models import background_jobs, launches, machines, outbox, trial_attributes, trials
from storage.retries import retried

MOST_PROPOSALS = 10_000  # read at once


@dataclass(frozen=True, kw_only=True)
class Waiting:
    """What the service has to do, and who does it."""

    launches: Mapping[str, int]  # by state
    jobs: Mapping[str, int]  # in the background, by state
    machines: int  # workers that have said something lately, and no goodbye
    messages: int  # that MLflow has yet to be told


@retried
def count_trials(store: Store) -> dict[str, int]:
    """All trials by state, running, complete, pruned, fail or waiting. Reads the whole table."""
    query = select(trials.c.state, func.count()).group_by(trials.c.state)
    with store.read() as connection:
        found = {row[0]: int(row[1]) for row in connection.execute(query)}
    return {state.name.lower(): found.get(state.value, 0) for state in TrialState}


@retried
def count_waiting(store: Store) -> Waiting:
    """What there is to do now."""
    present = machines.c.left_at.is_(None), machines.c.seen_at >= database_now() - AWAY_SECONDS
    with store.read() as connection:
        return Waiting(
            launches=_by(connection, launches.c.state),
            jobs=_by(connection, background_jobs.c.state),
            machines=int(connection.scalar(select(func.count()).select_from(machines).where(*present)) or 0),
            messages=int(connection.scalar(select(func.count()).select_from(outbox)) or 0),
        )


@retried
def newest_trial(store: Store) -> int:
    """The id of the trial that was made last; 0 where there is none."""
    with store.read() as connection:
        return int(connection.scalar(select(func.max(trials.c.id))) or 0)


@retried
def proposal_seconds(store: Store, *, receipt: str, after: int) -> dict[int, float]:
    """How long each proposal took, by the id of its trial, for those after that id.

    receipt: the system attribute that holds it as `seconds`.
    """
    query = (
        select(trial_attributes.c.trial_id, trial_attributes.c.value)
        .where(
            trial_attributes.c.trial_id > after, trial_attributes.c.kind == "system", trial_attributes.c.key == receipt
        )
        .order_by(trial_attributes.c.trial_id)
        .limit(MOST_PROPOSALS)
    )
    with store.read() as connection:
        receipts = {row.trial_id: json.loads(row.value) for row in connection.execute(query)}
    return {
        trial: float(content["seconds"])
        for trial, content in receipts.items()
        if isinstance(content, dict) and isinstance(content.get("seconds"), int | float)
    }


def _by(connection: Connection, state: ColumnElement[str]) -> dict[str, int]:
    return {row[0]: int(row[1]) for row in connection.execute(select(state, func.count()).group_by(state))}
