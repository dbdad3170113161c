"""The finished trials of one study as columns: what a figure of all of them takes."""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from optuna.distributions import BaseDistribution
from optuna.trial import TrialState
from sqlalchemy import select

from storage.database import Store
from storage.distributions import ParameterSets
from storage.errors import StudyNotFoundError
from storage.models import UNFINISHED, studies, trials
from storage.retries import retried


@dataclass(frozen=True, kw_only=True)
class StudyColumns:
    """n finished trials of a study, by number."""

    numbers: Sequence[int]  # n
    states: Sequence[TrialState]  # n
    values: Sequence[float]  # n; NaN where there is none
    params: Mapping[str, Sequence[Any]]  # n each, as the training code got them; None where inactive
    distributions: Mapping[str, BaseDistribution]  # the latest that was used under a name


@retried
def study_columns(store: Store, study_id: int, *, known: ParameterSets | None = None) -> StudyColumns:
    """The finished trials of a study. known: remembered parameter sets. Raises StudyNotFoundError."""
    sets = known or ParameterSets()
    query = (
        select(trials.c.number, trials.c.state, trials.c.value, trials.c.parameter_set_id, trials.c.configuration)
        .where(trials.c.study_id == study_id, trials.c.state.not_in(UNFINISHED))
        .order_by(trials.c.number)
    )
    with store.read() as connection:
        if connection.execute(select(studies.c.id).where(studies.c.id == study_id)).first() is None:
            raise StudyNotFoundError(f"There is no study with id {study_id}.")
        rows = connection.execute(query).all()
        loaded = sets.load(connection, {row.parameter_set_id for row in rows})
    members: dict[int, list[int]] = defaultdict(list)
    for place, row in enumerate(rows):
        members[row.parameter_set_id or 0].append(place)
    distributions: dict[str, BaseDistribution] = {}
    params: dict[str, list[Any]] = {}
    for set_id in sorted(members):
        distributions |= loaded[set_id].by_name
        decoded = loaded[set_id].decode_all([rows[place].configuration for place in members[set_id]])
        for name in loaded[set_id].names:
            column = params.setdefault(name, []) or [None] * len(rows)
            for place, configuration in zip(members[set_id], decoded, strict=True):
                column[place] = configuration[name]
            params[name] = column
    return StudyColumns(
        numbers=[row.number for row in rows],
        states=[TrialState(row.state) for row in rows],
        values=[math.nan if row.value is None else row.value for row in rows],
        params=params,
        distributions=distributions,
    )
